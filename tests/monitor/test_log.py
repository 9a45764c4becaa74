"""The log: its form, rotation, bounds, losses, and readers of whatever speed."""

from __future__ import annotations

import itertools
import random
import re
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import pidfd
from execdrivers.errors import SpecError, StoreError
from execdrivers.monitor.log import LogEntry, LogOptions, parse, read_log
from execdrivers.monitor.reader import LogReader

RECORD = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] [^\n]*\n")


def files(directory: Path) -> list[Path]:
    """Those of the log, the oldest first."""
    older = sorted(directory.glob("log.*"), key=lambda path: int(path.suffix[1:]))
    return [*older, directory / "log"]


def line(second: int, text: str, stream: str = "stdout", tag: str = "F") -> str:
    return f"2026-11-26T01:02:{second:02}.000000000Z {stream} {tag} {text}\n"


def data(entries: Iterator[LogEntry]) -> bytes:
    return b"".join(entry.data for entry in entries)


def wait_for(condition: Any, timeout: float = 20) -> bool:
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def awaiting(path: Path) -> str:
    """Shell words that wait for the file."""
    return f"while ! [ -e {path} ]; do sleep 0.02; done"


# --- its form ---------------------------------------------------------------------------------------------------


def awkward_output(seed: int) -> bytes:
    """Lines of all lengths around what a record and a read hold, empty ones, bytes of all kinds, no end."""
    choose = random.Random(seed)
    lengths = [0, 0, 1, 79, 16383, 16384, 16385, 32767, 32768, 32769, 70000]
    lines = [bytes(choose.randbytes(choose.choice(lengths)).replace(b"\n", b"\r")) for _ in range(60)]
    return b"\n".join(lines)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_is_what_was_written(monitored: Any, tmp_path: Path, seed: int) -> None:
    wanted = awkward_output(seed)
    (tmp_path / "data").write_bytes(wanted)
    script = f"cat {tmp_path}/data; dd if={tmp_path}/data bs=100 status=none >&2"
    monitored.run(script, log=LogOptions("128K", 1000))
    monitored.ended()
    assert monitored.output("stdout") == wanted
    assert monitored.output("stderr") == wanted
    for file in files(monitored.directory):
        assert not RECORD.sub(b"", file.read_bytes())
        assert file.stat().st_size <= 128 << 10


def test_times_are_those_of_the_clock(monitored: Any) -> None:
    before = time.time()
    monitored.run("echo a; await; echo b")
    assert wait_for(monitored.output)
    between = time.time()
    monitored.let_on()
    monitored.ended()
    first, second = read_log(monitored.directory)
    assert before < first.time < between < second.time < time.time()
    assert (first.stream, first.data, first.partial) == ("stdout", b"a\n", False)


@pytest.mark.parametrize("date", ["2024-02-29T23:59:59", "2023-03-01T00:00:00", "2000-12-31T12:00:00"])
def test_dates(date: str) -> None:
    import calendar

    entry = parse(f"{date}.000000007Z stderr P x\n".encode())
    assert entry is not None
    assert entry.time_ns == calendar.timegm(time.strptime(date, "%Y-%m-%dT%H:%M:%S")) * 10**9 + 7
    assert (entry.stream, entry.data, entry.partial) == ("stderr", b"x", True)


