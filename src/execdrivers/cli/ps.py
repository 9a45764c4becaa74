"""``execdrivers ps``: which containers there are."""

from __future__ import annotations

import re
import shlex
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from execdrivers.cli.containers import LIVE, engine_of
from execdrivers.cli.parsing import Command, Parser, UsageError, integer
from execdrivers.cli.table import ago, duration, elide, show
from execdrivers.cli.template import shaper

if TYPE_CHECKING:
    from execdrivers.record import Summary

__all__ = ["COMMANDS"]

#: Characters of the command that the table shows, as docker's.
_COMMAND_WIDTH = 20
_STATES = ("creating", "created", "running", "paused", "stopped", "exited", "damaged")


def _parser() -> Parser:
    parser = Parser("execdrivers ps", "[OPTIONS]", interspersed=True, description="List containers that live.")
    add = parser.group("Options")
    add("-a", "--all", action="store_true", help="those that have ended as well")
    add(
        "-f",
        "--filter",
        action="append",
        metavar="KEY=VALUE",
        help="only those of that name (a regular expression), status, driver or exited (exit status); of one key any, "
        "of several all must hold",
    )
    add("-n", "--last", type=integer, metavar="N", help="the N that were made last, in whatever state")
    add("-l", "--latest", action="store_true", help="the one that was made last: -n 1")
    add("-q", "--quiet", action="store_true", help="only their names")
    add(
        "--format",
        metavar="table|json|TEMPLATE",
        help="json: one object a line; or a text such as '{{.name}} {{.state}}'",
    )
    add("--no-trunc", action="store_true", help="commands in full")
    parser.common()
    return parser


def ps(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Newest first, as docker has it."""
    if operands:
        raise UsageError(
            f"ps takes no names, but {operands[0]!r} was given", remedy=f"execdrivers ps --filter name={operands[0]}"
        )
    given = vars(options)
    wanted = _filters(given.get("filter", ()))
    shape = given.get("format", "table")
    line = None if shape == "table" else shaper(shape)
    last = given.get("last", 1 if "latest" in given else None)
    if last is not None and last < 0:
        raise UsageError(f"-n/--last: {last} is not a number of containers", remedy="ps -n 5")
    # A filter by state says which are meant, as with docker.
    everything = "all" in given or last is not None or "status" in wanted or "exited" in wanted
    with engine_of(options) as engine:
        found = engine.list()
    found.sort(key=lambda summary: summary.created_at or 0.0, reverse=True)
    found = [
        summary
        for summary in found
        if (everything or summary.state in LIVE)
        and all(any(test(summary) for test in tests) for tests in wanted.values())
    ][:last]
    if "quiet" in given:
        for summary in found:
            print(summary.name)
    elif line is not None:
        for summary in found:
            print(line(_summary(summary)))
    else:
        width = None if "no_trunc" in given else _COMMAND_WIDTH
        columns = ("NAME", "DRIVER", "COMMAND", "CREATED", "STATUS", "PID")
        show(columns, [_row(summary, width, time.time()) for summary in found], colour=_colour)
    return 0


def _filters(texts: Iterable[str]) -> dict[str, list[Callable[[Summary], bool]]]:
    """Key → tests of which one must hold."""
    makers = {"name": _by_name, "status": _by_status, "driver": _by_driver, "exited": _by_exit}
    tests: dict[str, list[Callable[[Summary], bool]]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in makers:
            remedy = "name=web, status=running, driver=native or exited=0"
            raise UsageError(f"-f/--filter: {text!r} is not supported", remedy=remedy)
        tests.setdefault(key, []).append(makers[key](value))
    return tests


def _by_name(text: str) -> Callable[[Summary], bool]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"-f/--filter: {text!r} is not a regular expression: {error}", remedy="name=web") from None
    return lambda summary: pattern.search(summary.name) is not None


def _by_status(text: str) -> Callable[[Summary], bool]:
    if text not in _STATES:
        raise UsageError(f"-f/--filter: {text!r} is not a status", remedy=", ".join(_STATES))
    if text == "damaged":
        return lambda summary: summary.error is not None
    return lambda summary: summary.state == ("stopped" if text == "exited" else text)


def _by_driver(text: str) -> Callable[[Summary], bool]:
    return lambda summary: summary.driver == text


def _by_exit(text: str) -> Callable[[Summary], bool]:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"-f/--filter: {text!r} is not an exit status", remedy="exited=0, exited=137")
    status = int(text)
    return lambda summary: summary.state == "stopped" and summary.exit is not None and summary.exit.status == status


def _row(summary: Summary, width: int | None, now: float) -> tuple[str, ...]:
    command = shlex.join(summary.args)
    return (
        summary.name,
        summary.driver,
        f'"{elide(command, width) if width else command}"',
        ago(summary.created_at, now),
        _status(summary, now),
        str(summary.pid or ""),
    )


def _status(summary: Summary, now: float) -> str:
    if summary.error is not None:
        return "Damaged record"
    if summary.state in ("running", "paused"):
        up = f"Up {duration(now - (summary.started_at or now))}"
        return f"{up} (paused)" if summary.state == "paused" else up
    end = summary.exit
    if summary.state != "stopped" or end is None:
        return (summary.state or "?").capitalize()
    why = f", {end.reason}" if end.reason not in ("exited", "signaled") else ""
    return f"Exited ({end.status}{why}) {ago(summary.finished_at, now)}"


def _colour(column: int, text: str) -> str | None:
    if column != 4:
        return None
    return "green" if text.startswith("Up") else "dim" if text.startswith("Exited (0)") else "yellow"


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "name": summary.name,
        "driver": summary.driver,
        "args": list(summary.args),
        "state": summary.state,
        "pid": summary.pid,
        "detached": summary.detached,
        "created_at": summary.created_at,
        "started_at": summary.started_at,
        "finished_at": summary.finished_at,
        "exit": summary.exit.to_dict() if summary.exit else None,
        **({"error": summary.error.message} if summary.error else {}),
    }


COMMANDS = {"ps": Command(_parser, ps)}
