"""The engine on real processes: exits, waiting, timeouts, threads, cleanup, recovery."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import threading
import time
import warnings
from glob import glob
from pathlib import Path

import pytest

from execdrivers import (
    DEVNULL,
    PIPE,
    CommandNotExecutable,
    CommandNotFound,
    ContainerError,
    ContainerExists,
    ContainerNotFound,
    ContainerSpec,
    ContainerTimeout,
    Engine,
    InvalidState,
    SpecError,
    StoreError,
    hookimpl,
    pidfd,
)

SLEEP = ["sleep", "60"]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- run


def test_run_reads_like_subprocess(engine):
    r = engine.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True, text=True)
    assert (r.returncode, r.stdout, r.stderr, r.exit.reason) == (3, "out\n", "err\n", "exited")
    assert r.args == ("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (r.driver, r.guarantees) == ("host", {"contained": False})
    assert 0 < r.duration < 5


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"input": b"x", "stdin": PIPE}, "together with stdin"),
        ({"capture_output": True, "stdout": PIPE}, "together with stdout"),
        ({"capture_output": True, "stderr": PIPE}, "together with stdout"),
        ({"input": "text"}, "is text"),
        ({"stdin": "text"}, "cannot be a container's input"),
        ({"stdin": -2}, "is not a descriptor"),
        ({"stdout": object()}, "cannot take a container's output"),
        ({"memroy": 3}, "is not a field"),
    ],
)
def test_arguments_that_contradict_or_make_no_sense(engine, arguments, status):
    with pytest.raises(SpecError, match=status) as caught:
        engine.run(["true"], **arguments)
    assert isinstance(caught.value, ValueError)
    assert caught.value.remedy


def test_check_and_signals(engine):
    with pytest.raises(ContainerError) as caught:
        engine.run(["sh", "-c", "echo o; kill -9 $$"], check=True, capture_output=True)
    assert (caught.value.returncode, caught.value.output) == (-9, b"o\n")
    assert (caught.value.exit.reason, caught.value.exit.status) == ("signaled", 137)
    assert engine.run(["sh", "-c", "exit 137"]).exit.reason == "exited"


def test_timeout_kills_all_and_keeps_the_output(engine):
    began = time.monotonic()
    with pytest.raises(ContainerTimeout) as caught:
        engine.run(["sh", "-c", "echo early; sleep 60 & sleep 60"], timeout=0.2, capture_output=True, text=True)
    assert 0.2 <= time.monotonic() - began < 2
    assert caught.value.output == "early\n"
    assert (caught.value.exit.reason, caught.value.exit.status) == ("timeout", 124)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("command", "error", "status"),
    [("/no/such", CommandNotFound, 127), ("/etc/passwd", CommandNotExecutable, 126)],
)
def test_a_command_that_cannot_be_run_leaves_nothing(engine, root, command, error, status):
    with pytest.raises(error):
        engine.run([command])
    container = engine.create(ContainerSpec([command]))
    with pytest.raises(error):
        container.start()
    assert (container.exit.reason, container.exit.status, container.state) == ("launch-failed", status, "stopped")
    assert glob("*", root_dir=root) == []


def test_an_interrupt_cleans_up(engine, root):
    timer = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        engine.run(["sh", "-c", "sleep 60 & sleep 60"])
    timer.join()
    assert glob("*", root_dir=root) == []


def test_a_kept_container_stays_with_its_exit(engine, root):
    name = engine.run(["sh", "-c", "exit 4"], keep=True, name="kept").name
    assert glob("*", root_dir=root) == ["kept"]
    (summary,) = engine.list()
    assert (summary.name, summary.state, summary.exit.code, summary.args[0]) == ("kept", "stopped", 4, "sh")
    found = engine.get(name)
    assert (found.state, found.returncode, found.wait().code, found.pid) == ("stopped", 4, 4, None)
    with pytest.raises(InvalidState):
        found.signal("TERM")
    found.delete()
    with pytest.raises(ContainerNotFound, match="no container 'kept'"):
        engine.get("kept")


def test_a_timeout_is_kept_as_such(engine):
    with pytest.raises(ContainerTimeout):
        engine.run(SLEEP, timeout=0.05, keep=True, name="late")
    assert engine.get("late").exit.reason == "timeout"
    engine.delete("late")


# --- the live container


def test_life_of_a_container(engine, make):
    c = make("read line; echo got $line; exit 5", stdin=PIPE)
    assert (c.state, c.exit, c.started_at) == ("created", None, None)
    with pytest.raises(InvalidState, match="not started"):
        c.wait()
    c.start()
    assert c.state == "running"
    assert os.path.exists(f"/proc/{c.pid}")
    assert c.pids() == [c.pid]
    assert engine.get(c.name) is c
    with pytest.raises(InvalidState, match="running and cannot be started"):
        c.start()
    with pytest.raises(InvalidState, match="running and cannot be deleted") as caught:
        c.delete()
    assert "force" in caught.value.remedy
    with pytest.raises(ContainerTimeout):
        c.wait(timeout=0.05)
    assert c.poll() is None
    assert "running" in repr(c)
    c.stdin.write(b"it\n")
    c.stdin.close()
    assert c.wait().code == 5
    assert (c.state, c.returncode, c.pid, c.stdout.read()) == ("stopped", 5, None, b"got it\n")
    assert c.finished_at >= c.started_at >= c.created_at
    with pytest.raises(InvalidState, match="takes no signal"):
        c.signal(15)
    c.kill()
    c.delete()
    c.delete()
    assert c.state == "stopped"
    with pytest.raises(ContainerNotFound):
        engine.get(c.name)


@pytest.mark.parametrize("number", ["TERM", "SIGTERM", 15])
def test_signals_by_name_and_number(make, number):
    with make("trap 'exit 7' TERM; echo on; while :; do sleep 0.01; done") as c:
        c.start()
        c.stdout.readline()
        c.signal(number)
        assert c.wait(5).code == 7


def test_an_unknown_signal(make):
    with make("sleep 60") as c, pytest.raises(SpecError, match="is not a signal"):
        c.signal("TREM")


def test_stop_asks_before_it_kills(make):
    with make("trap 'exit 8' USR1; echo on; while :; do sleep 0.01; done", spec={"stop_signal": "USR1"}) as c:
        c.start()
        c.stdout.readline()
        assert c.stop().code == 8
        assert c.stop().code == 8
    with make("trap '' TERM; echo on; while :; do sleep 0.01; done") as c:
        c.start()
        c.stdout.readline()
        assert c.stop(timeout=0.1).signal == signal.SIGKILL


def test_what_was_never_started_can_be_deleted(engine, root, make):
    with make("true") as c:
        assert engine.list()[0].state == "created"
        assert c.state == "created"
    assert glob("*", root_dir=root) == []


@pytest.mark.parametrize("force", [False, True])
def test_what_another_thread_is_starting_is_deleted_as_what_runs(make, monkeypatch, force):
    with make("sleep 60") as c:
        starting = threading.Event()
        monkeypatch.setattr(c, "_require_created", lambda: (starting.set(), time.sleep(0.05)))
        thread = threading.Thread(target=c.start)
        thread.start()
        starting.wait()
        if force:
            c.delete(force=True)
            assert c.exit.signal == signal.SIGKILL
        else:
            with pytest.raises(InvalidState, match="running"):
                c.delete()
        thread.join()


def test_a_name_is_used_once(engine, make):
    with make("true", name="one"):
        with pytest.raises(ContainerExists, match="'one' is in use") as caught:
            engine.run(["true"], name="one")
        assert "execdrivers rm one" in caught.value.remedy
    engine.run(["true"], name="one")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a\n", "é", "x" * 129])
def test_names_that_cannot_be(engine, root, name):
    with pytest.raises(SpecError, match="is not a container name"):
        engine.run(["true"], name=name)
    with pytest.raises(ContainerNotFound):
        engine.get(name)


def test_grandchildren_that_hold_the_pipes_do_not_hold_us(engine):
    began = time.monotonic()
    r = engine.run(["sh", "-c", "sleep 60 & echo done"], capture_output=True)
    assert r.stdout == b"done\n"
    assert time.monotonic() - began < 2


def test_many_threads_wait_for_one(make):
    with make("sleep 0.2; exit 9") as c:
        c.start()
        exits, late = [], []

        def wait():
            exits.append(c.wait().code)

        def wait_a_little():
            try:
                c.wait(0.05)
            except ContainerTimeout:
                late.append(True)

        threads = [threading.Thread(target=target) for target in [wait] * 8 + [wait_a_little] * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (exits, late) == ([9] * 8, [True] * 4)


def test_one_thread_deletes_what_another_waits_for(make):
    c = make("sleep 60")
    c.start()
    ends = []
    waiter = threading.Thread(target=lambda: ends.append(c.wait()))
    waiter.start()
    time.sleep(0.05)
    c.delete(force=True)
    waiter.join(5)
    assert ends[0].signal == signal.SIGKILL


def test_many_threads_on_one_engine(engine, root):
    failures = []

    def work(number):
        for turn in range(10):
            r = engine.run(["sh", "-c", f"echo {number}-{turn}"], capture_output=True, text=True)
            if r.stdout != f"{number}-{turn}\n":
                failures.append(r)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert glob("*", root_dir=root) == []


def test_the_exit_is_told_although_others_reap_our_children(engine):
    """A program with a SIGCHLD handler that waits for any child."""

    def reap(*_):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    before = signal.signal(signal.SIGCHLD, reap)
    try:
        codes = {engine.run(["sh", "-c", "exit 6"]).exit for _ in range(20)}
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert {exit.code for exit in codes} <= {6, None}
    if os.uname().release >= "6.15":
        assert {exit.code for exit in codes} == {6}


# --- nothing is left


def test_five_hundred_runs_leave_nothing(engine, root):
    engine.run(["true"], capture_output=True)
    before = descriptors()
    for _ in range(500):
        engine.run(["true"], capture_output=True)
    assert descriptors() == before
    assert glob("*", root_dir=root) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_container_that_is_dropped_is_cleaned_up(no_leaks, make, root):
    c = make("sleep 60")
    c.start()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del c
        gc.collect()
    assert [entry.category for entry in told] == [ResourceWarning]
    assert "dropped without delete" in str(told[0].message)
    assert glob("*", root_dir=root) == []


def test_the_end_of_an_engine_deletes_what_it_made(no_leaks, registry, root):
    with Engine(root, registry=registry) as engine:
        one = engine.create(ContainerSpec(SLEEP))
        one.start()
        two = engine.create(ContainerSpec(SLEEP))
    assert (one.exit.signal, two.exit) == (signal.SIGKILL, None)
    assert glob("*", root_dir=root) == []
    with pytest.raises(InvalidState, match="the engine is closed"):
        engine.run(["true"])


def test_a_fork_does_not_end_its_parents_containers(make):
    with make("sleep 60") as c:
        c.start()
        pid = os.fork()
        if pid == 0:
            c.__del__()
            os._exit(0)
        os.waitpid(pid, 0)
        assert c.state == "running"


@pytest.mark.parametrize("hook", ["execdrivers_amend_spec", "execdrivers_observe"])
def test_a_hook_that_raises_leaves_nothing(engine, registry, root, hook, caplog):
    def fail(self):
        raise RuntimeError("no")

    fail.__name__ = hook
    registry.register(type("Bad", (), {hook: hookimpl(fail)})())
    if hook == "execdrivers_observe":
        assert engine.run(["true"]).returncode == 0
        assert "failed to observe" in caplog.text
    else:
        with pytest.raises(RuntimeError, match="no"):
            engine.run(["true"])
    assert not root.exists() or glob("*", root_dir=root) == []


@pytest.mark.needs("root")
def test_a_full_disk(no_leaks, registry, tmp_path):
    root = tmp_path / "full"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", root], check=True)
    try:
        engine = Engine(root, registry=registry)
        engine.run(["true"])
        with pytest.raises(OSError, match="No space"):
            (root / "ballast").write_bytes(bytes(1 << 20))
        with pytest.raises(StoreError, match="No space left") as caught:
            engine.run(["true"])
        assert caught.value.errno == 28
        assert "free some space" in caught.value.remedy
        assert glob("*", root_dir=root) == ["ballast"]
    finally:
        subprocess.run(["umount", root], check=True)


# --- two programs


@pytest.fixture
def other(program):
    """Starts a program on the same root; killed at the end."""
    started = []

    def other(text):
        process = subprocess.Popen(program(text), stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield other
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_another_programs_container(engine, other):
    process = other("print(engine.run(sh('echo up; exec sleep 60'), name='theirs').exit.status)")
    assert process.stdout.readline() == "up\n"
    c = engine.get("theirs")
    assert (c.state, c.owned) == ("running", True)
    with pytest.raises(ContainerTimeout):
        c.wait(0.05)
    with pytest.raises(InvalidState, match="cannot be deleted"):
        c.delete()
    c.signal("KILL")
    assert c.wait().signal == signal.SIGKILL
    assert process.communicate()[0] == "137\n"
    with pytest.raises(ContainerNotFound):
        engine.get("theirs")


@pytest.mark.parametrize("keep", [False, True])
def test_another_programs_container_is_deleted(engine, root, other, keep):
    process = other(f"print(engine.run(sh('echo up; exec sleep 60'), name='theirs', keep={keep}).exit.status)")
    assert process.stdout.readline() == "up\n"
    engine.delete("theirs", force=True)
    assert process.communicate()[0] == "137\n"
    assert glob("*", root_dir=root) == []


def test_a_detached_container_outlives_its_maker(engine, other):
    process = other("""
