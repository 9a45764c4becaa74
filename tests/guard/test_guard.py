"""Containers end with the program that made them, however that ends, and with nothing less than the program."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, ContainerSpec, Engine, LaunchError, aftermath, guard
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root")

ROUNDS = int(os.environ.get("GUARD_ROUNDS", "30"))


def test_killed_at_any_moment(program: Any) -> None:
    chance = random.Random(7)
    text = "tell('on')\nwhile True: start('a').delete(force=True); c = start(); d = make()"
    for _ in range(ROUNDS):
        process = program.start(text)
        assert process.stdout and process.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.wait()
        program.gone()


def test_an_end_without_deleting(program: Any) -> None:
    program.run("start(); make(); os._exit(0)")
    program.gone()
    program.run("c = start(); d = make()")  # an ordinary end
    program.gone()


def test_two_threads_of_which_one_ends(program: Any) -> None:
    process = program.start(
        """
thread = threading.Thread(target=start, args=("a",)); thread.start(); thread.join(); tell("on"); sys.stdin.read()
"""
    )
    assert process.stdout and process.stdout.readline()
    time.sleep(0.3)
    assert program.records() == ["a"] and program.processes()
    process.kill()
    process.wait()
    program.gone()


def test_the_first_thread_ends_before_another(program: Any) -> None:
    """Then the kernel shows the program as a zombie, which it is not."""
    process = program.start(
        """
import ctypes
start("a")
def on():
    tell("on"); time.sleep(0.5); tell(engine.get("a").state); time.sleep(1000)
threading.Thread(target=on).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    )
    assert process.stdout and process.stdout.readline() == "on\n"
    assert process.stdout.readline() == "running\n"
    with Engine(program.root) as engine:
        assert engine.list()[0].owner == process.pid
        assert engine.gc() == []
    assert program.guards_of(process.pid) and program.processes()
    process.kill()
    process.wait()
    program.gone()


def test_a_fork_is_another_program(program: Any) -> None:
    process = program.start(
        """
start("parents")
if os.fork() == 0:
    start("childs"); tell(os.getpid()); time.sleep(1000)
time.sleep(1000)
"""
    )
    assert process.stdout
    child = int(process.stdout.readline())
    os.kill(child, signal.SIGKILL)
    host.until(lambda: program.records() == ["parents"], "the child's went")
    time.sleep(0.2)
    assert program.records() == ["parents"] and len(program.processes()) == 1
    process.kill()
    process.wait()
    program.gone()


def test_a_fork_that_lives_on_keeps_nothing_of_its_parent(program: Any) -> None:
    process = program.start(
        """
c = start("parents")
if os.fork() == 0:
    tell(os.getpid()); c._unguard(); time.sleep(1000)
time.sleep(1000)
"""
    )
    assert process.stdout
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    program.gone()
    os.kill(child, signal.SIGKILL)


def test_what_executes_another_program_is_the_same(program: Any) -> None:
    process = program.start("start('a'); os.execv('/bin/sh', ['sh', '-c', 'echo on; exec sleep 1000'])")
    assert process.stdout and process.stdout.readline()
    time.sleep(0.3)
    assert program.records() == ["a"] and program.processes()
    process.kill()
    process.wait()
    program.gone()


@pytest.mark.needs("strace")
@pytest.mark.parametrize("text", ["start().delete(force=True)", "make().delete()", "start().detach()"])
def test_nothing_is_started_for_a_program_that_leaves_nothing(program: Any, text: str) -> None:
    process = program.start(f"for _ in range(3): {text}\ntell('done'); sys.stdin.read()")
    assert process.stdout and process.stdout.readline()
    (its_guard,) = program.guards_of(process.pid)
    trace = subprocess.Popen(["strace", "-qq", "-f", "-p", str(its_guard)], stderr=subprocess.PIPE, text=True)
    host.until(lambda: host.status(its_guard)["TracerPid"] != "0", "strace looks on")
    process.kill()
    process.wait()
    calls = trace.communicate()[1]
    assert "exit_group(0)" in calls and "execve" not in calls
    with Engine(program.root) as engine:
        for summary in engine.list():
            engine.delete(summary.id, force=True)


def test_a_container_that_was_let_go_of_stays(program: Any) -> None:
    # Before it is started there is nothing to let go of yet.
    program.run("start('a').detach(); start('b'); make('c').detach(); d = make('d'); d.detach(); d.start()")
    host.until(lambda: program.records() == ["a", "d"], "the others went")
    assert len(program.processes()) == 2
    with Engine(program.root) as engine:
        for name in ("a", "d"):
            assert engine.get(name).state == "running"
            engine.delete(name, force=True)


def test_records_kept_on_purpose_stay(program: Any) -> None:
    program.run(
        "spec = ContainerSpec(['sh', '-c', 'exit 3'], rootfs=sys.argv[3])\n"
        "engine.run(spec, driver='native', name='kept', keep=True, stdin=DEVNULL); start('b')"
    )
    host.until(lambda: program.records() == ["kept"], "the other went")
    with Engine(program.root) as engine:
        assert engine.gc() == []
        kept = engine.get("kept")
        assert (kept.state, kept.exit.code if kept.exit else None) == ("stopped", 3)
        assert engine.list()[0].owner is None
        kept.delete()


