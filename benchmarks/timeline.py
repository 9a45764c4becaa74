"""The timeline of one start to exit of the native driver: where the microseconds go.

Nothing is guessed: Python's side is read off a clock around its own functions, the launcher's from the kernel's trace
(tracefs: system calls, execution and exit of the process, by the same clock). In the plan that is traced an operation
``umask`` that changes nothing stands before each operation, so that the trace shows where each begins. Medians of many
starts; that both kinds of looking take time too, some tenth of the whole, is told by the start that nobody looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

import execdrivers
from benchmarks.scenario import Place
from execdrivers import ContainerSpec, Engine, completed, guard, registry, store, supervision
from execdrivers.launcher import operation
from execdrivers.launcher import launch as launching
from execdrivers_native import driver as native
from execdrivers_native import handle, start

__all__ = ["main"]

_STARTS = 100
_MASK = 0o22
_LINE = re.compile(r"-(\d+)\s+\[\d+\]\s+\S+\s+(\d+\.\d+): (\w+)(?:\((.*)\)|: (.*))?")

#: What of Python is told apart: object, name, and what it is for people.
_PARTS: Sequence[tuple[Any, str, str]] = (
    (completed.Call, "__init__", "spec from keywords"),
    (registry.Registry, "choose", "driver chosen, features checked"),
    (guard, "hold", "guard told"),
    (store.Store, "reserve", "directory made and locked"),
    (native, "compile", "plan compiled"),
    (launching.Launch, "__init__", "plan and launcher into memory files, socket"),
    (start, "spawn_launcher", "clone, until the launcher executes"),
    (store.Entry, "write", "record written"),
    (launching.Launch, "say_go", "go said"),
    (handle.NativeHandle, "start", "waiting until the command is executed"),
    (supervision.Supervised, "_pump", "waiting for the exit"),
    (handle.NativeHandle, "exit", "exit status taken"),
    (handle.NativeHandle, "delete", "driver's resources freed"),
    (supervision.Supervised, "_remove", "record removed"),
    (supervision.Supervised, "_let_go", "descriptors closed"),
    (completed.Call, "completed", "result made"),
)


@attrs.define
class _Clock:
    """What began and ended when, in seconds of the monotonic clock."""

    marks: list[tuple[float, str, bool]] = attrs.field(factory=list)

    def around(self, stack: contextlib.ExitStack, owner: Any, name: str, label: str) -> None:
        """Note each call of a function."""
        function = getattr(owner, name)
        marks = self.marks

        def timed(*args: Any, **kwargs: Any) -> Any:
            marks.append((time.monotonic(), label, True))
            try:
                return function(*args, **kwargs)
            finally:
                marks.append((time.monotonic(), label, False))

        setattr(owner, name, timed)
        stack.callback(setattr, owner, name, function)

    def spans(self) -> Iterator[tuple[str, float, float]]:
        """Label, begin and end of each call."""
        open_: dict[str, float] = {}
        for moment, label, begins in self.marks:
            if begins:
                open_[label] = moment
            elif label in open_:
                yield label, open_.pop(label), moment


class _Trace:
    """The kernel's trace of this program's children, in an instance of its own."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        tracing = next(
            (p for p in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing") if os.path.isdir(p + "/events")), ""
        )
        if not tracing:
            raise FileNotFoundError("tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing")
        self._place = f"{tracing}/instances/execdrivers-{os.getpid()}"
        os.mkdir(self._place)
        stack.callback(os.rmdir, self._place)
        self._put("trace_clock", "mono")
        self._put("options/event-fork", "1")
        self._put("set_event_pid", str(os.getpid()))
        for event in (
            "raw_syscalls/sys_enter",
            "raw_syscalls/sys_exit",
            "sched/sched_process_exec",
            "sched/sched_process_exit",
        ):
            self._put(f"events/{event}/enable", "1")

    def _put(self, name: str, text: str) -> None:
        with open(f"{self._place}/{name}", "w", encoding="ascii") as file:
            file.write(text)

    def clear(self) -> None:
        """Forget what was traced."""
        self._put("trace", "")
        self._put("set_event_pid", str(os.getpid()))

    def lines(self) -> Iterator[tuple[int, float, str, str]]:
        """Thread, moment, event and what it says."""
        with open(f"{self._place}/trace", encoding="ascii", errors="replace") as file:
            for line in file:
                if found := _LINE.search(line):
                    pid, moment, event, call, text = found.groups()
                    yield int(pid), float(moment), event, call or text or ""
