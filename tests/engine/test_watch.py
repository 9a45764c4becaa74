"""What notices come to, without the kernel's part in it."""

from __future__ import annotations

import os
import select
import threading
import time

import pytest

from execdrivers import Notice
from execdrivers import watch as watching
from execdrivers.watch import Watch


class Watched:
    """A watch of v1's kind, whose descriptors are ours, and what it tells."""

    def __init__(self, path):
        self.path = path
        self.count(0)
        self.oom, self.pressure = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        count_fd = os.open(path, os.O_RDONLY)
        self.told = []
        self.watch = Watch(
            [
                Notice(type="oom", fd=self.oom, events=select.POLLIN, count_fd=count_fd),
                Notice(type="memory_pressure", fd=self.pressure, events=select.POLLIN),
            ],
            self.told.append,
            lambda: self.told.append("pressure"),
        )

    def count(self, number):
        self.path.write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {number}\n")

    def wait(self, seconds):
        """As the pump does; how often it woke."""
        until, woken = time.monotonic() + seconds, 0
        while (left := until - time.monotonic()) > 0:
            poll = select.poll()
            for fd, events in self.watch.fds.items():
                poll.register(fd, events)
            if ready := poll.poll(left * 1000):
                woken += 1
                self.watch.read([fd for fd, _ in ready])
        return woken


@pytest.fixture
def watched(no_leaks, tmp_path):
    watched = Watched(tmp_path / "memory.oom_control")
    yield watched
    watched.watch.close()


def test_a_count_that_grows_after_it_was_told_of(watched):
    os.eventfd_write(watched.oom, 1)
    timer = threading.Timer(0.05, watched.count, [1])
    timer.start()
    woken = watched.wait(3)
    timer.join()
    assert watched.told == [1]
    assert woken <= 10
    assert watched.wait(0.2) == 0


def test_a_count_that_does_not_grow(watched):
    """Memory was found after all: looked at some times, and then no more."""
    os.eventfd_write(watched.oom, 3)
    assert 5 <= watched.wait(3) <= 10
    assert watched.told == []
    watched.count(2)  # is told when there is another reason to look
    watched.watch.read()
    watched.watch.read()
    assert watched.told == [2]


def test_each_growth_is_told(watched):
    for number in (1, 2, 5):
        watched.count(number)
        os.eventfd_write(watched.oom, 1)
        watched.wait(0.02)
    assert watched.told == [1, 2, 5]


def test_pressure_is_told_once_a_while(watched, monkeypatch):
    monkeypatch.setattr(watching, "_PAUSE", 0.3)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        os.eventfd_write(watched.pressure, 1)
        watched.wait(0.01)
    assert watched.told == ["pressure"] * 2


def test_once_the_cgroup_is_gone_nothing_is_polled(watched, monkeypatch):
    def gone(fd, *args):
        raise OSError(19, os.strerror(19))

    os.eventfd_write(watched.oom, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", gone)
        watched.watch.read()
    assert watched.watch.fds == {}
    watched.count(3)
    watched.watch.read()
    watched.watch.close()
    assert watched.told == []
