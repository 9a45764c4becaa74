"""The timeline of one start to exit of the native driver: where the microseconds go.

Nothing is guessed: Python's side is read off a clock around its own functions, the launcher's from the kernel's trace
(tracefs: system calls, execution and exit of the process, by the same clock). In the plan that is traced an operation
``umask`` that changes nothing stands before each operation, so that the trace shows where each begins. Medians of many
starts; that both kinds of looking take time too, some tenth of the whole, is told by the start that nobody looked at.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import attrs

from benchmarks import floor
from benchmarks.scenario import Place
from execdrivers import Engine, completed, guard, registry, store, supervision
from execdrivers.launcher import Launch, Operation, operation
from execdrivers.launcher import launch as launching
from execdrivers_native import handle, kept, start

__all__ = ["main"]

_STARTS = 200
_TRACED = 30
_MASK = 0o22
#: The number of umask(2).
_UMASK = {"x86_64": 95, "aarch64": 166}[os.uname().machine]
#: What is traced of the launcher's operations, and what takes next to no time, for comparing.
_CALLS = ("raw_syscalls/sys_enter", "raw_syscalls/sys_exit", "sched/sched_process_exec", "sched/sched_process_exit")
_LIVES = ("sched/sched_process_fork", "sched/sched_process_exec", "sched/sched_process_exit")
_LINE = re.compile(r"-(\d+)\s+\[\d+\]\s+\S+\s+(\d+\.\d+): (\w+): (.*)$")
#: Of a step's arguments those that say where, or which.
_TELLING = ("destination", "path", "source", "name", "what", "paths")

#: What of Python is told apart: object, name, and what it is for people.
_PARTS: Sequence[tuple[Any, str, str]] = (
    (completed.Call, "__init__", "spec from keywords"),
    (registry.Registry, "choose", "driver chosen, features checked"),
    (guard, "hold", "guard told"),
    (store.Store, "reserve", "directory made and locked"),
    (kept.KeptPlans, "find", "plan found among those kept"),
    (launching.Launch, "begin", "clone"),
    (handle.NativeHandle, "hold", "start time read"),
    (kept.KeptPlans, "fits", "root looked at, whether the plan fits"),
    (launching.Launch, "give_network", "network namespace made"),
    (launching.Launch, "give", "plan handed to the launcher"),
    (store.Entry, "write", "record written"),
    (launching.Launch, "say_go", "go said"),
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
    """The kernel's trace of what this program starts, in an instance of its own."""

    def __init__(self, place: Place, events: Sequence[str]) -> None:
        where = place.scratch / "tracefs"
        if not where.exists():
            where.mkdir()
            subprocess.run(["mount", "-t", "tracefs", "tracefs", where], check=True)
            place.stack.callback(lambda: subprocess.run(["umount", where], check=True))
        self._instance = Path(tempfile.mkdtemp(prefix="execdrivers-", dir=where / "instances"))
        place.stack.callback(self._instance.rmdir)
        self._put("buffer_size_kb", "8192")
        self._put("trace_clock", "mono")
        self._put("options/event-fork", "1")
        for event in events:
            self._put(f"events/{event}/enable", "1")
        self._put("tracing_on", "0")

    def _put(self, name: str, text: str) -> None:
        (self._instance / name).write_text(text)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Trace what this program's children do."""
        self._put("set_event_pid", str(os.getpid()))
        self._put("tracing_on", "1")
        yield
        self._put("tracing_on", "0")

    def by_process(self) -> dict[int, list[_Event]]:
        """What each process did, in order."""
        found: dict[int, list[_Event]] = defaultdict(list)
        with open(self._instance / "trace", encoding="ascii", errors="replace") as file:
            for line in file:
                if match := _LINE.search(line):
                    pid, moment, kind, text = match.groups()
                    found[int(pid)].append(_Event(float(moment), kind, text))
        return found


class _Event(NamedTuple):
    moment: float
    kind: str
    text: str


@contextlib.contextmanager
def _marked(names: list[str]) -> Iterator[None]:
    """Have each operation of each plan begin with a umask(2) that changes nothing; ``names`` becomes what they are."""

    def marked(given: Iterable[Operation] | Callable[[], Iterable[Operation]], **more: Any) -> Launch:
        operations = list(given() if callable(given) else given)
        names[:] = [_name(item) for item in operations]
        mark = operation("umask", _MASK)
        return Launch([each for item in operations for each in (mark, item)], **more)

    with mock.patch.object(start, "Launch", marked):
        yield


def _name(item: Operation) -> str:
    """For people: what is done, and where."""
    step = item.step()
    told = next((str(value) for key, value in step.args.items() if key in _TELLING), "")
    return f"{step.op} {told}".strip()


def _launchers(trace: Mapping[int, Sequence[_Event]], names: Sequence[str]) -> Iterator[dict[str, float]]:
    """Of each launcher that was traced from its execution to its exit: seconds by what it did."""
    for events in trace.values():
        executions = [event for event in events if event.kind == "sched_process_exec"]
        ends = [event for event in events if event.kind == "sched_process_exit"]
        marks = [e.moment for e in events if e.kind == "sys_enter" and e.text.startswith(f"NR {_UMASK} ({_MASK:x},")]
        if len(executions) != 2 or not ends or len(marks) < len(names):
            continue
        marks = marks[-len(names) :]  # its own comes before
        spans = {"launcher begins": marks[0] - executions[0].moment}
        for name, begin, end in zip(names, marks, [*marks[1:], executions[1].moment], strict=True):
            spans[name] = spans.get(name, 0.0) + end - begin
        yield {**spans, "command runs, and exits": ends[0].moment - executions[1].moment}


