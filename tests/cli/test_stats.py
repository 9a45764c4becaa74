"""``stats`` and ``top``: what containers use, and their processes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from execdrivers.cli.stats import _binary, _decimal
from execdrivers.cli.top import _duration, _start, _terminal

from .conftest import Cli, until
from .test_tty import screen

#: A shell that computes, and a child.
BUSY = ("sh", "-c", "sleep 1000 & while :; do :; done")
COLUMNS = ["NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"]


def split(line: str) -> list[str]:
    return re.split(r" {3,}", line.strip())


@pytest.fixture
def web(cli: Cli, native: str, rootfs: Path) -> Iterator[str]:
    """The name of a container that computes, with limits."""
    run = ("run", "--driver", native, "--rootfs", rootfs, "-m", "64m", "--pids-limit", "20")
    with cli.start(*run, "--name", "web", *BUSY) as process:
        cli.running("web")
        yield "web"
        cli("kill", "web")
        process.wait(20)


# stats


def test_a_table(cli: Cli, web: str) -> None:
    columns, row = map(split, cli("stats", "--no-stream").stdout.splitlines())
    assert columns == COLUMNS
    name, cpu, memory, percent, network, devices, pids = row
    assert name == web
    assert 1 < float(cpu.removesuffix("%")) < 130
    assert re.fullmatch(r"[\d.]+[KM]iB / 64MiB", memory)
    assert 0 < float(percent.removesuffix("%")) < 50
    assert (network, devices, pids) == ("0B / 0B", "--", "2")


def test_on_each_driver_that_tells(cli: Cli, contained: tuple[object, ...]) -> None:
    with cli.start(*contained, "--name", "x", "--network", "host", *BUSY) as process:
        cli.running("x")
        data = json.loads(cli("stats", "--no-stream", "--format", "json", "x").stdout)
        assert data["name"] == "x" and data["state"] == "running"
        assert 1 < data["cpu_percent"] < 130 and 0 < data["memory_percent"] < 50
        assert data["pids"]["current"] == 2 and data["network"] is None
        cli("kill", "x")
        process.wait(20)


def test_formats(cli: Cli, web: str) -> None:
    line = cli("stats", "--no-stream", "--format", "{{.name}} {{.memory.limit}} {{.pids.limit}}").stdout
    assert line == f"web {64 << 20} 20\n"
    wrong = cli("stats", "--no-stream", "--format", "{{.nosuch}}")
    assert wrong.returncode == 125 and "nosuch" in wrong.stderr


def test_which(cli: Cli, web: str, rootfs: Path, native: str, drivers: dict[str, object]) -> None:
    cli("run", "--driver", native, "--rootfs", rootfs, "--name", "ended", "true")
    assert [split(row)[0] for row in cli("stats", "--no-stream").stdout.splitlines()[1:]] == ["web"]
    rows = [split(row) for row in cli("stats", "-a", "--no-stream").stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["ended", "web"] and rows[0][1:] == ["--"] * 6
    rows = [split(row) for row in cli("stats", "--no-stream", "web", "ended").stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["web", "ended"]
    missing = cli("stats", "--no-stream", "web", "nosuch")
    assert (missing.returncode, missing.stdout) == (1, "") and "nosuch" in missing.stderr


def test_a_driver_that_cannot_tell(cli: Cli, rootfs: Path, drivers: dict[str, dict[str, object]]) -> None:
    if not drivers["chroot"]["available"]:
        pytest.skip("needs driver chroot")
    with cli.start("run", "--driver", "chroot", "--rootfs", rootfs, "--name", "x", "sleep", "60") as process:
        cli.running("x")
        refused = cli("stats", "--no-stream", "x")
        assert refused.returncode == 1 and "stats" in refused.stderr and "chroot" in refused.stderr
        assert split(cli("stats", "--no-stream").stdout.splitlines()[1]) == ["x"] + ["--"] * 6
        cli("kill", "x")
        process.wait(20)


def test_a_stream_without_a_terminal(cli: Cli, web: str) -> None:
    with cli.start("stats", "--format", "json") as process:
        assert process.stdout is not None
        began = time.monotonic()
        samples = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert time.monotonic() - began > 2
        assert samples[0]["cpu"]["usage"] < samples[1]["cpu"]["usage"] < samples[2]["cpu"]["usage"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None and process.stderr.read() == ""


def test_it_ends_with_those_that_are_named(cli: Cli, web: str) -> None:
    with cli.start("stats", "web") as process:
        assert process.stdout is not None
        assert "NAME" in process.stdout.readline() and "web" in process.stdout.readline()
        cli("kill", "web")
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
        assert split(out.splitlines()[-1]) == ["web", *["--"] * 6]


def test_a_reader_that_goes_away(cli: Cli, web: str) -> None:
    with cli.start("stats") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == ""


def test_a_live_table(cli: Cli, web: str) -> None:
    with screen(cli, "stats") as shown:
        shown.until("\x1b[2J\x1b[H")
        first = shown.until("\x1b[J")
        assert "NAME" in first and "web" in first and "--" in first
        second = shown.until("\x1b[J")
        assert second.startswith("\x1b[H") and re.search(r"web +\d+\.\d\d%", second)
        shown.type("\x03")
        assert shown.process.wait(20) == 130


def test_a_live_table_that_is_longer_than_the_screen(cli: Cli, native: str, rootfs: Path) -> None:
    for n in range(5):
        cli("run", "--driver", native, "--rootfs", rootfs, "--name", f"c{n}", "true")
    cli.environment["LINES"] = "30"  # of another time
    with screen(cli, "stats", "-a") as shown:
        shown.resize(5, 100)
        shown.until("\x1b[2J")
        shown.until("and 4 more")  # not at once: the table may have been drawn before the size changed


# top


def test_top(cli: Cli, web: str) -> None:
    until(lambda: int(cli("top", web).stdout.splitlines()[1].split()[3]) > 0)
    columns, *rows = cli("top", web).stdout.splitlines()
    assert columns.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert len(rows) == 2
    first, second = (row.split(None, 7) for row in rows)
    pid = str(cli.inspect(web)["pid"])
    assert first[1] == pid == second[2]
    assert first[0] == "root" and first[5] == "?" and re.fullmatch(r"00:00:\d\d", first[6])
    assert first[7] == "sh -c sleep 1000 & while :; do :; done" and second[7] == "sleep 1000"
    assert int(first[3]) > int(second[3]) == 0


def test_top_as_json(cli: Cli, contained: tuple[object, ...]) -> None:
    with cli.start(*contained, "--name", "x", "--user", "33:33", "-t", "sleep", "60", stdout=None) as process:
        pid = cli.running("x")["pid"]

        def shown() -> dict[str, object]:
            lines = cli("top", "--format", "json", "x").stdout.splitlines()
            found: dict[str, object] = json.loads(lines[0])
            return found if found["args"] == ["sleep", "60"] else {}

        until(shown)
        found = shown()
        assert found["pid"] == pid and found["uid"] == 33 and found["ppid"] != 0
        assert str(found["tty"]).startswith("pts/") and found["command"] == "sleep"
        assert abs(float(str(found["started_at"])) - time.time()) < 60
        cli("kill", "x")
        process.wait(20)


def test_top_of_what_has_no_processes(cli: Cli, native: str, rootfs: Path, drivers: dict[str, object]) -> None:
    cli("run", "--driver", native, "--rootfs", rootfs, "--name", "ended", "true")
    for words in (["top", "ended"], ["top", "nosuch"]):
        result = cli(*words)
        assert (result.returncode, result.stdout) == (1, "") and words[1] in result.stderr


@pytest.mark.parametrize(
    "words", [["top"], ["top", "a", "-o"], ["top", "a", "b"], ["stats", "--format"], ["stats", "--format", "x"]]
)
def test_wrong_usage(cli: Cli, words: list[str]) -> None:
    result = cli(*words)
    assert result.returncode == 125 and "  try: " in result.stderr


def test_as_docker_and_ps_write_numbers() -> None:
    assert [_binary(n) for n in (0, 848 << 10, 8049000, 64 << 20)] == ["0B", "848KiB", "7.676MiB", "64MiB"]
    assert [_decimal(n) for n in (0, 788, 1090, 4034560)] == ["0B", "788B", "1.09kB", "4.03MB"]
    assert [_duration(n) for n in (0, 61, 3600, 90000)] == ["00:00:00", "00:01:01", "01:00:00", "1-01:00:00"]
    assert [_terminal(os.makedev(*n)) for n in ((0, 0), (136, 3), (4, 1), (4, 64), (5, 1))] == [
        "?", "pts/3", "tty1", "ttyS0", "console",
    ]  # fmt: skip
    noon = time.mktime((2026, 7, 15, 12, 0, 0, 0, 0, -1))
    assert [_start(noon - days * 86400, noon) for days in (0, 3, 300)] == ["12:00", "Jul12", "2025"]
