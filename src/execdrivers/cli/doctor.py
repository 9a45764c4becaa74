"""``execdrivers doctor``: what this machine lets us do, found out by trying, and what would make it better."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING

import attrs

from execdrivers.cli.parsing import Command, Parser, UsageError
from execdrivers.cli.table import paint, printable

if TYPE_CHECKING:
    from execdrivers.doctor import Check

__all__ = ["COMMANDS"]

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


def _parser() -> Parser:
    parser = Parser(
        "execdrivers doctor",
        "[OPTIONS]",
        description="Try what containers take of this machine, as the user who asks: namespaces, mounts, cgroups,\n"
        "drivers, a container. Say what cannot be had, why, and the command that would mend it. Changes nothing.\n"
        "Exit status 1 when something keeps containers from running at all.",
    )
    add = parser.group("Options")
    add("-v", "--verbose", action="store_true", help="say of each check what was tried")
    add("--json", action="store_true", help="everything, as JSON")
    parser.common()
    return parser


def doctor(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print a line for each check as it is made, the remedy below it."""
    if operands:
        raise UsageError("doctor takes no operands", remedy="execdrivers doctor --help")
    import logging

    from execdrivers.doctor import examine
    from execdrivers.registry import default_registry
    from execdrivers.store import default_root

    # A plugin that fails is a check of its own.
    logging.getLogger("execdrivers").addHandler(logging.NullHandler())
    given = vars(options)
    checks = []
    for check in examine(options.root or default_root(), default_registry()):
        checks.append(check)
        if "json" not in given:
            _tell(check, verbose="verbose" in given)
    if "json" in given:
        print(json.dumps([attrs.asdict(check) for check in checks], indent=2))
    else:
        counts = {result: sum(check.result == result for check in checks) for result in _COLOURS}
        print(f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['problem']} problems")
    return int(any(check.result == "problem" for check in checks))


def _tell(check: Check, *, verbose: bool) -> None:
    result = paint(f"{check.result:<8}", _COLOURS[check.result])
    print(f"{result} {paint(check.name, 'bold')}: {printable(check.found)}", flush=True)
    if verbose:
        print(f"         {paint('tried:', 'dim')} {printable(check.tried)}")
    if check.remedy:
        print(f"         try: {printable(check.remedy)}")


COMMANDS = {"doctor": Command(_parser, doctor)}
