"""``execdrivers attach``: a detached container's input and output on this terminal."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from execdrivers.cli.containers import engine_of, for_names, the_name
from execdrivers.cli.detachkeys import DEFAULT, parse_keys
from execdrivers.cli.parsing import Command, Parser, UsageError, parse_bool
from execdrivers.errors import InvalidState

if TYPE_CHECKING:
    from execdrivers.container import Container

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = for_names(
        "attach",
        "Pass what a detached container writes on to our stdout and stderr, and our stdin to it where it was made\n"
        "with -i, until it ends. The exit status is then its own, as with `run`; detached before, 0.",
        "[OPTIONS] NAME",
    )
    add = parser.group("Options")
    add("--no-stdin", action="store_true", help="do not pass our stdin on")
    add(
        "--sig-proxy",
        nargs="?",
        const="true",
        metavar="BOOL",
        help="pass signals on to it (default: true); otherwise they end `attach`, and it runs on",
    )
    add(
        "--detach-keys",
        metavar="KEYS",
        help=f"typed at its terminal they end `attach` (default: {DEFAULT}); letters, ctrl- with a letter or @[\\]^_",
    )
    parser.common()
    return parser


def attach(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Be there until the end, or until told to go."""
    given = vars(options)
    name = the_name(parser, operands)
    keys = parse_keys(given.get("detach_keys", DEFAULT))
    proxied = parse_bool("--sig-proxy", given.get("sig_proxy", "true"))
    with engine_of(options) as engine:
        container = engine.get(name)
        _require_running(container)
        with container.attach() as attachment:
            with_input = "no_stdin" not in given and attachment.stdin
            if attachment.tty and with_input and not os.isatty(0):
                raise UsageError("the input device is not a TTY", remedy="--no-stdin")
            from execdrivers.cli.session import Session

            session = Session(container, attachment, keys=keys, with_input=with_input, proxied=proxied)
            ended = session.run()
        if attachment.skipped:
            print(f"execdrivers: {attachment.skipped} bytes of output were left out: too slow", file=sys.stderr)
        if ended and attachment.exit is None and container.state != "stopped":
            problem = f"the monitor of container {name!r} was killed, and nobody has its streams any more"
            raise InvalidState(problem, remedy=f"it runs on: execdrivers stop {name}")
        if ended:
            return container.wait().status
    print(f"execdrivers: detached from {name}, which runs on", file=sys.stderr)
    return 0 if session.ended_by is None else 128 + session.ended_by


def _require_running(container: Container) -> None:
    state = container.state
    if state == "paused":
        remedy = f"execdrivers unpause {container.name}"
        raise InvalidState(f"container {container.name!r} is paused and cannot be attached to", remedy=remedy)
    if state == "stopped":
        remedy = f"execdrivers logs {container.name}"
        raise InvalidState(f"container {container.name!r} has ended and cannot be attached to", remedy=remedy)


COMMANDS = {"attach": Command(_parser, attach)}
