"""``execdrivers wait``: the end of containers."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from execdrivers.cli.containers import for_each, for_names
from execdrivers.cli.parsing import Command, Parser

if TYPE_CHECKING:
    from execdrivers.engine import Engine

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = for_names(
        "wait",
        "Wait for the end of containers and print the exit status of each, as `run` has it, in the order of the\n"
        "names. Of those that have ended it is printed at once.",
        "NAME…",
    )
    parser.common()
    return parser


def wait(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Several are waited for at once: of one that is removed at its end nothing could be learned later."""

    def wait_for(engine: Engine, name: str) -> str:
        end = engine.get(name).wait()
        if end.reason == "unknown":
            print(f"execdrivers: {name} {end}", file=sys.stderr, flush=True)
        return str(end.status)

    return for_each(parser, options, operands, wait_for, at_once=True)


COMMANDS = {"wait": Command(_parser, wait)}