c = engine.create(sh('sleep 0.5; exit 3'), name='lives', stdin=-3, stdout=-3, stderr=-3)
c.start(); c.detach(); print(c.pid)
""")
    pid = int(process.communicate()[0])
    c = engine.get("lives")
    assert (c.state, c.pid, c.owned) == ("running", pid, False)
    # Nobody but its parent, gone by now, could see how; newer kernels tell who holds a pidfd.
    assert c.wait().code in (3, None)
    assert (c.state, engine.list()[0].state) == ("stopped", "stopped")
    c.delete()


@pytest.fixture
def others(registry, root):
    """An engine as of another program."""
    return Engine(root, registry=registry)


def test_one_that_was_removed_before_its_start(make, others):
    c = make("true")
    theirs, watching = others.get(c.id), others.get(c.id)
    theirs.delete()
    with pytest.raises(ContainerNotFound):
        theirs.wait(5)
    with pytest.raises(ContainerNotFound):
        watching.wait(5)
    with pytest.raises(InvalidState, match=r"was removed by another program.*create another"):
        c.start()
    c.delete()


def test_letting_go_keeps_what_others_have_recorded(make, others):
    c = make("sleep 60", stdin=DEVNULL, stdout=DEVNULL)
    c.start()
    theirs = others.get(c.id)
    theirs.pause()
    theirs.update(pids=77)
    c.detach()
    (found,) = others.list()
    assert (found.state, found.owner, found.spec.resources.pids) == ("paused", None, 77)
    c.delete(force=True)


def test_a_command_that_ends_while_its_start_is_recorded(make, others, monkeypatch):
    """It is let go of; who concludes it comes after all that begins it."""
    c = make("exit 3", stdin=DEVNULL, stdout=DEVNULL)
    c.detach()
    theirs = others.get(c.id)
    concluding = threading.Thread(target=theirs.wait)
    start, fd = c._handle.start, os.dup(c._handle.exit_fd)

    def start_and_see():
        start()
        assert pidfd.wait(fd, 10)
        concluding.join(0.1)

    monkeypatch.setattr(c._handle, "start", start_and_see)
    concluding.start()
    time.sleep(0.05)
    c.start()
    os.close(fd)
    concluding.join(10)
    assert c.wait().code == theirs.exit.code == 3
    assert others.list()[0].state == "stopped"
    c.delete()
    told = [event.type for event in others.events(follow=False)]
    assert told == ["created", "started", "exited", "deleted"]


def test_what_has_ended_unseen_is_told_of_as_it_is_deleted(make, others):
    c = make("exit 3", stdin=DEVNULL, stdout=DEVNULL)
    c.start()
    c.detach()
    assert pidfd.wait(c._handle.exit_fd, 10)
    others.delete(c.id)
    told = [event.type for event in others.events(follow=False)]
    assert told == ["created", "started", "exited", "deleted"]
    c.delete()


def test_an_engine_that_is_closed_while_a_container_is_made(registry, root, no_leaks):
    engine = Engine(root, registry=registry)

    class Closing:
        @hookimpl
        def execdrivers_observe(self, event):
            in_thread = threading.Thread(target=engine.close)
            in_thread.start()
            in_thread.join()

    registry.register(Closing())
    with pytest.raises(InvalidState, match="closed meanwhile"):
        engine.create(ContainerSpec(SLEEP))
    assert glob("*", root_dir=root) == []


def test_a_fork_finds_its_parents_containers_as_any_program_does(engine, make):
    with make("sleep 60") as c:
        assert engine.get(c.id) is c
        if not (pid := os.fork()):
            os._exit(engine.get(c.id) is c or c in engine.recover())
        assert os.waitpid(pid, 0)[1] == 0


def test_a_process_that_was_let_go_of(make):
    with make("sleep 60") as c:
        c.start()
        process = c.exec(["sleep", "60"], stdin=DEVNULL)
        pid = process.pid
        process.detach()
        assert process.poll() is None
        with pytest.raises(InvalidState, match="was let go of"):
            process.wait()
        process.close()
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)


def test_a_program_that_is_killed(engine, root, other):
    """What it had only created dies by itself, what ran is found, and both can be removed."""
    process = other("""
