"""The journal of events, and who follows it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from execdrivers import CommandNotFound, ContainerSpec, Event, Exit, SpecError, hookimpl
from execdrivers import journal as journals
from execdrivers.eventstream import EventStream
from execdrivers.inotify import Inotify
from execdrivers.journal import Journal


def sh(command):
    return ContainerSpec(["sh", "-c", command])


def event(number, type="paused", id="c", **more):
    return Event(type=type, id=id, driver="host", time=float(number), **more)


def past(engine, **filters):
    return list(engine.events(follow=False, **filters))


def types(events):
    return [event.type for event in events]


@pytest.fixture
def journal(tmp_path):
    return Journal(str(tmp_path / "root"))


# --- what is told


def test_a_whole_life(engine):
    began = time.time()
    with engine.create(sh("exit 3"), name="x") as c:
        c.start()
        pid = c.pid
        end = c.wait()
    created, started, exited, deleted = past(engine)
    assert types([created, started, exited, deleted]) == ["created", "started", "exited", "deleted"]
    assert created.spec == {"args": ["sh", "-c", "exit 3"]} and created.pid == started.pid == pid
    assert exited.exit == end == Exit(reason="exited", code=3)
    assert {(e.id, e.driver) for e in (created, started, exited, deleted)} == {("x", "host")}
    assert began <= created.time <= started.time <= exited.time <= deleted.time <= time.time()


def test_observers_see_the_same(engine, registry):
    seen = []

    class Observer:
        @hookimpl
        def execdrivers_observe(self, event):
            seen.append(event)

    registry.register(Observer())
    with engine.create(sh("sleep 9"), name="x") as c:
        c.start()
        with c.exec(["true"]) as process:
            process.wait()
        c.update(pids=99)
        c.pause()
        c.resume()
        c.resume()
    assert [e.to_dict() for e in seen] == [e.to_dict() for e in past(engine)]
    expected = "created started exec_started exec_exited updated paused resumed exited deleted"
    assert types(seen) == expected.split()


def test_an_exec(engine):
    with engine.create(sh("sleep 9")) as c:
        c.start()
        with c.exec(["sh", "-c", "exit 7"]) as process:
            pid = process.pid
            process.wait()
            process.wait()
        with pytest.raises(CommandNotFound):
            c.exec(["/no/such"])
    started, exited = past(engine, types=["exec_started", "exec_exited"])
    assert started.exec == exited.exec == process.id
    assert started.args == exited.args == ("sh", "-c", "exit 7")
    assert started.pid == exited.pid == pid
    assert started.exit is None and exited.exit == Exit(reason="exited", code=7)


def test_a_failed_launch(engine):
    with pytest.raises(CommandNotFound):
        engine.create(ContainerSpec(["/no/such"])).start()
    assert types(past(engine)) == ["created", "exited", "deleted"]
    assert past(engine)[1].exit.reason == "launch-failed"


def test_the_environment_stays_out_of_the_journal(engine):
    with engine.create(sh("true").replace(env={"PASSWORD": "secret"})):
        pass
    assert "secret" not in Path(engine.root, ".events/journal").read_text()
    assert "PASSWORD" not in Path(engine.root, ".events/journal").read_text()


def test_a_run_is_told_of_only_while_somebody_listens(engine):
    engine.run(["true"])
    assert past(engine) == []
    with engine.events(until=time.time() + 20) as stream:
        engine.run(["true"], name="heard")
        assert types([next(stream) for _ in range(4)]) == ["created", "started", "exited", "deleted"]
    engine.run(["true"])
    assert {e.id for e in past(engine)} == {"heard"}
    assert os.listdir(f"{engine.root}/.events") == ["journal"]


def test_a_run_that_is_kept_is_told_of(engine):
    engine.run(["true"], name="kept", keep=True)
    assert types(past(engine)) == ["created", "started", "exited"]
    engine.delete("kept")
    assert types(past(engine)) == ["created", "started", "exited", "deleted"]


def test_a_listener_that_died_is_forgotten(engine, program):
    follower = subprocess.Popen(
        program("stream = engine.events(); print('ready', flush=True); next(stream)"), stdout=subprocess.PIPE
    )
    assert follower.stdout.readline() == b"ready\n"
    follower.kill()
    follower.communicate()
    assert os.listdir(f"{engine.root}/.events/listeners")
    engine.run(["true"])
    assert past(engine) == []
    assert os.listdir(f"{engine.root}/.events") == []


# --- by several programs


def test_what_another_program_does_is_told_once(engine, program):
    with engine.create(sh("sleep 9"), name="x") as c, engine.events(until=time.time() + 30) as stream:
        c.start()
        text = "c = engine.get('x'); c.resume(); c.update(pids=50); c.exec(['true']).wait(); c.kill()"
        subprocess.run(program(text), check=True)
        c.wait()
        assert engine.get("x").wait() == c.exit
        subprocess.run(program("engine.delete('x')"), check=True)
        seen = []
        while "deleted" not in seen:
            seen.append(next(stream).type)
    expected = "created started updated exec_started exec_exited exited deleted"
    assert types(past(engine)) == expected.split()
    assert seen == expected.split()[1:]


def test_deleted_by_another_program_while_its_maker_does_not_look(engine, program):
    with engine.create(sh("sleep 9"), name="x") as c:
        c.start()
        subprocess.run(program("engine.delete('x', force=True)"), check=True)
        assert types(past(engine)) == ["created", "started", "exited", "deleted"]
    assert types(past(engine)) == ["created", "started", "exited", "deleted"]


def test_let_go_of_and_ended_by_another_program(engine, program):
    with engine.create(sh("sleep 9"), name="x") as c:
        c.start()
        c.detach()
        subprocess.run(program("c = engine.get('x'); c.kill(); c.wait()"), check=True)
        assert types(past(engine)) == ["created", "started", "exited"]
        c.wait()
        assert types(past(engine)) == ["created", "started", "exited"]
    assert types(past(engine)) == ["created", "started", "exited", "deleted"]


def test_writers_in_many_programs_and_threads(engine, program, journal):
    count = 300
    text = f"""
