"""``execdrivers exec``: docker's ``exec``: one more command in a container that runs."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from execdrivers.cli.containers import engine_of
from execdrivers.cli.parsing import Command, Parser, UsageError, refusal
from execdrivers.errors import InvalidState, SpecError

if TYPE_CHECKING:
    from execdrivers.container import Container
    from execdrivers.process import ExecProcess

__all__ = ["COMMANDS"]

#: What `Container.exec` calls it → the option that sets it.
_FLAGS = {"args": "COMMAND", "cwd": "-w/--workdir", "env": "-e/--env/--env-file", "user": "-u/--user"}

_EXAMPLES = """\
Examples:
  execdrivers exec -it web sh            a shell beside what runs in web, on this terminal
  execdrivers exec -u 0 web id           as another user of the container
  execdrivers exec -d web sh -c 'sleep 60; touch /tmp/late'

Exit status: that of the command; 128+N ended by signal N; 1 no such container, or it does not run;
125 wrongly called; 126 command not executable; 127 command not found."""


def _parser() -> Parser:
    parser = Parser(
        "execdrivers exec",
        "[OPTIONS] NAME COMMAND [ARG…]",
        description="Run one more command in a container: in its namespaces, cgroups and limits, with the\n"
        "environment, user and rights of its first process unless said otherwise. It ends with the container at the\n"
        "latest.",
        epilog=_EXAMPLES,
    )
    add = parser.group("Options")
    add("-i", "--interactive", action="store_true", help="pass on our stdin; without it the command reads /dev/null")
    add("-t", "--tty", action="store_true", help="give the command a terminal of its own")
    add("-d", "--detach", action="store_true", help="do not wait for it; its output goes nowhere")
    add(
        "-e",
        "--env",
        action="append",
        metavar="NAME[=VALUE]",
        help="set an environment variable; without a value: pass on ours",
    )
    add("--env-file", action="append", metavar="FILE", help="read environment variables, one NAME[=VALUE] a line")
    add("-w", "--workdir", metavar="DIR", help="working directory inside the container")
    add("-u", "--user", metavar="USER[:GROUP]", help="names of the container or numbers")
    add(
        "--privileged",
        nargs=0,
        action=refusal(
            "more rights than its container has are not given to a command",
            "execdrivers run --privileged, for a container that has them all",
        ),
    )
    add(
        "--detach-keys",
        action=refusal(
            "a command's terminal closes with `exec`, which keeps it",
            "exec -d for what is to run on; attach, whose terminal the container keeps",
        ),
    )
    parser.common()
    return parser


def exec_(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Start it, wait, and return its exit status as ``docker exec`` does."""
    given = vars(options)
    if len(operands) < 2:
        what = "the name of a container" if not operands else "a command"
        raise UsageError(f"{parser.name} needs {what}", remedy=f"{parser.prog} {(operands or ['NAME'])[0]} sh -c 'id'")
    name, *command = operands
    tty = "tty" in given
    if "detach" in given and (tty or "interactive" in given):
        raise UsageError("-d does not go with -i and -t", remedy="-d alone: nobody is there to type or to look")
    if tty and "interactive" in given and not os.isatty(0):
        raise UsageError("the input device is not a TTY", remedy="-t without -i, or -i without -t")
    from execdrivers.cli.environment import environment

    env = environment(given.get("env_file", ()), given.get("env", ()))
    with engine_of(options) as engine:
        container = engine.get(name)
        if "detach" in given:
            _start(container, command, env, given).detach()
            return 0
        from execdrivers.cli.signals import Forwarder

        forwarder = Forwarder()
        with forwarder.caught(window=tty), _start(container, command, env, given) as process:
            forwarder.resize(process)
            forwarder.forward_to(process)
            return process.wait().status


def _start(container: Container, command: list[str], env: dict[str, str], given: dict[str, Any]) -> ExecProcess:
    from execdrivers.stdio import DEVNULL
    from execdrivers.terminal import window_size

    tty = "tty" in given
    output = DEVNULL if "detach" in given else None
    try:
        return container.exec(
            command,
            env=env or None,
            cwd=given.get("workdir"),
            user=given.get("user"),
            tty=tty,
            console_size=(window_size(0) or window_size(1)) if tty else None,
            stdin=None if "interactive" in given else DEVNULL,
            stdout=output,
            stderr=output,
        )
    except SpecError as error:
        option = _FLAGS.get(error.field.partition("[")[0])
        if option:
            error.message += f" (given by {option})"
        raise
    except InvalidState as error:
        if container.state == "paused":
            error.remedy = f"execdrivers unpause {container.name}"
        elif container.state == "stopped":
            error.remedy = "execdrivers ps lists those that run"
        raise


COMMANDS = {"exec": Command(_parser, exec_)}