def main(place: Place) -> str:
    """Measure, and tell as text. Raises OSError where the kernel has no tracefs."""
    engine = Engine()
    launch = functools.partial(engine.run, ["/bin/true"], rootfs=place.rootfs, driver="native", check=True)
    for _ in range(20):
        launch()
    unseen = statistics.median(_seconds(launch) for _ in range(_STARTS))
    clock = _Clock()
    with contextlib.ExitStack() as stack:
        for owner, name, label in _PARTS:
            clock.around(stack, owner, name, label)
        seen = [_timed(clock, launch) for _ in range(_STARTS)]
    names: list[str] = []
    trace = _Trace(place, _CALLS)
    with _marked(names):
        launch()
        with trace.on():
            for _ in range(_TRACED):
                launch()
    launchers = list(_launchers(trace.by_process(), names))
    return _tell(unseen, seen, launchers) + "\n" + _beside_the_floor(place, launch)


def _beside_the_floor(place: Place, launch: Callable[[], object]) -> str:
    """Both in the same phases, with little traced."""
    ours: list[tuple[float, float]] = []
    with (own := _Trace(place, _LIVES)).on():
        for _ in range(_STARTS):
            began = time.monotonic()
            launch()
            ours.append((began, time.monotonic()))
    with (other := _Trace(place, _LIVES)).on():
        times = floor.rounds(place.floor, _STARTS, place.rootfs, ["/bin/true"])
    native = [
        {
            "before the clone": life[0] - began,
            **_between(life),
            "from the exit to the return": returned - life[3],
        }
        for (began, returned), life in zip(ours, _lives(own.by_process()), strict=True)
    ]
    lives = [_between(life) for life in _lives(other.by_process())]
    rest = statistics.median(times) - sum(statistics.median(life[phase] for life in lives) for phase in _PHASES)
    rows = ["", "   floor  native"]
    for phase in ("before the clone", *_PHASES, "from the exit to the return"):
        theirs = [life[phase] for life in lives if phase in life]
        told = f"{1e6 * statistics.median(theirs):8.0f}" if theirs else " " * 8
        if phase == "from the exit to the return":
            told = f"{1e6 * rest:8.0f}"  # with what comes before the clone, which is next to nothing
        rows.append(f"{told}{1e6 * statistics.median(life[phase] for life in native):8.0f}  {phase}")
    whole = statistics.median(returned - began for began, returned in ours)
    return "\n".join([*rows, f"{1e6 * statistics.median(times):8.0f}{1e6 * whole:8.0f}  the whole"])


_PHASES = (
    "clone, until the launcher is executed",
    "launcher, until the command is executed",
    "command, until its exit",
)


def _between(life: Sequence[float]) -> dict[str, float]:
    return {phase: after - before for phase, before, after in zip(_PHASES, life, life[1:], strict=False)}


def _lives(trace: Mapping[int, Sequence[_Event]]) -> Iterator[Sequence[float]]:
    """Of each process that was cloned and executed two programs: when it did, and when it began to end."""
    cloned = {
        int(match[1]): event.moment
        for events in trace.values()
        for event in events
        if event.kind == "sched_process_fork" and (match := re.search(r"child_pid=(\d+)", event.text))
    }
    for pid, events in sorted(trace.items(), key=lambda item: item[1][0].moment):
        moments = [event.moment for event in events if event.kind != "sched_process_fork"]
        if pid in cloned and len(moments) == 3:
            yield cloned[pid], *moments


def _seconds(call: Callable[[], object]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def _timed(clock: _Clock, call: Callable[[], object]) -> dict[str, tuple[float, float]]:
    """Label → when it began, and how long it took, of one call; the whole is ``""``."""
    clock.marks.clear()
    began = time.monotonic()
    call()
    whole = time.monotonic() - began
    return {"": (0.0, whole), **{label: (begin - began, end - begin) for label, begin, end in clock.spans()}}


def _tell(
    unseen: float, seen: Sequence[Mapping[str, tuple[float, float]]], launchers: Sequence[Mapping[str, float]]
) -> str:
    rows = ["One `run` of `true` by the native driver, medians, in microseconds", ""]
    rows += [f"{1e6 * unseen:8.0f}  the whole, nobody looking"]
    rows += [f"{1e6 * statistics.median(one[''][1] for one in seen):8.0f}  the whole, looked at", ""]
    rows += ["the caller    at  lasts"]
    labels = [label for _, _, label in _PARTS if all(label in one for one in seen)]
    for label in sorted(labels, key=lambda label: statistics.median(one[label][0] for one in seen)):
        begins, lasts = (1e6 * statistics.median(one[label][index] for one in seen) for index in (0, 1))
        rows.append(f"{begins:16.0f}{lasts:7.0f}  {label}")
    if launchers:
        rows += ["", f"the launcher and the command (traced, {len(launchers)} times; a traced call takes 1 µs more)"]
        medians = {name: 1e6 * statistics.median(one.get(name, 0.0) for one in launchers) for name in launchers[0]}
        at = 0.0
        for name, lasts in medians.items():
            rows.append(f"{at:16.0f}{lasts:7.0f}  {name}")
            at += lasts
    return "\n".join(rows) + "\n"
