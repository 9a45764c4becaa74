"""What the kernel tells of a container's memory, as a monitor writes it to the journal of events.

Eventfds and files stand for the cgroup's; that the kernel serves them so is tested with the drivers.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers.monitor import Watch

HEADER = b'{"journal":1,"before":0}\n'
PREFIX = b'{"type":"oom","id":"a","time":'


class Memory:
    """A journal, an eventfd that tells, and a file that counts."""

    def __init__(self, directory: Path) -> None:
        self.events = directory / "events"
        self.events.mkdir()
        self.journal = self.events / "journal"
        self.journal.write_bytes(HEADER)
        self.count = directory / "memory.oom_control"
        self.kills(0)
        self.directory_fd = os.open(self.events, os.O_RDONLY)
        self.count_fd = os.open(self.count, os.O_RDONLY)
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def kills(self, number: int) -> None:
        """As version 1 has it."""
        self.count.write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {number}\n")

    def tell(self) -> None:
        os.eventfd_write(self.fd, 1)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.journal.read_text().splitlines() if line.startswith('{"type"')]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        until = time.monotonic() + 10
        while len(lines := self.lines()) < count and time.monotonic() < until:
            time.sleep(0.01)
        return lines

    def close(self) -> None:
        for fd in (self.directory_fd, self.count_fd, self.fd):
            os.close(fd)


@pytest.fixture
def memory(no_leaks: None, tmp_path: Path) -> Iterator[Memory]:
    memory = Memory(tmp_path)
    yield memory
    memory.close()


def run(monitored: Any, memory: Memory, script: str = "exec sleep 60", *, counted: bool = True) -> None:
    watch = Watch(memory.fd, select.POLLIN, memory.count_fd if counted else -1, PREFIX)
    monitored.run(script, stdin=True, events=memory.directory_fd, watches=[watch])


def test_a_kill_is_told_with_its_number(monitored: Any, memory: Memory) -> None:
    run(monitored, memory)
    memory.kills(2)
    memory.tell()
    (line,) = memory.wait_for(1)
    assert abs(line.pop("time") - time.time()) < 5
    assert line == {"type": "oom", "id": "a", "oom_kills": 2}
    memory.tell()  # of no further kill
    time.sleep(0.7)
    assert len(memory.lines()) == 1


def test_a_kill_that_comes_after_it_was_told(monitored: Any, memory: Memory) -> None:
    run(monitored, memory)
    memory.tell()
    time.sleep(0.1)
    memory.kills(1)
    assert memory.wait_for(1)[0]["oom_kills"] == 1


def test_the_last_is_told_at_the_end(monitored: Any, memory: Memory) -> None:
    run(monitored, memory, "read x")
    memory.kills(3)
    from execdrivers.monitor import Attachment

    with Attachment(str(monitored.directory)) as attachment:
        attachment.write(b"\n")
    assert monitored.ended().oom_kills == 3
    assert [line["oom_kills"] for line in memory.lines()] == [3]


def test_pressure_once_a_second(monitored: Any, memory: Memory) -> None:
    run(monitored, memory, counted=False)
    begin = time.monotonic()
    while len(lines := memory.lines()) < 3:
        assert all(set(line) == {"type", "id", "time"} for line in lines)
        memory.tell()
        time.sleep(0.01)
    assert 2 <= time.monotonic() - begin < 20


def test_a_journal_that_is_rotated(monitored: Any, memory: Memory) -> None:
    """While others held it locked, too."""
    run(monitored, memory)
    with open(memory.journal) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        memory.kills(1)
        memory.tell()
        time.sleep(0.03)
        memory.journal.rename(memory.events / "journal.1")
        memory.journal.write_bytes(HEADER)
    assert memory.wait_for(1)[0]["oom_kills"] == 1
    assert (memory.events / "journal.1").read_bytes() == HEADER


def test_one_who_holds_the_journal_for_long_is_not_waited_for(monitored: Any, memory: Memory) -> None:
    run(monitored, memory)
    with open(memory.journal) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        memory.kills(1)
        memory.tell()
        assert len(memory.wait_for(1)) == 1


@pytest.mark.parametrize(
    ("there", "then"), [(b"", HEADER), (HEADER, HEADER), (HEADER + b'{"type', HEADER + b'{"type\n')]
)
def test_a_line_begins_as_those_of_others_do(monitored: Any, memory: Memory, there: bytes, then: bytes) -> None:
    memory.journal.write_bytes(there)
    run(monitored, memory)
    memory.kills(1)
    memory.tell()
    memory.wait_for(1)
    assert memory.journal.read_bytes().startswith(then + PREFIX)


def test_no_half_of_a_line_is_left(monitored: Any, memory: Memory) -> None:
    run(monitored, memory, "read x")
    limit = memory.journal.stat().st_size + 10
    resource.prlimit(monitored.monitor.pid, resource.RLIMIT_FSIZE, (limit, limit))
    memory.kills(1)
    memory.tell()
    time.sleep(0.2)
    assert memory.journal.read_bytes() == HEADER


@pytest.mark.needs("root")
def test_what_counts_before_it_tells_is_not_looked_at_again(monitored: Any, memory: Memory, tmp_path: Path) -> None:
    """Version 2: for which a list of mounts stands, since the kernel tells of its changes in the same way."""
    with open("/proc/self/mounts") as mounts:
        watch = Watch(mounts.fileno(), select.POLLPRI, memory.count_fd, PREFIX)
        monitored.run("exec sleep 60", events=memory.directory_fd, watches=[watch])

        def sleeps_after_a_change() -> bool:
            subprocess.run(["mount", "-t", "tmpfs", "none", memory.events], check=True)
            time.sleep(0.05)
            try:
                return bool(monitored.sleeps(0.3))
            finally:
                subprocess.run(["umount", memory.events], check=True)

        assert any(sleeps_after_a_change() for _ in range(4))  # others may mount, too
        memory.kills(1)
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
        subprocess.run(["umount", tmp_path], check=True)
        assert memory.wait_for(1)[0]["oom_kills"] == 1


def test_no_journal_does_no_harm(monitored: Any, memory: Memory) -> None:
    run(monitored, memory, "sleep 0.5; exit 3")
    memory.journal.unlink()
    memory.kills(1)
    memory.tell()
    ended = monitored.ended()
    assert (ended.status, ended.oom_kills) == (3 << 8, 1)


def test_it_sleeps_again(monitored: Any, memory: Memory) -> None:
    run(monitored, memory)
    memory.tell()
    time.sleep(0.8)
    assert monitored.sleeps(0.5)


def test_a_count_that_makes_no_sense(monitored: Any, memory: Memory) -> None:
    memory.count.write_text("under_oom 0\nno_oom_kill 5\n")
    run(monitored, memory, "sleep 0.5")
    memory.tell()
    assert monitored.ended().oom_kills is None
    assert memory.lines() == []
