"""What peers have in common: a command line that runs a program in a container, timed from its spawn to its exit."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from benchmarks.sampling import Contender, Failed

if TYPE_CHECKING:
    from benchmarks.scenario import Place

__all__ = ["CommandLine", "Peer", "environment", "failure", "measure", "missing", "prefix", "which"]

#: Turns the words of a program in the root file system into those that run it in a container. Each call's may run
#: beside another's.
CommandLine = Callable[[Sequence[str]], list[str]]

#: Seconds for the trial of a peer.
_PATIENCE = 60.0


@attrs.frozen(kw_only=True)
class Peer:
    """A tool as its users would call it."""

    #: As a contender.
    name: str
    #: What is looked for on PATH, or its path.
    program: str
    #: What would help where it is not.
    install: str
    #: What it isolates less than the native driver by default, or in addition, in a sentence.
    about: str
    #: Opens on the place what it needs there, once.
    command_line: Callable[[Place], CommandLine]
    #: The file that is its stdin.
    stdin: Callable[[Place], str] = lambda place: os.devnull
    #: Why it cannot work on this host though it is there; "" where it can.
    refusal: Callable[[], str] = str
    #: Samples a round.
    batch: int = 10

    def lacking(self, place: Place) -> str:
        """Why it cannot take part, "" where it can: it has been tried."""
        return missing(self.program, self.install) or self.refusal() or place.once(self.trial)

    def trial(self, place: Place) -> str:
        """Run ``true`` once; what went wrong, or ""."""
        try:
            command = self.command_line(place)(["/bin/true"])
            with open(self.stdin(place), "rb") as stdin:
                done = subprocess.run(
                    command, env=environment(), stdin=stdin, capture_output=True, text=True, timeout=_PATIENCE
                )
        except (Failed, OSError, subprocess.SubprocessError) as error:
            return f"{self.program} does not work here: {error}"
        return f"{self.program} does not work here: {failure(done)}" if done.returncode else ""

    def contender(self, place: Place) -> Contender:
        """Its start to exit of ``true``."""
        lacking = self.lacking(place)
        take = None if lacking else functools.partial(_take, self, place)
        return Contender(name=self.name, measure=take, lacking=lacking, batch=self.batch)


def _take(peer: Peer, place: Place, count: int) -> list[float]:
    return measure(peer.command_line(place)(["/bin/true"]), count, peer.stdin(place))


def prefix(words: Sequence[str]) -> CommandLine:
    """Of a tool that takes a program's words after its own."""
    return lambda args: [*words, *args]


def measure(argv: list[str], count: int, stdin: str = os.devnull) -> list[float]:
    """Seconds from the spawn of a program to its exit, so many times. Raises `Failed` unless it exits with 0.

    By posix_spawn(3), which neither depends on this program's memory nor runs any of its code in the child.
    """
    path = which(argv[0])
    if path is None:
        raise Failed(f"there is no {argv[0]}")
    env = environment()
    samples = []
    with open(os.devnull, "r+b") as null, tempfile.TemporaryFile() as errors:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, null.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
        ]
        for _ in range(count):
            before = time.perf_counter()
            pid = os.posix_spawn(path, argv, env, file_actions=actions)
            _, status = os.waitpid(pid, 0)
            samples.append(time.perf_counter() - before)
            if status:
                errors.seek(0)
                text = errors.read().decode(errors="replace")
                raise Failed(failure(subprocess.CompletedProcess(argv, os.waitstatus_to_exitcode(status), "", text)))
    return samples


def which(program: str) -> str | None:
    """The path of a program."""
    return shutil.which(program, path=environment()["PATH"])


def missing(program: str, install: str) -> str:
    """That it is not installed, and what would help; "" where it is."""
    return "" if which(program) else f"{program} is not installed; {install}"


def environment() -> Mapping[str, str]:
    """Of peers: ours; sbin is where Debian has some of them, and not on every user's PATH. Python keeps its bytecode,
    as pip does of what it installs: else a start of Python would be for the most part compilation."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": ""}


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """How it ended, and the last that it said."""
    said = (done.stderr or done.stdout or "").strip().splitlines()
    return ": ".join([f"exit status {done.returncode}", *said[-1:]])
