"""``execdrivers run``: docker's ``run``, in the foreground or detached."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from execdrivers.cli.build import Request
from execdrivers.cli.flags import add_flags
from execdrivers.cli.parsing import Command, Parser, UsageError

if TYPE_CHECKING:
    from execdrivers.cli.signals import Forwarder
    from execdrivers.container import Container
    from execdrivers.exit import Exit

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = Parser(
        "execdrivers run",
        "[OPTIONS] [--] COMMAND [ARG…]",
        description="Run a command in a new container, and wait for its end, or with -d leave it to itself.\n\n"
        "Options are docker's where docker has them. Where nothing is said the driver's safest default holds: own\n"
        "namespaces, docker's capabilities, no new privileges, no network but loopback.",
    )
    add_flags(parser)
    return parser


def run(parser: Parser, options: Namespace, command: list[str]) -> int:
    """Create, start, wait; the exit status as ``docker run`` has it."""
    given = vars(options)
    request = Request(parser, options, command)
    spec = request.spec()
    if "detach" in given:
        from execdrivers.cli.detached import detached

        return detached(request, spec, options)
    if "log_opt" in given:
        raise UsageError("--log-opt is about the log of a detached container", remedy="with -d, or without --log-opt")
    interactive = "interactive" in given
    if spec.tty and interactive and not os.isatty(0):
        raise UsageError("the input device is not a TTY", remedy="-t without -i, or -i without -t")

    from execdrivers.cli.signals import Forwarder
    from execdrivers.engine import Engine
    from execdrivers.stdio import DEVNULL

    engine = Engine(root=options.root)
    forwarder = Forwarder()
    with forwarder.caught(window=spec.tty):
        with request.naming_options():
            container = engine.create(
                spec,
                driver=given.get("driver", "auto"),
                name=given.get("name"),
                stdin=None if interactive else DEVNULL,
            )
        try:
            end = _attend(container, forwarder, given.get("timeout"))
        except BaseException:
            # A record is kept of what ran to its end, not of what could not be started or was given up.
            container.delete(force=True)
            raise
        if "rm" in given:
            container.delete()
        else:
            container.detach()
    if end.reason in ("oom", "timeout", "unknown"):
        print(f"execdrivers: {container.name} {_why(end, container, given.get('timeout'))}", file=sys.stderr)
    return end.status


def _attend(container: Container, forwarder: Forwarder, timeout: float | None) -> Exit:
    """Start it and be there until its end."""
    from execdrivers.errors import ContainerTimeout

    forwarder.resize(container)
    container.start()
    forwarder.forward_to(container, pid_1_of=container.name)
    try:
        return container.wait(timeout)
    except ContainerTimeout as error:
        container.expire()
        return container.exit or error.exit


def _why(end: Exit, container: Container, timeout: float | None) -> str:
    if end.reason == "timeout":
        return f"was killed after {timeout:g} s (--timeout)"
    if end.reason == "oom":
        from execdrivers.cli.table import size

        limit = container.spec.resources.memory
        bound = f" (limit {size(limit)})" if limit else ""
        return f"ran out of memory{bound}: {end.oom_kills} process{'es' * (end.oom_kills != 1)} killed"
    return str(end)


COMMANDS = {"run": Command(_parser, run)}
