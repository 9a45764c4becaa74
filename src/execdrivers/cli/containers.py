"""``execdrivers ps``, ``inspect``, ``kill`` and ``rm``: containers that exist."""

from __future__ import annotations

import json
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from execdrivers.cli.parsing import Command, Parser, UsageError
from execdrivers.cli.table import ago, duration, elide, show
from execdrivers.errors import ExecDriverError, InvalidState, SpecError

if TYPE_CHECKING:
    from execdrivers.container import Container
    from execdrivers.engine import Engine
    from execdrivers.record import Summary

__all__ = ["COMMANDS"]

#: Characters of the command that the table shows, as docker's.
_COMMAND_WIDTH = 20
_LIVE = ("created", "running", "paused")


@contextmanager
def _engine(options: Namespace) -> Iterator[Engine]:
    from execdrivers.engine import Engine

    engine = Engine(root=options.root)
    try:
        yield engine
    finally:
        engine.close()


# ps


def _ps_parser() -> Parser:
    parser = Parser("execdrivers ps", "[OPTIONS]", interspersed=True, description="List containers that live.")
    add = parser.group("Options")
    add("-a", "--all", action="store_true", help="those that have ended as well")
    add("-q", "--quiet", action="store_true", help="only their names")
    add("--format", choices=("table", "json"), metavar="table|json", help="json: one object a line")
    add("--no-trunc", action="store_true", help="commands in full")
    parser.common()
    return parser


def ps(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Newest first, as docker has it."""
    if operands:
        raise UsageError(
            f"ps takes no names, but {operands[0]!r} was given", remedy=f"execdrivers inspect {operands[0]}"
        )
    given = vars(options)
    with _engine(options) as engine:
        found = [summary for summary in engine.list() if "all" in given or summary.state in _LIVE]
    found.sort(key=lambda summary: summary.created_at or 0.0, reverse=True)
    if "quiet" in given:
        for summary in found:
            print(summary.name)
    elif given.get("format") == "json":
        for summary in found:
            print(json.dumps(_summary(summary), sort_keys=True))
    else:
        width = None if "no_trunc" in given else _COMMAND_WIDTH
        columns = ("NAME", "DRIVER", "COMMAND", "CREATED", "STATUS", "PID")
        show(columns, [_row(summary, width, time.time()) for summary in found], colour=_colour)
    return 0


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
        "created_at": summary.created_at,
        "started_at": summary.started_at,
        "finished_at": summary.finished_at,
        "exit": summary.exit.to_dict() if summary.exit else None,
        **({"error": summary.error.message} if summary.error else {}),
    }


# inspect


def _inspect_parser() -> Parser:
    description = "All that is known of containers, as a JSON array: spec, state, exit, guarantees, processes."
    return _for_names("inspect", description)


def inspect(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the array, without those that do not exist."""
    details: list[dict[str, Any]] = []
    status = _for_each(parser, options, operands, lambda engine, name: details.append(_details(engine.get(name))))
    print(json.dumps(details, indent=2))
    return status


def _details(container: Container) -> dict[str, Any]:
    state = container.state
    return {
        "name": container.name,
        "driver": container.driver,
        "state": state,
        "pid": container.pid,
        "pids": _pids(container) if state in _LIVE else [],
        "created_at": container.created_at,
        "started_at": container.started_at,
        "finished_at": container.finished_at,
        "exit": container.exit.to_dict() if container.exit else None,
        "returncode": container.returncode,
        "stdio": dict(container.stdio),
        "guarantees": container.guarantees,
        "spec": container.spec.to_dict(),
    }


def _pids(container: Container) -> list[int] | None:
    """None where the driver cannot tell."""
    try:
        return list(container.pids())
    except ExecDriverError:
        return None


# kill


def _kill_parser() -> Parser:
    parser = Parser(
        "execdrivers kill",
        "[-s SIGNAL] NAME…",
        interspersed=True,
        description="Send a signal to the first process of containers. KILL ends every process of them.",
    )
    add = parser.group("Options")
    add("-s", "--signal", type=_signal, metavar="SIGNAL", help="name or number (default: KILL)")
    parser.common()
    return parser


def kill(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the name of each that was signalled."""
    import signal

    number = vars(options).get("signal", signal.SIGKILL)

    def kill_one(engine: Engine, name: str) -> None:
        container = engine.get(name)
        if container.state == "stopped":
            raise InvalidState(f"container {name!r} has ended", remedy=f"execdrivers rm {name}")
        if number == signal.SIGKILL:
            container.kill()
        else:
            container.signal(number)
        print(name)

    return _for_each(parser, options, operands, kill_one)


def _signal(text: str) -> int:
    """``KILL``, ``sigkill`` or ``9``."""
    from execdrivers.units import parse_signal

    try:
        return parse_signal(text)
    except SpecError as error:
        raise UsageError(f"-s/--signal: {text!r} is not a signal", remedy=error.remedy) from None


# rm


def _rm_parser() -> Parser:
    return _for_names("rm", "Remove containers that have ended, with all that is left of them.", force=True)


def rm(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the name of each that was removed."""

    def remove(engine: Engine, name: str) -> None:
        try:
            engine.delete(name, force="force" in vars(options))
        except InvalidState as error:
            error.remedy = f"execdrivers rm -f {name}"
            raise
        print(name)

    return _for_each(parser, options, operands, remove)


# What they share


def _for_names(name: str, description: str, *, force: bool = False) -> Parser:
    parser = Parser(f"execdrivers {name}", "[OPTIONS] NAME…", interspersed=True, description=description)
    if force:
        add = parser.group("Options")
        add(
            "-f",
            "--force",
            action="store_true",
            help="kill those that still live; no error for those that do not exist",
        )
    parser.common()
    return parser


def _for_each(parser: Parser, options: Namespace, names: list[str], act: Callable[[Engine, str], None]) -> int:
    """An error of one container is told and does not keep the others from their turn; then the status is 1."""
    from execdrivers.cli import tell
    from execdrivers.errors import ContainerNotFound

    if not names:
        raise UsageError(f"{parser.prog} needs the name of a container", remedy="execdrivers ps -a lists them")
    status = 0
    with _engine(options) as engine:
        for name in names:
            try:
                act(engine, name)
            except ContainerNotFound as error:
                if "force" not in vars(options):
                    tell(error)
                    status = 1
            except ExecDriverError as error:
                tell(error)
                status = 1
            sys.stdout.flush()
    return status


COMMANDS = {
    "ps": Command(_ps_parser, ps),
    "inspect": Command(_inspect_parser, inspect),
    "kill": Command(_kill_parser, kill),
    "rm": Command(_rm_parser, rm),
}