from execdrivers.journal import Journal
from execdrivers import Event
journals = Journal({os.path.dirname(journal.directory)!r})
for n in range({count}):
    journals.append(Event(type="paused", id=str(os.getpid()), driver="host", time=n))
"""
    with EventStream(journal, until=time.time() + 60) as stream:
        writers = [subprocess.Popen(program(text)) for _ in range(4)]
        threads = [
            threading.Thread(target=lambda n=n: [journal.append(event(i, id=f"thread {n}")) for i in range(count)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        seen = {}
        for _ in range(8 * count):
            e = next(stream)
            seen.setdefault(e.id, []).append(e.time)
        for thread in threads:
            thread.join()
        assert [writer.wait() for writer in writers] == [0] * 4
    assert list(seen.values()) == [[float(n) for n in range(count)]] * 8
    assert stream.skipped == 0


# --- filters


def test_filters(journal):
    for number, (type, id) in enumerate([("created", "a"), ("started", "a"), ("created", "b"), ("deleted", "a")]):
        journal.append(event(number, type, id))

    def times(**filters):
        return [e.time for e in EventStream(journal, follow=False, **filters)]

    assert times() == [0, 1, 2, 3]
    assert times(types="created") == times(types=["created"]) == [0, 2]
    assert times(containers="a", types={"created", "deleted"}) == [0, 3]
    assert times(since=1) == [1, 2, 3]
    assert times(since=1, until=2) == [1, 2]
    assert times(containers=[]) == []
    with pytest.raises(SpecError, match="'nonsense' is not a type of event; known are created, started"):
        EventStream(journal, types=["created", "nonsense"])


def test_since_and_on(journal):
    journal.append(event(1))
    journal.append(event(2))
    with EventStream(journal, since=2) as stream:
        assert next(stream).time == 2
        journal.append(event(3))
        assert next(stream).time == 3
        assert stream.read() == []
    assert stream.ended


@pytest.mark.parametrize("until", [time.time() + 1e8, float("inf")], ids=["years", "for ever"])
def test_a_time_that_is_too_far_ahead_for_poll(journal, until):
    with EventStream(journal, until=until) as stream:
        threading.Timer(0.1, stream.close).start()
        assert list(stream) == []


def test_from_now_until_then(journal):
    journal.append(event(1))
    began = time.time()
    with EventStream(journal, until=began + 0.3) as stream:
        journal.append(event(2))
        journal.append(event(began + 1000))  # the clock was set, and back
        journal.append(event(3))
        assert [e.time for e in stream] == [2, 3]
    assert 0.3 <= time.time() - began < 10


def test_order_is_the_journals_not_the_clocks(journal):
    for number in (5, 2, 9, 1):
        journal.append(event(number))
    assert [e.time for e in EventStream(journal, follow=False)] == [5, 2, 9, 1]
    assert [e.time for e in EventStream(journal, follow=False, since=2)] == [5, 2, 9]


# --- waiting


def test_readable_when_something_has_happened(journal):
    import select

    with EventStream(journal) as stream:
        assert stream.read() == []
        assert select.select([stream], [], [], 0)[0] == []
        journal.append(event(1))
        assert select.select([stream], [], [], 5)[0] == [stream]
        assert types(stream.read()) == ["paused"]
        assert stream.read() == []
        assert select.select([stream], [], [], 0)[0] == []


def test_closed_by_another_thread_while_waiting(journal):
    stream = EventStream(journal)
    threading.Timer(0.1, stream.close).start()
    assert list(stream) == []
    assert stream.ended and stream.fileno() == -1
    stream.close()


def test_descriptors_go_with_the_stream(journal):
    before = os.listdir("/proc/self/fd")
    for follow in (True, False):
        stream = EventStream(journal, follow=follow)
        stream.close()
        assert os.listdir("/proc/self/fd") == before
    with pytest.raises(SpecError):
        EventStream(journal, types="x")
    assert os.listdir("/proc/self/fd") == before


def test_the_directory_is_removed_and_comes_again(journal):
    import shutil

    journal.append(event(1))
    with EventStream(journal, until=time.time() + 20) as stream:
        shutil.rmtree(journal.directory)
        assert stream.read() == []
        journal.append(event(2))
        assert next(stream).time == 2
        assert journal.heard


# --- files


@pytest.fixture
def small(monkeypatch):
    """Files of some 20 events."""
    monkeypatch.setattr(journals, "FILE_SIZE", 1000)


def test_rotation_bounds_the_files_and_nothing_is_lost(journal, small):
    with EventStream(journal) as stream:
        seen = []
        for number in range(500):
            journal.append(event(number))
            if number % 7 == 0:
                seen += [e.time for e in stream.read()]
        while events := stream.read():
            seen += [e.time for e in events]
    assert seen == list(range(500))
    assert sorted(os.listdir(journal.directory)) == ["journal", "journal.1"]
    assert sum(os.path.getsize(path) for path in (journal.path, journal.older)) < 2200
    left = [e.time for e in EventStream(journal, follow=False)]
    assert left == list(range(500))[-len(left) :] and len(left) >= 10


def test_who_is_too_slow_is_told_what_it_lost(journal, small):
    for number in range(5):
        journal.append(event(number))
    with EventStream(journal, types="resumed") as stream, EventStream(journal) as all:
        journal.append(event(5))
        assert next(all).time == 5
        for number in range(6, 300):
            journal.append(event(number))
        seen = []
        while events := all.read():
            seen += events
        (lost,) = [e for e in seen if e.type == "lost"]
        times = [e.time for e in seen if e.type != "lost"]
        # The file that it had open is read to its end, whatever became of it.
        assert times[: times.index(max(times[:10])) + 1][0] == 6
        assert len(times) + lost.lost == 294
        assert times == sorted(times) and times[-1] == 299
        assert [e.lost for e in iter(lambda: next(iter(stream.read()), None), None)] == [lost.lost]
    assert str(lost) == f"{lost.lost} events were lost: they were read too slowly"


def test_who_begins_before_there_is_a_journal_is_told_what_it_lost(journal, small):
    with EventStream(journal) as stream:
        for number in range(200):
            journal.append(event(number))
        seen = []
        while events := stream.read():
            seen += events
    lost, *others = seen
    assert lost.lost > 100
    assert [e.time for e in others] == list(range(200))[lost.lost :]


def test_readers_and_rotation_at_the_same_time(journal, small, program):
    text = f"""