a = engine.create(sh('sleep 60'), name='unstarted'); b = engine.create(sh('sleep 60'), name='started')
b.start(); print(a.pid, b.pid, flush=True); time.sleep(60)
""")
    first, second = map(int, process.stdout.readline().split())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{first}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {s.name: s.state for s in engine.list()} == {"unstarted": "stopped", "started": "running"}
    engine.delete("unstarted")
    engine.delete("started", force=True)
    assert glob("*", root_dir=root) == []
    assert not os.path.exists(f"/proc/{second}") or Path(f"/proc/{second}/stat").read_text().split()[2] == "Z"


def test_two_programs_on_the_same_names(engine, root, other):
    text = """
from execdrivers import ContainerExists
won = 0
end = time.monotonic() + 2
while time.monotonic() < end:
    for name in ('a', 'b', 'c'):
        try:
            r = engine.run(sh('echo %d' % os.getpid()), name=name, capture_output=True, text=True)
            assert r.stdout == '%d\\n' % os.getpid(), r
            won += 1
        except ContainerExists:
            pass
        for summary in engine.list():
            assert summary.error is None, summary
        try:
            with engine.create(sh('true'), name=name) as c:
                c.start(); c.wait()
        except ContainerExists:
            pass
print(won)
"""
    programs = [other(text), other(text)]
    wins = [int(process.communicate()[0]) for process in programs]
    assert [process.returncode for process in programs] == [0, 0]
    assert all(wins)
    assert glob("*", root_dir=root) == []
