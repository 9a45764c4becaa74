"""``execdrivers gc``: what a crash left."""

from __future__ import annotations

import json
from argparse import Namespace

from execdrivers.cli.containers import engine_of
from execdrivers.cli.parsing import Command, Parser, UsageError

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = Parser(
        "execdrivers gc",
        "[OPTIONS]",
        interspersed=True,
        description="Remove what a crash left below the state root: containers whose maker died while making them,\n"
        "those that were to end with a program that is gone, and what detached ones that have ended still hold.\n"
        "Nothing else: containers of programs that live, detached ones that run and records of those that ended\n"
        "stay. Exit status 1 when something could not be removed.",
    )
    add = parser.group("Options")
    add("--dry-run", action="store_true", help="only show what would be removed")
    add("--format", choices=("table", "json"), metavar="table|json", help="json: one object a line")
    parser.common()
    return parser


def gc(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print what was removed, and why."""
    if operands:
        raise UsageError(f"gc takes no names, but {operands[0]!r} was given", remedy=f"execdrivers rm {operands[0]}")
    given = vars(options)
    from execdrivers.cli import tell

    with engine_of(options) as engine:
        found = engine.gc(dry_run="dry_run" in given)
    removed = [item for item in found if item.error is None]
    if given.get("format") == "json":
        for item in found:
            error = {"error": item.error.message} if item.error is not None else {}
            print(json.dumps({"name": item.id, "what": item.what, "why": item.why, **error}, sort_keys=True))
    elif removed:
        from execdrivers.cli.table import show

        show(("NAME", "WHAT", "WHY"), [(item.id, item.what, item.why) for item in removed])
    for item in found:
        if item.error is not None:
            tell(item.error)
    return 0 if len(removed) == len(found) else 1


COMMANDS = {"gc": Command(_parser, gc)}
