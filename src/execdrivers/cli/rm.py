"""``execdrivers rm``: containers that are wanted no more."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from execdrivers.cli.containers import for_each, for_names
from execdrivers.cli.parsing import Command, Parser
from execdrivers.errors import InvalidState

if TYPE_CHECKING:
    from execdrivers.engine import Engine

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = for_names("rm", "Remove containers that have ended, with all that is left of them.")
    add = parser.group("Options")
    add("-f", "--force", action="store_true", help="kill those that still live; no error for those that do not exist")
    parser.common()
    return parser


def rm(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the name of each that was removed."""

    def remove(engine: Engine, name: str) -> str:
        try:
            engine.delete(name, force="force" in vars(options))
        except InvalidState as error:
            error.remedy = f"execdrivers rm -f {name}"
            raise
        return name

    return for_each(parser, options, operands, remove)


COMMANDS = {"rm": Command(_parser, rm)}
