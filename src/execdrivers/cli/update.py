"""``execdrivers update``: limits of containers that run."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from execdrivers.cli.build import Request
from execdrivers.cli.containers import for_each, for_names
from execdrivers.cli.flags import add_live_limits
from execdrivers.cli.parsing import Command, Parser, UsageError, refusal
from execdrivers.errors import SpecError

if TYPE_CHECKING:
    from execdrivers.container import Container
    from execdrivers.engine import Engine

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = for_names("update", "Change limits of containers while they run; those that are not given stay.")
    add = parser.group("Limits", "SIZE: bytes, or with a unit: 64m, 1.5g, 512KiB")
    add_live_limits(add)
    add(
        "--restart",
        action=refusal("nothing is there to start a container again", "a supervisor that calls `execdrivers run`"),
    )
    parser.common()
    return parser


def update(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the name of each that was changed."""
    request = Request(parser, options, ())
    limits = request.limits()
    if not limits:
        raise UsageError("update was given no limit", remedy=f"{parser.prog} -m 128m NAME")

    def change(engine: Engine, name: str) -> str:
        container = engine.get(name)
        with request.naming_options():
            try:
                container.update(**_merged(container, limits))
            except SpecError as error:
                raise (error if error.field.startswith("resources") else error.within("resources")) from None
        return name

    return for_each(parser, options, operands, change)


def _merged(container: Container, limits: dict[str, Any]) -> dict[str, Any]:
    """The weight of block I/O is one of several settings; the others stay."""
    current = container.spec.resources.block_io
    if "block_io" not in limits or current is None:
        return limits
    import attrs

    return {**limits, "block_io": attrs.evolve(current, **limits["block_io"])}


COMMANDS = {"update": Command(_parser, update)}