# --- its bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size", "names"), [(1, 32, 2), (2, 64, 2), (4, 64, 4)])
def test_it_is_bounded(monitored: Any, count: int, size: int, names: int) -> None:
    monitored.run("seq 50000; seq 50000 >&2", log=LogOptions("64K", count))
    assert monitored.ended().log_lost == 0
    found = files(monitored.directory)
    assert len(found) == names
    assert all(file.stat().st_size <= size << 10 for file in found)
    assert sum(file.stat().st_size for file in found) > (names - 1) * (size - 2) << 10
    assert [entry.data for entry in read_log(monitored.directory)][-3:] == [b"49998\n", b"49999\n", b"50000\n"]
    for older, newer in itertools.pairwise(found[:-1]):  # a name is how much of the log was before
        assert int(newer.suffix[1:]) == int(older.suffix[1:]) + older.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "field"),
    [(("1K", 3), "log.max_size"), (("many", 3), "log.max_size"), ((1 << 20, 0), "log.max_files")],
)
def test_bad_options(arguments: Any, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        LogOptions(*arguments)
    assert caught.value.field == field


# --- a full disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.needs("root")
def test_a_full_disk_loses_lines_and_says_so(monitored: Any, small_disk: Path, tmp_path: Path) -> None:
    monitored.directory = small_disk
    one, two, full = (tmp_path / name for name in ("one", "two", "full"))
    script = f"seq 1000; {awaiting(one)}; seq 20000; touch {full}; {awaiting(two)}; echo again"
    monitored.run(script)
    assert wait_for(lambda: monitored.output().endswith(b"1000\n"))
    hog = small_disk / "hog"
    subprocess.run(["dd", "if=/dev/zero", f"of={hog}", "status=none"], stderr=subprocess.DEVNULL)
    one.touch()
    assert wait_for(full.exists)
    assert wait_for(lambda: b"19999\n" not in monitored.output()[-200:] and monitored.sleeps(0.2))
    hog.unlink()
    two.touch()
    ended = monitored.ended()
    assert ended.status == 0
    lines = [entry.data for entry in read_log(small_disk)]
    told = [line for line in lines if line.startswith(b"execdrivers: ")]
    lost = sum(int(text.split()[1]) for text in told)
    assert told and all(line.endswith(b" bytes of output were not logged: No space left on device\n") for line in told)
    written = sum(len(text) for text in lines if text not in told)
    assert lost == ended.log_lost
    assert written + lost == sum(len(f"{n}\n") for n in [*range(1, 1001), *range(1, 20001)]) + len("again\n")
    for file in files(small_disk):
        assert not RECORD.sub(b"", file.read_bytes())


@pytest.mark.needs("root")
def test_a_disk_that_stays_full(monitored: Any, small_disk: Path, tmp_path: Path) -> None:
    """The container ends as it does, and its exit is told."""
    monitored.directory = small_disk
    monitored.run("head -c 3000000 /dev/zero | tr '\\0' '\\n'; exit 4")
    ended = monitored.ended()
    assert ended.status == 4 << 8
    assert 0 < ended.log_lost < 3_000_000
    lines = sum(len(entry.data) for entry in read_log(small_disk) if not entry.data.startswith(b"execdrivers: "))
    assert lines + ended.log_lost == 3_000_000


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 150_000])
def test_the_makers_limit_on_files_silences_nothing(monitored: Any, hard: int) -> None:
    resource.prlimit(monitored.monitor.pid, resource.RLIMIT_FSIZE, (100_000, hard))
    monitored.run("head -c 400000 /dev/zero | tr '\\0' x", log=LogOptions("256K", 10))
    assert monitored.ended().log_lost == 0
    assert monitored.output() == b"x" * 400_000
    assert len(files(monitored.directory)) == (2 if hard < 0 else 3)


def test_a_directory_that_is_removed(monitored: Any) -> None:
    """Nobody reads the log, and nothing but the log is lost."""
    child = monitored.run("read x; seq 100000; exit 3", stdin=True, log=LogOptions("64K", 2))
    shutil.rmtree(monitored.directory)
    assert not pidfd.wait(child.pidfd, 0.1)
    pidfd.send_signal(child.pidfd, 15)
    assert pidfd.wait(monitored.monitor.pidfd, 10)


# --- readers ----------------------------------------------------------------------------------------------------


