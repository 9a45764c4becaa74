"""What each container must be: a model on disk, one file per name, that survives whoever keeps it.

Whoever operates on a name holds its file (flock), which the kernel lets go of when he is killed. He writes down what he
is about to do with all that may come of it, and then what came of it; so what was in flight when he was killed is known
too, as several possibilities, of which a look at the container leaves one.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from execdrivers.record import is_alive, own_process

__all__ = ["GRACE", "Ledger", "Model", "Page"]

#: Seconds that what a dead program made may take to be gone, on a busy machine.
GRACE = 30.0

#: Bytes at the end of a file in which its last line is.
_LINE = 8192


@attrs.define(kw_only=True)
class Model:
    """What is known of the container of one name. Where an operation was in flight, several things may be true."""

    name: str
    driver: str
    #: Possible states: ``absent``, ``created``, ``running``, ``paused``, ``stopped``.
    states: set[str] = attrs.field(factory=lambda: {"absent"})
    #: How many of this name there have been.
    generation: int = 0
    #: ``attached`` ends with its maker, ``let go`` was attached, ``detached`` was made so.
    modes: set[str] = attrs.field(factory=set)
    #: Its maker.
    owner: tuple[int, int] | None = None
    #: What its command does: ``waits`` for signals, ``ends`` by itself soon, ``eats`` more memory than it may.
    kind: str = ""
    #: With which code its command ends where it ends by itself or is asked to.
    code: int = 0
    #: How it may have ended, once it has (`describe`).
    exits: set[str] = attrs.field(factory=set)
    #: How many signals it may have noted in its output.
    ticks: set[int] = attrs.field(factory=lambda: {0})
    #: Limits of memory that may be in force, MiB.
    memory: set[int] = attrs.field(factory=set)
    #: Processor time seen so far, ns: it never becomes less.
    cpu: int = 0
    #: An operation was in flight that may have left a process nobody knows of: see `worker`.
    stray: bool = False

    @property
    def orphaned(self) -> bool:
        """Whether it may have to end because its maker has: a detached one does so before its start."""
        ends = "attached" in self.modes or ("detached" in self.modes and "created" in self.states)
        return ends and self.states != {"absent"} and not is_alive(self.owner)

    def may(self, **changes: Any) -> Model:
        """The same with further possibilities: sets are joined, all else is replaced."""
        joined = {
            key: getattr(self, key) | value if isinstance(value, set) else value for key, value in changes.items()
        }
        return attrs.evolve(self, **joined)

    def will(self, **changes: Any) -> Model:
        """The same with these facts."""
        return attrs.evolve(self, **changes)

    def gone(self) -> Model:
        """There is none of this name any more."""
        return Model(name=self.name, driver=self.driver, generation=self.generation)

    def to_json(self) -> dict[str, Any]:
        """Sets as sorted lists."""
        values = attrs.asdict(self, recurse=False)
        return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Model:
        """Inverse of `to_json`."""
        sets = {key: set(data[key]) for key in ("states", "modes", "exits", "ticks", "memory")}
        owner = data["owner"]
        return cls(**{**data, **sets, "owner": None if owner is None else (owner[0], owner[1])})


class Page:
    """The file of one name, held."""

    def __init__(self, fd: int, model: Model, in_flight: str) -> None:
        self._fd = fd
        self.model = model
        #: The operation that whoever held it before did not live to end.
        self.in_flight = in_flight

    def begin(self, operation: str, possible: Model) -> None:
        """Something is about to be done; the possibilities if nobody can tell what came of it."""
        self.model = possible
        self._write("begin", operation)

    def end(self, operation: str, model: Model) -> None:
        """What came of it."""
        self.model = model
        self._write("end", operation)

    def _write(self, phase: str, operation: str) -> None:
        line = {
            "time": round(time.time(), 3),
            "by": own_process()[0],
            "phase": phase,
            "operation": operation,
            "model": self.model.to_json(),
        }
        os.write(self._fd, json.dumps(line).encode() + b"\n")  # one call: whole, or not at all


class Ledger:
    """All pages: a directory."""

    def __init__(self, directory: Path, drivers: dict[str, str]) -> None:
        """``drivers``: name → driver, of all names there are."""
        self._directory = directory
        self.drivers = drivers
        directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def take(self, name: str, *, wait: bool = False) -> Iterator[Page | None]:
        """The page of that name; None when somebody else has it, unless it is waited for."""
        fd = os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            yield self._page(fd, name)
        finally:
            os.close(fd)

    def _page(self, fd: int, name: str) -> Page:
        size = os.fstat(fd).st_size
        lines = os.pread(fd, _LINE, max(0, size - _LINE)).splitlines()
        if not lines:
            return Page(fd, Model(name=name, driver=self.drivers[name]), "")
        last = json.loads(lines[-1])
        in_flight = last["operation"] if last["phase"] == "begin" else ""
        return Page(fd, Model.from_json(last["model"]), in_flight)

    def history(self, name: str, lines: int = 12) -> str:
        """The end of a page, for people."""
        return "\n".join((self._directory / name).read_text().splitlines()[-lines:])