from execdrivers import journal
journal.FILE_SIZE = 1000
journals = journal.Journal({os.path.dirname(journal.directory)!r})
from execdrivers import Event
for n in range(1000):
    journals.append(Event(type="paused", id=str(os.getpid()), driver="host", time=n))
"""
    with EventStream(journal, until=time.time() + 60) as stream:
        writers = [subprocess.Popen(program(text)) for _ in range(3)]
        counted = {}
        total = 0
        while total < 3000:
            e = next(stream)
            total += e.lost if e.type == "lost" else 1
            if e.type != "lost":
                counted.setdefault(e.id, []).append(e.time)
        assert [writer.wait() for writer in writers] == [0] * 3
        assert stream.read() == []
    assert total == 3000
    for times in counted.values():
        assert times == sorted(set(times))


def test_damaged_and_foreign_lines_are_passed_over_and_told(journal, caplog):
    journal.append(event(1))
    bad = [
        b"{",
        b"[]",
        b'{"type":"paused"}',
        b"\xff\xfe",
        b'{"type":"melted","id":"c","driver":"d","time":1}',
        b'{"a":' * 9999,
    ]
    with open(journal.path, "ab") as file:
        file.write(b"\n".join(bad) + b"\n\n")
        file.write(b'{"type":"paused","id":"c","driver":"d","time":2,"later":[1]}\n')
        file.write(b'{"type":"paused","id":"c","dri')  # torn
    journal.append(event(3))
    stream = EventStream(journal, follow=False)
    with caplog.at_level(logging.WARNING, "execdrivers"):
        assert [e.time for e in stream] == [1, 2, 3]
    assert stream.skipped == len(bad) + 1
    assert "melted" in caplog.text and journal.path in caplog.text


def test_a_very_long_line(journal):
    args = ("x" * 100_000,) * 3
    journal.append(event(1))
    journal.append(event(2, "exec_started", args=args))
    journal.append(event(3))
    stream = EventStream(journal, follow=False)
    assert [e.args for e in stream] == [None, args, None]
    with open(journal.path, "ab") as file:
        file.write(b"y" * (9 << 20))
    journal.append(event(4))
    stream = EventStream(journal, follow=False)
    assert [e.time for e in stream][-1] == 4
    assert stream.skipped


def test_what_was_told_of_kills(journal):
    assert journal.oom_kills_told("c") == 0
    journal.append(event(1, "oom", oom_kills=7))
    journal.append(event(2, "created"))
    assert journal.oom_kills_told("c") == 0
    journal.append(event(3, "oom", oom_kills=2))
    journal.append(event(3, "oom", id="other", oom_kills=9))
    with open(journal.path, "ab") as file:
        file.write(b'"oom" of c\n{"type":"oom","id":"c","oom_kills":"5"}\n')
    assert journal.oom_kills_told("c") == 2


def test_half_a_line_waits_for_its_other_half(journal):
    journal.append(event(1))
    line = json.dumps(event(2).to_dict()).encode() + b"\n"
    with EventStream(journal) as stream, open(journal.path, "ab", buffering=0) as file:
        file.write(line[:20])
        assert stream.read() == []
        file.write(line[20:])
        assert [e.time for e in stream.read()] == [2]
        assert stream.skipped == 0


def test_a_journal_that_somebody_truncates(journal):
    for number in range(5):
        journal.append(event(number))
    with EventStream(journal) as stream:
        os.truncate(journal.path, 0)
        journal.append(event(9))
        assert [e.time for e in stream.read()] == [9]


@pytest.mark.needs("root")
def test_a_full_disk_disturbs_nobody_and_is_told_once(journal, tmp_path, caplog):
    place = tmp_path / "root"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", place], check=True)
    try:
        with caplog.at_level(logging.WARNING, "execdrivers"):
            for number in range(300):
                journal.append(event(number))
        (told,) = caplog.records
        assert os.strerror(errno.ENOSPC) in told.getMessage()
        text = Path(journal.path).read_text()
        assert text.endswith("}\n")  # nothing torn
        count = len(text.splitlines()) - 1
        os.truncate(journal.path, 0)
        journal.append(event(1000))
        stream = EventStream(journal, follow=False)
        assert [e.time for e in stream] == [1000] and stream.skipped == 0
        assert 20 < count < 300
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_writer_that_was_stopped_does_not_stop_the_others(journal, monkeypatch):
    monkeypatch.setattr(journals, "_PATIENCE", 0.1)
    journal.append(event(1))
    with open(journal.path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        journal.append(event(2))
        began = time.monotonic()
        for number in range(3, 13):
            journal.append(event(number))
        assert time.monotonic() - began < 0.1 * 10, "it is waited for each time"
    journal.append(event(13))
    assert [e.time for e in EventStream(journal, follow=False)] == list(range(1, 14))


def test_only_the_owner_may_read(journal):
    journal.append(event(1))
    with EventStream(journal):
        paths = [journal.directory, journal.path, f"{journal.directory}/listeners"]
        assert [os.stat(path).st_mode & 0o77 for path in paths] == [0, 0, 0]


def test_a_journal_that_is_a_link_is_not_followed(journal, tmp_path, caplog):
    journal.prepare()
    (tmp_path / "victim").write_text("precious")
    os.symlink(tmp_path / "victim", journal.path)
    with caplog.at_level(logging.WARNING, "execdrivers"):
        journal.append(event(1))
    assert (tmp_path / "victim").read_text() == "precious"
    assert "events are not written" in caplog.text


@pytest.fixture
def listened(monkeypatch):
    """How often somebody has begun to listen."""
    marks, listen = [], Journal.listen

    def counted(self):
        marks.append(listen(self))
        return marks[-1]

    monkeypatch.setattr(Journal, "listen", counted)
    return marks


def test_a_journal_that_is_removed_is_followed_in_the_next(journal, listened):
    """The listener's mark stands, and so does the watch: nothing is to be made anew."""
    with EventStream(journal, until=time.time() + 20) as stream:
        for number in range(3):
            journal.append(event(number))
            assert next(stream).time == number
            os.unlink(journal.path)
            assert stream.read() == []
        journal.append(event(9))
        assert next(stream).time == 9
    assert len(listened) == 1


