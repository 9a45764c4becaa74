"""``execdrivers drivers``: which drivers there are, what each enforces here, and what would fix the rest."""

from __future__ import annotations

import json
import shutil
import textwrap
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from execdrivers.cli.parsing import Command, Parser, UsageError
from execdrivers.cli.table import on_terminal, paint, printable, show
from execdrivers.features import FEATURES

if TYPE_CHECKING:
    from execdrivers.driver import Probe
    from execdrivers.registry import Registry

__all__ = ["COMMANDS"]

_YES, _NO = "yes", "no"


def _parser() -> Parser:
    parser = Parser(
        "execdrivers drivers",
        "[OPTIONS] [NAME…]",
        interspersed=True,
        description="The drivers, the strongest first: which can run here, and how many features each enforces. By\n"
        "default (--driver auto) `run` takes the first that enforces all that is asked for, but never chroot.",
    )
    add = parser.group("Options")
    add("-v", "--features", action="store_true", help="list the features, and why others cannot be had here")
    add("--json", action="store_true", help="everything, as JSON")
    parser.common()
    return parser


def drivers(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the table, or JSON; plugins that failed come after it."""
    # Plugins that fail are listed below, so there is no need to log them as well.
    import logging

    from execdrivers.registry import default_registry

    logging.getLogger("execdrivers").addHandler(logging.NullHandler())
    registry = default_registry()
    known = registry.names()
    for name in operands:
        if name not in known and name not in registry.errors:
            raise UsageError(f"there is no driver {name!r}", remedy=f"one of {', '.join(known)}")
    names = [name for name in known if not operands or name in operands]
    probes = {name: registry.probe(name) for name in names}
    if "json" in vars(options):
        print(json.dumps(_everything(registry, probes), indent=2, sort_keys=True))
        return 0
    rows = [
        (name, _YES if probe.available else _NO, probe.version or "?", f"{len(probe.features)} of {len(FEATURES)}")
        for name, probe in probes.items()
    ]
    show(("NAME", "AVAILABLE", "VERSION", "FEATURES"), rows, colour=_colour)
    for line in _below(registry, probes, detailed="features" in vars(options)):
        print(line)
    return 0


def _colour(column: int, text: str) -> str | None:
    return {_YES: "green", _NO: "yellow"}.get(text.strip()) if column == 1 else None


def _below(registry: Registry, probes: dict[str, Probe], *, detailed: bool) -> Iterator[str]:
    for name, probe in probes.items():
        for problem in () if probe.available else probe.problems:
            yield ""
            yield from _told(name, "bold", f"cannot run here: {problem.reason}", problem.remedy)
        if detailed:
            yield from _detail(registry, name, probe)
    for name, error in registry.errors.items():
        yield ""
        yield from _told(name, "bold", f"cannot be used: {error.message}", error.remedy)


def _detail(registry: Registry, name: str, probe: Probe) -> Iterator[str]:
    yield ""
    yield f"{paint(name, 'bold')}: {registry.get(name).summary}"
    yield from _wrapped(sorted(probe.features))
    others = sorted(set(FEATURES) - probe.features - set(probe.missing))
    yield from _wrapped(["not:", *others]) if others else ()
    for feature, problem in sorted(probe.missing.items()):
        yield from _told(f"  not {feature}:", "yellow", problem.reason, problem.remedy)


def _told(name: str, colour: str, reason: str, remedy: str) -> Iterator[str]:
    yield f"{paint(printable(name), colour)} {printable(reason)}"
    if remedy:
        yield f"  try: {printable(remedy)}"


def _wrapped(words: Iterable[str]) -> list[str]:
    width = shutil.get_terminal_size().columns if on_terminal() else 100
    indent = "  "
    return textwrap.wrap(
        " ".join(words), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _everything(registry: Registry, probes: dict[str, Probe]) -> dict[str, Any]:
    return {
        "drivers": [
            {
                "name": name,
                "summary": registry.get(name).summary,
                "strength": registry.get(name).strength,
                "interface_version": list(registry.get(name).interface_version),
                "available": probe.available,
                "version": probe.version,
                "features": sorted(probe.features),
                "missing": {feature: _problem(problem) for feature, problem in probe.missing.items()},
                "problems": [_problem(problem) for problem in probe.problems],
                "facts": dict(probe.facts),
            }
            for name, probe in probes.items()
        ],
        "errors": {name: {"reason": error.message, "remedy": error.remedy} for name, error in registry.errors.items()},
    }


def _problem(problem: Any) -> dict[str, str]:
    return {"reason": problem.reason, "remedy": problem.remedy}


COMMANDS = {"drivers": Command(_parser, drivers)}
