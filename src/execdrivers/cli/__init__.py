"""The command ``execdrivers``: docker's ``run`` on any driver.

Each subcommand lives in a module that is imported only when it is called, and imports the engine only when it needs
it, so that ``--help`` costs no more than argparse.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from execdrivers.cli.parsing import Command, Parser, UsageError, nearest
from execdrivers.cli.streams import give_up_stdout, open_standard_streams
from execdrivers.errors import ExecDriverError, LaunchError, SpecError

__all__ = ["COMMANDS", "main", "status_of", "tell"]

#: Subcommand → the module below this package that has it, and what it does.
COMMANDS = {
    "run": ("run", "run a command in a new container"),
    "explain": ("explain", "show what `run` would do, without doing it"),
    "drivers": ("drivers", "the drivers: which work here, what each enforces, what would fix the rest"),
    "doctor": ("doctor", "what this machine lets containers do, by trying, and what would mend the rest"),
    "apparmor": ("apparmor", "the default AppArmor profile: load, unload, show"),
    "ps": ("ps", "list containers"),
    "inspect": ("inspect", "all that is known of containers, as JSON"),
    "logs": ("logs", "what a detached container has written"),
    "attach": ("attach", "a detached container's input and output, on this terminal"),
    "exec": ("exec", "run one more command in a container"),
    "stats": ("stats", "what containers use: processor, memory, network, disks, processes"),
    "top": ("top", "the processes of a container"),
    "wait": ("wait", "wait for the end of containers, print their exit status"),
    "stop": ("kill", "ask containers to end, and kill those that do not"),
    "kill": ("kill", "send a signal to containers"),
    "pause": ("pause", "freeze the processes of containers"),
    "unpause": ("pause", "let paused containers go on"),
    "update": ("update", "change limits of containers while they run"),
    "events": ("events", "what happens to containers, as it happens"),
    "rm": ("rm", "remove containers"),
    "gc": ("gc", "remove what a crash left"),
    "conformance": ("conformance", "try a driver with the conformance kit (needs execdrivers[testing])"),
}

#: Exit status for an error of execdrivers itself, as ``docker run`` has it.
OWN_ERROR = 125
#: Exit status of a program that SIGINT or SIGPIPE ended, as a shell reports it.
INTERRUPTED, BROKEN_PIPE = 130, 141

_EXAMPLES = """\
Examples:
  execdrivers run -- id                                    the host's files, read-only, as nobody
  execdrivers run --rootfs /srv/alpine -it --rm -- sh      a shell in another root file system
  execdrivers run --rootfs R -m 64m --cpus 0.5 --pids-limit 32 --timeout 10 -- ./untrusted
  execdrivers explain --rootfs R -m 64m -- ./untrusted     the same, only shown
  execdrivers drivers                                      what can run here, and what is missing

`execdrivers COMMAND --help` says more of each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words ask and return the exit status; errors are told on stderr."""
    open_standard_streams()
    command: list[str] = []
    try:
        try:
            status = _dispatch(sys.argv[1:] if argv is None else argv, command)
        except SystemExit as end:  # --help, --version
            status = end.code if isinstance(end.code, int) else 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        give_up_stdout()
        return BROKEN_PIPE
    except LaunchError as error:
        tell(error)
        return error.exit_code
    except ExecDriverError as error:
        tell(error)
        return OWN_ERROR if command in (["run"], ["explain"]) else status_of(error)
    except OSError as error:  # stdout on a full disk, above all
        give_up_stdout()
        tell(ExecDriverError(str(error)))
        return OWN_ERROR
    except Exception:
        from traceback import print_exc

        print_exc()
        print("execdrivers: this is a bug of execdrivers or of one of its plugins", file=sys.stderr)
        return OWN_ERROR


def _dispatch(argv: Sequence[str], command: list[str]) -> int:
    """``command`` gets the subcommand's name as soon as it is known."""
    options, words = _overview().parse(argv)
    if not words:
        _overview().print_help()
        return 0
    name, *rest = words
    if name == "help":
        (_command(rest[0]).parser() if rest else _overview()).print_help()
        return 0
    make_parser, call = _command(name)
    command.append(name)
    parser = make_parser()
    namespace, operands = parser.parse(rest)
    root = vars(namespace).get("root", vars(options).get("root"))
    namespace.root = root or os.environ.get("EXECDRIVERS_ROOT") or None
    return call(parser, namespace, operands)


def _command(name: str) -> Command:
    try:
        module, _ = COMMANDS[name]
    except KeyError:
        guess = nearest(name, COMMANDS)
        raise UsageError(
            f"unknown command {name!r}", remedy=f"execdrivers {guess}" if guess else "execdrivers --help"
        ) from None
    command: Command = import_module(f"execdrivers.cli.{module}").COMMANDS[name]
    return command


def _overview() -> Parser:
    commands = "\n".join(f"  {name:12}{summary}" for name, (_, summary) in COMMANDS.items())
    parser = Parser(
        "execdrivers",
        "[--root DIR] COMMAND …",
        description=f"Run contained processes, whatever contains them.\n\nCommands:\n{commands}",
        epilog=_EXAMPLES,
    )
    from execdrivers import __version__

    parser.common(("--version", {"action": "version", "version": f"execdrivers {__version__}"}))
    return parser


def status_of(error: ExecDriverError) -> int:
    """Exit status for it: whether the command was called wrongly, or failed."""
    return OWN_ERROR if isinstance(error, (UsageError, SpecError)) else 1


def tell(error: ExecDriverError) -> None:
    """The message, and below it the remedy, on stderr."""
    from execdrivers.cli.table import printable

    lines = [f"execdrivers: {printable(error.message)}"]
    if error.remedy:
        lines.append(f"  try: {printable(error.remedy)}")
    try:
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    except OSError:
        pass