def test_a_follower_gets_all_through_rotations(monitored: Any) -> None:
    monitored.prepare("i=0; while [ $i -lt 60 ]; do seq 1000; i=$((i + 1)); done", log=LogOptions("64K", 1000))
    got: list[LogEntry] = []
    thread = threading.Thread(target=lambda: got.extend(read_log(monitored.directory, follow=True)))
    thread.start()
    monitored.monitor.channels()
    thread.join(60)
    assert not thread.is_alive()
    assert not any(entry.lost for entry in got)
    assert b"".join(entry.data for entry in got) == b"".join(b"%d\n" % n for n in range(1, 1001)) * 60


def test_a_reader_that_was_overtaken_is_told_what_it_missed(monitored: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    monitored.run(f"seq 100; {awaiting(go)}; seq 20000; exit 0", log=LogOptions("64K", 2))
    with LogReader(monitored.directory, follow=True) as reader:
        first: list[LogEntry] = []
        assert wait_for(lambda: first.extend(reader.read()) or len(first) == 100)
        go.touch()
        monitored.ended()
        entries: list[LogEntry] = []
        while not reader.ended:
            entries += reader.read()
    assert any(entry.lost for entry in entries) and entries[-1].data == b"20000\n"
    found = files(monitored.directory)
    whole = int(found[-2].suffix[1:]) + sum(file.stat().st_size for file in found[-2:])
    seen = (
        100 * 40
        + sum(len(f"{n}\n") for n in range(1, 101))
        + sum(40 + len(entry.data) + entry.partial for entry in entries)
    )
    assert seen + sum(entry.lost for entry in entries) == whole


@pytest.mark.parametrize("count", [0, 1, 3, 5000, 30_000])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_tail(monitored: Any, count: int, stream: str) -> None:
    script = "i=0; while [ $i -lt 10 ]; do seq 700; seq 300 >&2; i=$((i + 1)); done"
    monitored.run(script, log=LogOptions("64K", 100))
    monitored.ended()
    chosen = {"stdout": stream == "stdout", "stderr": stream == "stderr"}
    every = [entry.data for entry in read_log(monitored.directory, **chosen)]
    assert len(every) == (7000 if stream == "stdout" else 3000)
    got = [entry.data for entry in read_log(monitored.directory, tail=count, **chosen)]
    assert got == (every[-count:] if count else [])


def test_tail_has_whole_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        line(1, "a") + line(2, "b", tag="P") + line(3, "x", "stderr") + line(4, "c") + line(5, "d", tag="P")
    )
    assert data(read_log(tmp_path, tail=1, stderr=False)) == b"d"
    assert data(read_log(tmp_path, tail=2, stderr=False)) == b"bc\nd"


def test_since_and_until_are_of_each_entry(tmp_path: Path) -> None:
    """The clock was set back: order is the file's."""
    (tmp_path / "log").write_text("".join(line(second, str(second)) for second in (10, 20, 30, 5, 15, 25)))
    minute = parse(line(0, "").encode())
    assert minute is not None
    chosen = read_log(tmp_path, since=minute.time + 12, until=minute.time + 25)
    assert data(chosen) == b"20\n15\n25\n"
    assert data(read_log(tmp_path)) == b"10\n20\n30\n5\n15\n25\n"


def test_what_makes_no_sense_is_left_out_and_told(tmp_path: Path) -> None:
    rubbish = b"rubbish\n\0\xff\n" + line(1, "x").encode()[:30] + b"\n" + b"9999-99-99T99:99:99.000000000Z stdout F x\n"
    torn = line(3, "no end").encode()[:-1]
    (tmp_path / "log").write_bytes(line(1, "a").encode() + rubbish + line(2, "b").encode() + torn)
    a, b = read_log(tmp_path)
    assert (a.data, b.data) == (b"a\n", b"b\n")
    assert a.lost + b.lost == len(rubbish)


def test_no_log(tmp_path: Path) -> None:
    assert list(read_log(tmp_path)) == []
    with pytest.raises(StoreError, match="No such file"):
        list(read_log(tmp_path / "nowhere"))


