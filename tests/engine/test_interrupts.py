"""An interrupt at any instruction leaves nothing behind, and is heard.

A trace function raises SIGINT at the n-th instruction of what is tried. That is finer than signals are: the interpreter
looks for them at some instructions only.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from execdrivers import DEVNULL, PIPE, ContainerSpec, Engine, Stdio, interrupts, pidfd
from execdrivers.interrupts import deferred, heard, whole
from execdrivers.launcher import Launch, operation, spawn_launcher
from execdrivers.testing import leaks

#: Interrupts of each kind of call; their places are drawn anew each time, and told.
COUNT = int(os.environ.get("EXECDRIVERS_INTERRUPTS", "25"))


@pytest.fixture(autouse=True)
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(
        "execdrivers.interrupts.PATIENCE", 100
    )  # tracing takes its time, all the more on a busy machine
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupter:
    """Raises SIGINT at one of the instructions of a call, all those of the package being counted, or of ``files``."""

    def __init__(self, at: int = -1, files: tuple[str, ...] = ()) -> None:
        self.at = at
        self.files = files
        self.seen = 0
        self.place = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if "execdrivers" not in frame.f_code.co_filename or frame.f_code.co_name == "__del__":
            return None
        if self.files and not frame.f_code.co_filename.endswith(self.files):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self.seen += 1
            if self.seen == self.at:
                code = frame.f_code
                self.place = f"instruction {self.at}: {code.co_filename}:{frame.f_lineno} in {code.co_name}"
                signal.raise_signal(signal.SIGINT)
        return self

    def run(self, call: Callable[[], object]) -> bool:
        """Whether the interrupt was heard."""
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False


def calls(engine: Engine, rootfs: Path) -> dict[str, Callable[[], object]]:
    spec = ContainerSpec.build(["true"], rootfs=rootfs, memory="64M", pids=20)
    terminal = ContainerSpec.build(["true"], rootfs=rootfs, tty=True, init=True)

    def create(spec: ContainerSpec = spec, **streams: Any) -> None:
        container = engine.create(spec, driver="native", stdin=DEVNULL, **streams)
        container.delete(force=True)

    def execute() -> None:
        with engine.create(ContainerSpec.build(["sleep", "60"], rootfs=rootfs), driver="native") as container:
            container.start()
            with container.exec(["true"], stdout=PIPE) as process:
                process.wait()

    return {
        "create": lambda: create(stdout=PIPE, stderr=PIPE),
        "terminal": lambda: create(terminal, stdout=PIPE),
        "run": lambda: engine.run(spec, driver="native", capture_output=True, stdin=b"x"),
        "exec": execute,
    }


@pytest.mark.needs("root", "busybox")
@pytest.mark.parametrize("kind", ["create", "terminal", "run", "exec"])
def test_an_interrupt_anywhere_leaves_nothing(rootfs: Path, tmp_path: Path, kind: str) -> None:
    with Engine(root=tmp_path / "state") as engine:
        call = calls(engine, rootfs)[kind]
        call()
        counter = Interrupter()
        counter.run(call)
        before = leaks.Snapshot()
        for _ in range(COUNT):
            interrupter = Interrupter(random.randrange(1, counter.seen))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # one that the caller never got
                heard = interrupter.run(call)
            assert heard == bool(interrupter.place), f"not heard: {interrupter.place}"
            gc.collect()  # as well
            left = leaks.wait_for_none(before, places=[str(tmp_path)]) + glob("*", root_dir=engine.root)
            assert not left, f"{interrupter.place}: left behind: {left}"


@pytest.mark.needs("root", "busybox")
def test_an_interrupt_anywhere_as_its_memory_comes_to_be_watched(rootfs: Path, tmp_path: Path) -> None:
    files = ("cgroups/notices.py", "execdrivers/watch.py")
    with Engine(root=tmp_path / "state") as engine:

        def live() -> None:
            spec = ContainerSpec.build(["true"], rootfs=rootfs, memory="64M")
            with engine.create(spec, driver="native", stdin=DEVNULL) as container:
                container.start()
                container.wait()

        live()
        (counter := Interrupter(files=files)).run(live)
        before = leaks.Snapshot()
        for at in range(1, counter.seen, 1 + counter.seen // (4 * COUNT)):
            interrupter = Interrupter(at, files)
            assert interrupter.run(live) == bool(interrupter.place)
            assert not (left := leaks.wait_for_none(before, places=[str(tmp_path)])), f"{interrupter.place}: {left}"


def test_an_interrupt_anywhere_in_the_waiting_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one waits as well."""
    monkeypatch.setattr(interrupts, "_current", None)  # and after the test
    (counter := Interrupter()).run(nothing)
    for at in range(1, counter.seen):
        (interrupter := Interrupter(at)).run(nothing)
        assert interrupts._current is None, interrupter.place


def nothing() -> None:
    with deferred():
        pass


def interrupt(times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def test_it_waits_until_all_is_done() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), deferred(), deferred():
        done.append(interrupt())  # type: ignore[func-returns-value]
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_interrupts_twice_is_heard_at_once() -> None:
    with deferred(), pytest.raises(KeyboardInterrupt):
        interrupt(2)


def test_what_hangs_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("execdrivers.interrupts.PATIENCE", 0.05)
    with deferred():
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)


def test_a_wait_hears_what_came_before_and_what_comes() -> None:
    with deferred():
        interrupt()
        with pytest.raises(KeyboardInterrupt), heard():
            pytest.fail("what came before waits on")
        with heard(), pytest.raises(KeyboardInterrupt):
            interrupt()
        interrupt()  # waits again
        with pytest.raises(KeyboardInterrupt), heard():
            pytest.fail("as before")


def test_every_handler_that_raises_waits_and_is_put_back() -> None:
    class Timeout(Exception):
        pass

    def expire(number: int, frame: FrameType | None) -> None:
        raise Timeout

    def both() -> None:
        with deferred():
            signal.raise_signal(signal.SIGALRM)
            interrupt()

    before = signal.signal(signal.SIGALRM, expire)
    try:
        with pytest.raises(Timeout) as caught:
            both()
        assert isinstance(caught.value.__context__, KeyboardInterrupt), "neither is lost"
        assert signal.getsignal(signal.SIGALRM) is expire
    finally:
        signal.signal(signal.SIGALRM, before)


def test_what_cannot_be_handed_over_is_undone() -> None:
    undone: list[int] = []

    def make() -> int:
        interrupt()
        return 7

    with pytest.raises(KeyboardInterrupt):
        whole(make, undone.append)
    assert undone == [7]
    assert whole(lambda: 8, undone.append) == 8


def test_other_threads_are_left_alone() -> None:
    with ThreadPoolExecutor(1) as pool:

        def inside() -> object:
            with deferred(), heard():
                return signal.getsignal(signal.SIGINT)

        assert pool.submit(inside).result() is signal.default_int_handler


def test_a_launcher_that_hangs_can_be_interrupted(no_leaks: None, tmp_path: Path) -> None:
    """A mount, say, of a server that does not answer. Here it is a FIFO without a reader."""
    os.mkfifo(tmp_path / "fifo")
    launch = Launch([operation("write", str(tmp_path / "fifo"), "x"), operation("ready")])
    child = spawn_launcher(launch, Stdio(-1, -1, -1))
    launch.started()
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt), deferred():
            launch.ready()
    finally:
        timer.join()
        launch.close()
        pidfd.send_signal(child.pidfd, signal.SIGKILL)
        pidfd.wait(child.pidfd)
        pidfd.wait_status(child.pidfd)
        os.close(child.pidfd)