def test_one_guard_of_nobody(program: Any) -> None:
    process = program.start("c = [start() for _ in range(3)]; tell('on'); sys.stdin.read()")
    assert process.stdout and process.stdout.readline()
    (its_guard,) = program.guards_of(process.pid)
    status = host.status(its_guard)
    assert status["Name"] == "execdrivers-grd" and status["PPid"] != str(process.pid)
    assert int(status["Threads"]) == 1
    assert {os.readlink(f"/proc/{its_guard}/fd/{number}") for number in (0, 1, 2)} == {os.devnull}
    assert sorted(map(int, os.listdir(f"/proc/{its_guard}/fd"))) == [0, 1, 2, 3, 4]
    assert os.readlink(f"/proc/{its_guard}/cwd") == "/" and os.getsid(its_guard) == its_guard
    rollup = Path(f"/proc/{its_guard}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
    assert private < 100, "KiB of its own"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(its_guard, number)
    time.sleep(0.1)
    assert host.alive(its_guard)
    process.kill()
    process.wait()
    program.gone()
    host.until(lambda: not host.alive(its_guard), "the guard ended")


def test_a_cleaner_that_is_killed_leaves_it_to_gc(program: Any) -> None:
    process = program.start("c = [start(str(n)) for n in range(3)]; tell('on'); sys.stdin.read()")
    assert process.stdout and process.stdout.readline()
    for each in program.guards_of(process.pid):
        os.kill(each, signal.SIGKILL)
    process.kill()
    process.wait()
    time.sleep(0.2)
    assert program.records() == ["0", "1", "2"]
    with Engine(program.root) as engine:
        assert [item.id for item in engine.gc(dry_run=True)] == ["0", "1", "2"]
        assert program.records() == ["0", "1", "2"]
        found = engine.gc()
        assert [(item.id, item.what, item.error) for item in found] == [(id, "container", None) for id in "012"]
        assert "which has ended" in str(found[0])
        assert engine.gc() == []
    assert not program.records()


# --- the object ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], guard.Guard]:
    """A guard that is not this program's only one, and that executes nothing at its end."""
    monkeypatch.setattr(guard, "cleaner", lambda: ["/bin/true"])
    return guard.Guard


def roots_of(its: guard.Guard) -> list[bytes]:
    page = its._page
    return bytes(its._ffi.buffer(page.roots)[: page.used]).split(b"\0")[:-1]


def test_roots_that_are_not_used_any_more_make_room(fresh: Callable[[], guard.Guard]) -> None:
    its = fresh()
    for number in range(100):
        its.add(f"/{number}/{'x' * 1000}")
        if number != 50:
            its.remove(f"/{number}/{'x' * 1000}")
    assert its._page.count == 1
    assert 1 < len(roots_of(its)) < 66 and f"/50/{'x' * 1000}".encode() in roots_of(its)
    its.remove(f"/50/{'x' * 1000}")
    assert its._page.count == 0


def test_too_many_roots_are_refused(fresh: Callable[[], guard.Guard]) -> None:
    its = fresh()

    def add_all() -> None:
        for number in range(100):
            its.add(f"/{number}/{'x' * 1000}")

    with pytest.raises(LaunchError, match="too many roots"):
        add_all()
    for number in range(its._page.count):
        its.remove(f"/{number}/{'x' * 1000}")
    assert its._page.count == 0


def test_threads_count_rightly(fresh: Callable[[], guard.Guard], monkeypatch: pytest.MonkeyPatch) -> None:
    its = fresh()
    monkeypatch.setattr(guard, "_guard", its)

    def body() -> None:
        for _ in range(2000):
            held = guard.hold("/r")
            held.release()
            held.release()

    threads = [threading.Thread(target=body) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert its._page.count == 0 and its._roots == {"/r": 0} and roots_of(its) == [b"/r"]


def test_without_an_interpreter_there_is_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    its = guard.Guard()
    its.add("/r")
    its.remove("/r")
    assert guard.cleaner() is None


def test_a_guard_that_cannot_be_started_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rootfs: Path
) -> None:
    import resource

    monkeypatch.setattr(guard, "_guard", None)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 8
    held = []
    engine = Engine(tmp_path / "state")
    spec = ContainerSpec(["true"], rootfs=str(rootfs))
    engine.explain(spec)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        os.close(held.pop())
        with pytest.raises(LaunchError, match="guard: Too many open files") as raised:
            guard.hold("/r")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in held:
            os.close(fd)
    assert raised.value.step == "guard"
    assert guard._guard is None
    with engine.create(spec, driver="native", stdin=DEVNULL, stdout=DEVNULL) as container:
        container.start()
        assert container.wait().ok


@pytest.mark.parametrize("failures", [2, 3])
def test_what_is_busy_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failures: int
) -> None:
    """By the aftermath of one that was detached, which nobody waits for."""
    tries = []

    class Busy:
        def conclude(self) -> None:
            tries.append("conclude")
            if len(tries) // 2 < failures:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "/sys/fs/cgroup/x")

        def _release(self) -> None:
            tries.append("release")

    monkeypatch.setattr("execdrivers.garbage.recovered", lambda *_: Busy())
    monkeypatch.setattr(aftermath, "_TRIES", (0.0, 0.0, 0.0))
    assert aftermath.main(["/root", "web"]) == (failures == 3)
    assert tries == ["conclude", "release"] * 3
    assert ("'web'" in caplog.text and "busy" in caplog.text) == (failures == 3)
