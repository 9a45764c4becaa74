"""exec, whose launcher begins before other programs are kept away: what they have done until then is heeded."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers import DEVNULL, PIPE, Container, ContainerNotFound, ContainerSpec, Engine, InvalidState, cgroups, pidfd
from execdrivers.driver import ExecRequest
from execdrivers.launcher import joined
from execdrivers_native.handle import NativeHandle

pytestmark = pytest.mark.needs("root", "busybox")


@pytest.fixture
def container(no_leaks: None, engine: Engine, rootfs: Path) -> Container:
    container = engine.create(ContainerSpec(["sleep", "60"], rootfs=rootfs, init=True), driver="native", stdin=DEVNULL)
    container.start()
    return container


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something done once the launcher has begun, and before the container is locked."""

    def arrange(act: Callable[[], object]) -> None:
        execute = NativeHandle.exec

        def exec(handle: NativeHandle, request: ExecRequest) -> object:
            admit = request.admit
            assert admit is not None

            def late() -> object:
                assert joined._under_way
                monkeypatch.undo()
                act()
                return admit()

            object.__setattr__(request, "admit", late)
            return execute(handle, request)

        monkeypatch.setattr(NativeHandle, "exec", exec)

    return arrange


def descendants() -> set[int]:
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_the_lock_is_taken_while_the_launcher_comes_into_being(
    container: Container, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    seen: list[bool] = []
    meanwhile(lambda: seen.append(container._entry._lock >= 0))
    with container.exec(["true"]) as process:
        assert process.wait().ok
    assert seen == [False]
    container.delete(force=True)


@pytest.mark.parametrize("recovered", [False, True])
def test_it_was_paused_just_before(
    engine: Engine, container: Container, meanwhile: Callable[[Callable[[], object]], None], recovered: bool
) -> None:
    with Engine(engine.root) as other, Engine(engine.root) as third:
        ours = third.get(container.id) if recovered else container
        with ours.exec(["true"]) as process:  # takes hold of it
            process.wait()
        before = descendants()
        meanwhile(other.get(container.id).pause)
        with pytest.raises(InvalidState, match="is paused and cannot take another process"):
            ours.exec(["touch", "/tmp/there"])
        assert descendants() == before
        other.get(container.id).resume()
        with ours.exec(["test", "-e", "/tmp/there"]) as process:
            assert process.wait().code == 1
    container.delete(force=True)


def test_it_was_removed_just_before(
    engine: Engine, container: Container, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    before = descendants()
    with Engine(engine.root) as other, Engine(engine.root) as third:
        ours = third.get(container.id)
        with ours.exec(["true"]) as process:
            process.wait()
        meanwhile(lambda: other.delete(container.id, force=True))
        with pytest.raises((ContainerNotFound, InvalidState)):
            ours.exec(["true"])
    container.delete(force=True)
    assert descendants() <= before


def test_cgroups_were_made_just_before(
    engine: Engine, container: Container, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    with Engine(engine.root) as other:

        def limit() -> None:
            other.get(container.id).update(pids=7)

        meanwhile(limit)
        with container.exec(["sleep", "60"]) as process:
            made = cgroups.find(f"{cgroups.parent()}/{container.id}", cgroups.look())
            assert made
            for cgroup in made:
                assert process.pid in cgroups.processes([cgroup])
    container.delete(force=True)


def test_it_runs_where_the_caller_may(container: Container) -> None:
    """Its parent stays on one processor; it does not."""
    allowed = Path("/proc/self/status").read_text()
    with container.exec(["cat", "/proc/self/status"], stdout=PIPE) as process:
        out = process.communicate()[0]
    assert out is not None
    pattern = re.compile(r"^Cpus_allowed:\t.*$", re.MULTILINE)
    assert pattern.findall(out.decode()) == pattern.findall(allowed)
    container.delete(force=True)


def test_no_launcher_looks_out_where_several_begin(
    engine: Engine, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the processor from the others."""
    begin, told, both = joined.spawn_launcher, list[bool](), threading.Barrier(2)

    def noted(*args: object, alone: bool, **options: object) -> object:
        told.append(alone)
        both.wait(10)
        return begin(*args, alone=alone, **options)  # type: ignore[arg-type]

    def execute(ours: Container) -> None:
        with ours.exec(["true"]) as process:
            process.wait()

    with Engine(engine.root) as other:
        mine = [container, other.get(container.id)]
        for each in mine:
            execute(each)  # takes hold of it
        monkeypatch.setattr(joined, "spawn_launcher", noted)
        threads = [threading.Thread(target=execute, args=(each,)) for each in mine]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told == [True, False] and not joined._under_way
    container.delete(force=True)


def test_who_waits_outside_is_stopped(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its end is waited for, as long as it takes or is sensible."""
    process = container.exec(["sh", "-c", "read x; exit 7"], stdin=PIPE)
    outside = process._handle._outside.pid  # type: ignore[attr-defined]
    assert pidfd.children(outside) == [process.pid]
    os.kill(outside, 19)
    resumed = threading.Timer(0.3, os.kill, (outside, 18))
    resumed.start()
    assert process.stdin is not None
    process.stdin.close()
    began = time.monotonic()
    assert process.wait().code == 7
    assert time.monotonic() - began > 0.1
    process.close()
    resumed.join()
    container.delete(force=True)
