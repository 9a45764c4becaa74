"""What a monitor writes to the journal of events while its container runs."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import Resources, cgroups
from execdrivers.cgroups.notices import notices
from execdrivers.events import Event
from execdrivers.eventstream import EventStream
from execdrivers.journal import Journal, beginning
from execdrivers.monitor import Watch


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """One that has begun."""
    journal = Journal(str(tmp_path / "root"))
    journal.append(Event(type="created", id="c", driver="d", time=1))
    return journal


@pytest.fixture
def events(journal: Journal) -> Iterator[int]:
    """Its directory, open."""
    fd = os.open(journal.directory, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def cgroup() -> Iterator[cgroups.CgroupDir]:
    """A memory cgroup of 32 MiB."""
    layout = cgroups.look()
    if problem := layout.problem("memory"):
        pytest.skip(f"needs cgroups with memory: {problem}")
    swap = {"memory_swap": "32M"} if layout.swap else {}
    made = cgroups.create(cgroups.plan(Resources(memory="32M", **swap), f"watched-{os.getpid()}", layout))
    yield next(each for each in made if "memory" in each.controllers)
    cgroups.kill(made)
    cgroups.remove(made)


@pytest.mark.needs("root")
def test_each_kill_is_told_with_the_count(
    monitored: Any, journal: Journal, events: int, cgroup: cgroups.CgroupDir, tmp_path: Path
) -> None:
    watched = notices([cgroup])
    watches = [Watch(each.fd, each.events, each.count_fd, beginning(each.type, "c", "d")) for each in watched]
    assert {each.type for each in watched} == {"oom", "memory_pressure"}
    eat = "(exec 2>/dev/null; tail /dev/zero)"
    with EventStream(journal, types="oom", until=time.time() + 60) as stream:
        os.mkfifo(go := tmp_path / "go")
        script = f"echo $$ >{cgroup.path}/cgroup.procs; {eat}; read x <{go}; {eat}; read x <{go}; exit 3"
        monitored.run(script, watches=watches, events=events)
        for each in watched:
            each.close()
        began = time.time()
        for count in (1, 2):
            told = next(stream)
            assert (told.id, told.driver, told.oom_kills) == ("c", "d", count)
            assert began - 5 < told.time <= time.time()
            go.write_text("\n")
        assert monitored.ended().oom_kills == 2
        assert stream.read() == []
        assert stream.skipped == 0


def test_what_is_not_counted_is_told_once_a_second(monitored: Any, journal: Journal, events: int) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    watch = Watch(fd, select.POLLIN, -1, beginning("memory_pressure", "c", "d"))
    with EventStream(journal, until=time.time() + 30) as stream:
        monitored.run("sleep 60", watches=[watch], events=events)
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            os.eventfd_write(fd, 1)
            time.sleep(0.01)
        seen = [next(stream)]
        seen += stream.read()
        assert [event.type for event in seen] == ["memory_pressure"] * 2
    os.close(fd)


def test_the_journal_was_rotated_meanwhile(monitored: Any, journal: Journal, events: int) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    watch = Watch(fd, select.POLLIN, -1, beginning("memory_pressure", "c", "d"))
    with EventStream(journal, until=time.time() + 30) as stream:
        monitored.run("sleep 60", watches=[watch], events=events)
        os.rename(journal.path, journal.older)
        journal.append(Event(type="paused", id="c", driver="d", time=2))
        os.eventfd_write(fd, 1)
        assert [next(stream).type for _ in range(2)] == ["paused", "memory_pressure"]
        assert b"memory_pressure" in Path(journal.path).read_bytes()
    os.close(fd)