def follower(monitored: Any, **more: Any) -> tuple[threading.Thread, list[bytes]]:
    got: list[bytes] = []

    def follow() -> None:
        for entry in read_log(monitored.directory, follow=True, **more):
            got.append(entry.data)

    thread = threading.Thread(target=follow)
    thread.start()
    assert wait_for(lambda: got)
    return thread, got


def test_following_ends_when_the_monitor_is_killed(monitored: Any) -> None:
    child = monitored.run("echo a; exec sleep 60")
    thread, got = follower(monitored, writer=(monitored.monitor.pid, monitored.monitor.start_time))
    pidfd.send_signal(monitored.monitor.pidfd, 9)
    thread.join(10)
    assert not thread.is_alive() and got == [b"a\n"]
    pidfd.send_signal(child.pidfd, 9)


def test_following_ends_when_the_directory_is_removed(monitored: Any) -> None:
    monitored.run("echo a; exec sleep 60")
    thread, _ = follower(monitored)
    shutil.rmtree(monitored.directory)
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("until", [time.time() + 1e8, float("inf")], ids=["years", "for ever"])
def test_a_time_that_is_too_far_ahead_for_poll(monitored: Any, until: float) -> None:
    monitored.run("echo a; sleep 60")
    with LogReader(monitored.directory, follow=True, until=until) as reader:
        (Path(monitored.directory) / "new").touch()
        assert reader.wait(float("inf"))


def test_following_ends_with_until(monitored: Any) -> None:
    monitored.run("echo a; sleep 60")
    before = time.time()
    thread, _ = follower(monitored, until=before + 2)
    thread.join(10)
    assert 2 <= time.time() - before < 10


def test_a_follower_sleeps(monitored: Any) -> None:
    monitored.run("echo a; exec sleep 60")
    thread, _ = follower(monitored)
    status = Path(f"/proc/self/task/{thread.native_id}/status")
    time.sleep(0.2)
    before = [row for row in status.read_text().splitlines() if "ctxt_switches" in row]
    time.sleep(0.5)
    after = [row for row in status.read_text().splitlines() if "ctxt_switches" in row]
    shutil.rmtree(monitored.directory)
    thread.join(10)
    assert before == after


def test_a_reader_in_a_loop_of_ones_own(monitored: Any, tmp_path: Path) -> None:
    """It never waits, and its descriptor tells when there is more."""
    go = tmp_path / "go"
    monitored.run(f"echo a; {awaiting(go)}; echo b; exit 0")
    assert wait_for(lambda: monitored.output() == b"a\n")
    with LogReader(monitored.directory, follow=True, tail=0) as reader:
        while reader.wait(0):
            assert reader.read() == []
        assert not reader.ended
        go.touch()
        got: list[LogEntry] = []
        while not reader.ended:
            entries = reader.read()
            got += entries
            assert entries or reader.ended or reader.wait(10)
        assert [entry.data for entry in got] == [b"b\n"]


def test_following_from_a_moment_on(monitored: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    monitored.run(f"echo a; {awaiting(go)}; echo b")
    assert wait_for(lambda: monitored.output() == b"a\n")
    since = time.time()
    go.touch()
    assert data(read_log(monitored.directory, follow=True, since=since)) == b"b\n"


def test_many_followers_and_a_slow_one(monitored: Any) -> None:
    """None waits for another."""
    monitored.prepare("seq 30000", log=LogOptions("64K", 1000))
    results: dict[int, bytes] = {}

    def follow(number: int) -> None:
        got = []
        for entry in read_log(monitored.directory, follow=True):
            got.append(entry.data)
            if number == 0 and len(got) % 1000 == 0:
                time.sleep(0.02)
        results[number] = b"".join(got)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    monitored.monitor.channels()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6 and len(set(results.values())) == 1
    assert results[0] == b"".join(b"%d\n" % n for n in range(1, 30001))
