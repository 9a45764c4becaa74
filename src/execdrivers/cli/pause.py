"""``execdrivers pause`` and ``unpause``: containers that stand still."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from execdrivers.cli.containers import for_each, for_names
from execdrivers.cli.parsing import Command, Parser
from execdrivers.errors import InvalidState

if TYPE_CHECKING:
    from execdrivers.engine import Engine

__all__ = ["COMMANDS"]


def _pause_parser() -> Parser:
    parser = for_names("pause", "Freeze every process of containers, until `unpause`.", "NAME…")
    parser.common()
    return parser


def pause(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the name of each that stands still now."""

    def pause_one(engine: Engine, name: str) -> str:
        container = engine.get(name)
        if container.state == "paused":
            raise InvalidState(f"container {name!r} is paused already", remedy=f"execdrivers unpause {name}")
        container.pause()
        return name

    return for_each(parser, options, operands, pause_one)


def _unpause_parser() -> Parser:
    parser = for_names("unpause", "Let containers that were paused go on.", "NAME…")
    parser.common()
    return parser


def unpause(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the name of each that goes on."""

    def resume(engine: Engine, name: str) -> str:
        container = engine.get(name)
        if container.state == "running":
            raise InvalidState(f"container {name!r} is not paused", remedy="execdrivers ps -f status=paused")
        container.resume()
        return name

    return for_each(parser, options, operands, resume)


COMMANDS = {"pause": Command(_pause_parser, pause), "unpause": Command(_unpause_parser, unpause)}