def test_a_directory_of_the_journal_that_is_removed_at_any_time(journal, listened, monkeypatch):
    """Also between the mark and the watch."""
    watch, times = Inotify.watch, 2

    def removed(self, target, mask):
        nonlocal times
        times -= 1
        if times >= 0:
            shutil.rmtree(journal.directory)
            if not times:
                journal.prepare()  # by another program
        return watch(self, target, mask)

    monkeypatch.setattr(Inotify, "watch", removed)
    with EventStream(journal, until=time.time() + 20) as stream:
        assert len(listened) == 3 and journal.heard
        shutil.rmtree(journal.directory)
        assert stream.read() == []
        assert len(listened) == 4 and journal.heard
        journal.append(event(9))
        assert next(stream).time == 9


# --- as data


def test_json_both_ways():
    given = [
        event(1.5, "exec_exited", exec="e", args=("a", "b"), pid=7, exit=Exit(reason="exited", code=3)),
        event(2, "oom", oom_kills=4),
        event(3, "created", spec={"args": ["x"]}, pid=1),
    ]
    for e in given:
        assert Event.from_dict(json.loads(json.dumps(e.to_dict()))) == e
    for change in ({"type": "melted"}, {"id": None}, {"oom_kills": "4"}, {"exit": {"x": 1}}, {"time": "now"}):
        with pytest.raises(ValueError, match=r"not an event|not known|another type"):
            Event.from_dict({**given[1].to_dict(), **change})
    with pytest.raises(ValueError, match="not an event"):
        Event.from_dict({"type": "paused"})
    assert str(given[0]) == "c (host) exec_exited e: exited with code 3"
    assert str(given[1]) == "c (host) oom: 4 killed"
