"""A signal to all: whom it reaches when pids change hands and processes come and go meanwhile."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from execdrivers import Exit, Handle, OperationError
from execdrivers.broadcast import signal_all

_WAITER = "import signal, sys; signal.sigwait({10}); print('told', flush=True); signal.pause()"


class Listed(Handle):
    """A container whose driver lists processes as it is told to."""

    def __init__(self, lists: Callable[[int], Sequence[int]]) -> None:
        self.asked = 0
        self.lists = lists

    def pids(self) -> Sequence[int]:
        self.asked += 1
        return self.lists(self.asked)

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def delete(self) -> None: ...
    def signal(self, number: signal.Signals) -> None: ...
    def exit(self) -> Exit:
        raise NotImplementedError

    def state(self) -> dict[str, object]:
        return {}


Member = subprocess.Popen[str]


@pytest.fixture
def members() -> Iterator[list[Member]]:
    """Three processes that tell of SIGUSR1, which they hold back until they wait for it."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    started = [
        subprocess.Popen([sys.executable, "-c", _WAITER], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]  # fmt: skip
    signal.pthread_sigmask(signal.SIG_SETMASK, old)
    yield started
    for process in started:
        process.kill()
        process.communicate()


def told(process: Member) -> bool:
    """Whether it has got the signal, once that would have been sent: it is pending, or it says so, or it ended."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
        pending = next(line for line in file if line.startswith("ShdPnd:"))
    if int(pending.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1:
        return True
    return bool(select.select([process.stdout], [], [], 0.1)[0])


def test_a_pid_that_is_not_a_members_any_more_is_left_alone(members: list[Member]) -> None:
    """It was listed, then its process ended, and an outsider has the pid when it is opened."""
    member, outsider, _ = members
    handle = Listed(lambda asked: [member.pid, outsider.pid] if asked == 1 else [member.pid])
    signal_all(handle, signal.SIGUSR1, still=False)
    assert member.stdout is not None and member.stdout.readline() == "told\n"
    assert not told(outsider)


def test_who_comes_meanwhile_is_told_in_the_next_round(members: list[Member]) -> None:
    first, second, third = (member.pid for member in members)
    handle = Listed(lambda asked: [first] if asked < 3 else [first, second] if asked < 5 else [first, second, third])
    signal_all(handle, signal.SIGUSR1, still=False)
    for member in members:
        assert member.stdout is not None and member.stdout.readline() == "told\n"
        assert member.poll() is None  # one more would have ended it


def test_a_moments_processes_are_told_in_one_round(members: list[Member]) -> None:
    first, second, _ = members
    handle = Listed(lambda asked: [first.pid] if asked < 3 else [first.pid, second.pid])
    signal_all(handle, signal.SIGUSR1, still=True)
    assert handle.asked == 2
    assert first.stdout is not None and first.stdout.readline() == "told\n"
    assert not told(second)


def test_one_can_be_spared(members: list[Member]) -> None:
    first, second, _ = members
    signal_all(Listed(lambda asked: [first.pid, second.pid]), signal.SIGUSR1, still=False, spare=second.pid)
    assert first.stdout is not None and first.stdout.readline() == "told\n"
    assert not told(second)


def test_those_that_ended_are_no_error() -> None:
    ended = subprocess.Popen(["true"])
    zombie = subprocess.Popen(["true"])
    ended.wait()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    handle = Listed(lambda asked: [zombie.pid] if asked > 2 else [ended.pid, zombie.pid, 2**22 + 1])
    signal_all(handle, signal.SIGUSR1, still=False)
    assert zombie.wait() == 0


def test_endless_forking_is_told_and_has_an_end() -> None:
    children: list[subprocess.Popen[bytes]] = []

    def more(asked: int) -> list[int]:
        if asked % 2:
            children.append(subprocess.Popen(["sleep", "60"]))
        return [child.pid for child in children[-2:]]

    try:
        with pytest.raises(OperationError) as caught:
            signal_all(Listed(more), signal.SIGCONT, still=False)
        assert caught.value.operation == "signal" and caught.value.remedy
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_no_descriptor_is_left_and_many_processes_need_few(members: list[Member]) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    crowd = [subprocess.Popen(["sleep", "60"]) for _ in range(100)]
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 70, hard))
    try:
        signal_all(Listed(lambda asked: [child.pid for child in crowd]), signal.SIGTERM, still=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [child.wait() for child in crowd] == [-signal.SIGTERM] * 100
    assert len(os.listdir("/proc/self/fd")) == before
