"""Things done at the same time, in programs of their own (forks of this one) or in threads, and what came of each."""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PATIENCE", "Program", "in_programs", "in_threads", "raised", "with_variable"]

#: Seconds that a program, or a thread, may take for what takes a few: beyond that it hangs.
PATIENCE = 60.0


class Program:
    """A fork of this program that does one thing."""

    def __init__(self, body: Callable[[], Any]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._read)
                faulthandler.dump_traceback_later(PATIENCE, exit=True)
                answer = pickle.dumps(_outcome(body))
                with os.fdopen(write, "wb") as file:
                    file.write(answer)
            finally:
                os._exit(0)
        os.close(write)

    def kill(self) -> None:
        """End it at once, wherever it is."""
        os.kill(self.pid, signal.SIGKILL)

    def outcome(self) -> Any:
        """What it returned or raised, once it has ended; None of one that was killed. Fails the test when it hangs."""
        answer, deadline = b"", time.monotonic() + PATIENCE + 10
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        while (late := not poll.poll(max(0, deadline - time.monotonic()) * 1000)) is False and (
            part := os.read(self._read, 1 << 16)
        ):
            answer += part
        os.close(self._read)
        if late:
            self.kill()
        _, status = os.waitpid(self.pid, 0)
        assert not late and status in (0, signal.SIGKILL), f"a program hung (its stack is on stderr): {status}"
        return pickle.loads(answer) if answer else None


def _outcome(body: Callable[[], Any]) -> Any:
    try:
        return body()
    except Exception as error:
        error.__notes__ = [traceback.format_exc()]  # type: ignore[attr-defined]
        return error


def in_programs(*bodies: Callable[[], Any]) -> list[Any]:
    """The outcomes, each of a program of its own."""
    started = [Program(body) for body in bodies]
    return [program.outcome() for program in started]


def in_threads(*bodies: Callable[[], Any]) -> list[Any]:
    """The outcomes, each of a thread of this program."""
    outcomes: list[Any] = [None] * len(bodies)
    barrier = threading.Barrier(len(bodies))

    def run(index: int) -> None:
        barrier.wait()
        outcomes[index] = _outcome(bodies[index])

    started = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(bodies))]
    for thread in started:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    for thread in started:
        thread.join(max(0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in started):
        faulthandler.dump_traceback(all_threads=True)
        pytest.fail("a thread hangs: its stack is on stderr")
    return outcomes


def raised(outcomes: Iterable[Any], *allowed: type[BaseException]) -> list[BaseException]:
    """Those that are exceptions. Fails the test when one is of no allowed kind."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in errors:
        trace = "\n".join(getattr(error, "__notes__", ()))
        assert isinstance(error, allowed), f"{error!r}\n{trace}"
    return errors


def with_variable(assignment: str) -> dict[int, str]:
    """Living processes with that in their environment: pid → what it is, for people."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if assignment.encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                stat = Path(f"/proc/{name}/stat").read_text()
                if stat.rpartition(")")[2].split()[0] not in "ZX":
                    found[int(name)] = stat[:60]
        except OSError:
            pass  # ended meanwhile
    return found
