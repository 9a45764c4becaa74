"""What it costs to import the library, and to start its command line."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from benchmarks import starting
from benchmarks.peers import commandline
from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Place, Scenario

__all__ = ["SCENARIOS"]

_STATEMENTS = {
    "import execdrivers": "import execdrivers",
    "from execdrivers import run": "from execdrivers import run, ContainerSpec",
    "import attrs, pluggy": "import attrs, pluggy",
}


def _imports(place: Place) -> Sequence[Contender]:
    return [
        Contender(name=name, measure=functools.partial(starting.above_bare, statement))
        for name, statement in _STATEMENTS.items()
    ]


def _commands(place: Place) -> Sequence[Contender]:
    program = [sys.executable, "-m", "execdrivers"]
    run = ["run", "--driver", "native", "--rootfs", place.rootfs, "--", "/bin/true"]
    return [
        Contender(name="python -c pass", measure=functools.partial(starting.python, "pass")),
        _command("execdrivers --version", [*program, "--version"]),
        _command("execdrivers run", [*program, *run]),
    ]


def _command(name: str, argv: list[str]) -> Contender:
    return Contender(name=name, measure=functools.partial(commandline.measure, argv))


SCENARIOS = (
    Scenario(
        name="import",
        seconds=30,
        title="Import",
        about="Of fresh interpreters, how much longer than one that does nothing: each in a pair with such a one. "
        "Bytecode is kept, as of what pip installs. "
        "`import execdrivers` loads its parts at first use; `from execdrivers import run, ContainerSpec` loads what a "
        "call takes.",
        contenders=_imports,
        comparisons=(
            Comparison(
                title="import execdrivers over attrs and pluggy",
                of="import execdrivers",
                over="import attrs, pluggy",
                target=1.25,
            ),
            Comparison(
                title="from execdrivers import run over attrs and pluggy",
                of="from execdrivers import run",
                over="import attrs, pluggy",
            ),
        ),
    ),
    Scenario(
        name="command-line",
        seconds=60,
        title="Command line",
        about="From the spawn of the interpreter to its exit.",
        contenders=_commands,
        comparisons=(
            Comparison(title="--version over bare Python", of="execdrivers --version", over="python -c pass"),
            Comparison(title="run over bare Python", of="execdrivers run", over="python -c pass"),
        ),
    ),
)
