"""``execdrivers apparmor``: the default profile: see it, load it into the kernel, remove it."""

from __future__ import annotations

from argparse import Namespace

from execdrivers.cli.parsing import Command, Parser, UsageError

__all__ = ["COMMANDS"]

_ACTIONS = ("load", "unload", "show")


def _parser() -> Parser:
    parser = Parser(
        "execdrivers apparmor",
        "load|unload|show",
        interspersed=True,
        description="The AppArmor profile of containers that name none: load it into the kernel (again, to replace an\n"
        "older one), remove it, or show its text. Root's containers load it by themselves; those of ordinary users\n"
        "have it once it is loaded.",
    )
    parser.common()
    return parser


def apparmor(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Do it, and say so."""
    if len(operands) != 1 or operands[0] not in _ACTIONS:
        raise UsageError(f"apparmor takes one of {', '.join(_ACTIONS)}", remedy="execdrivers apparmor --help")
    from execdrivers.apparmor import DEFAULT, PROFILE, load, unload

    if operands == ["show"]:
        print(PROFILE, end="")
        return 0
    if operands == ["load"]:
        load()
    else:
        unload()
    print(f"{DEFAULT} {operands[0]}ed")
    return 0


COMMANDS = {"apparmor": Command(_parser, apparmor)}
