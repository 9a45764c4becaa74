"""``execdrivers kill`` and ``stop``: signals to containers, and their end."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from execdrivers.cli.containers import for_each, for_names
from execdrivers.cli.parsing import Command, Parser, UsageError, integer
from execdrivers.errors import InvalidState, SpecError

if TYPE_CHECKING:
    from execdrivers.engine import Engine

__all__ = ["COMMANDS"]

#: Seconds between the asking and the killing, docker's.
_GRACE = 10


def _kill_parser() -> Parser:
    parser = for_names(
        "kill",
        "Send a signal to the first process of containers. KILL ends every process of them.",
        "[OPTIONS] NAME…",
    )
    add = parser.group("Options")
    add("-s", "--signal", type=_signal, metavar="SIGNAL", help="name or number (default: KILL)")
    add("--all", action="store_true", help="send it to every process of them")
    parser.common()
    return parser


def kill(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the name of each that was signalled."""
    import signal

    given = vars(options)
    number = given.get("signal", signal.SIGKILL)

    def kill_one(engine: Engine, name: str) -> str:
        container = engine.get(name)
        if container.state == "stopped":
            raise InvalidState(f"container {name!r} has ended", remedy=f"execdrivers rm {name}")
        if number == signal.SIGKILL:
            container.kill()
        else:
            container.signal(number, all="all" in given)
        return name

    return for_each(parser, options, operands, kill_one)


def _stop_parser() -> Parser:
    parser = for_names(
        "stop",
        "Ask containers to end, and kill every process of those that have not after a while. Returns once they\n"
        "have ended; those that had ended before are no error.",
    )
    add = parser.group("Options")
    add("-s", "--signal", type=_signal, metavar="SIGNAL", help="asks it to end (default: its own --stop-signal, TERM)")
    add(
        "-t",
        "--timeout",
        "--time",
        type=integer,
        metavar="SECONDS",
        help=f"before it is killed (default: {_GRACE}; -1: it never is)",
    )
    parser.common()
    return parser


def stop(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the name of each that has ended. All are asked at once."""
    given = vars(options)
    seconds = given.get("timeout", _GRACE)
    if seconds < -1:
        raise UsageError(f"-t/--timeout: {seconds} is not a time", remedy="seconds, or -1 to wait without killing")

    def stop_one(engine: Engine, name: str) -> str:
        engine.get(name).stop(None if seconds == -1 else seconds, signal=given.get("signal"))
        return name

    return for_each(parser, options, operands, stop_one, at_once=True)


def _signal(text: str) -> int:
    """``KILL``, ``sigkill`` or ``9``."""
    from execdrivers.units import parse_signal

    try:
        return parse_signal(text)
    except SpecError as error:
        raise UsageError(f"-s/--signal: {text!r} is not a signal", remedy=error.remedy) from None


COMMANDS = {"kill": Command(_kill_parser, kill), "stop": Command(_stop_parser, stop)}
