"""``ps``, ``inspect``, ``kill``, ``rm``, ``drivers`` and ``explain``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from execdrivers.cli import table
from execdrivers.features import FEATURES

from .conftest import PROGRAM, Cli, alive


def test_ps(cli: Cli, run: tuple[object, ...], driver: str) -> None:
    assert cli("ps").stdout.split() == ["NAME", "DRIVER", "COMMAND", "CREATED", "STATUS", "PID"]
    cli(*run, "--name", "ended", "sh", "-c", "exit 3")
    with cli.start(*run, "--name", "live", "sh", "-c", "sleep 60; true") as process:
        pid = cli.running("live")["pid"]
        (row,) = cli("ps").stdout.splitlines()[1:]
        assert row.split()[:2] == ["live", driver]
        assert '''"sh -c 'sleep 60; tr…"''' in row
        assert "Up " in row
        assert row.split()[-1] == str(pid)
        live, ended = cli("ps", "-a", "--no-trunc").stdout.splitlines()[1:]
        assert '''"sh -c 'sleep 60; true'"''' in live
        assert "Exited (3)" in ended
        assert cli("ps", "-q").stdout == "live\n"
        summaries = [json.loads(line) for line in cli("ps", "-a", "--format", "json").stdout.splitlines()]
        assert [(item["name"], item["state"]) for item in summaries] == [("live", "running"), ("ended", "stopped")]
        assert [item["detached"] for item in summaries] == [False, False]
        cli("kill", "live")
        process.wait(20)
    assert cli("ps", "-q").stdout == ""


def test_names_that_do_not_exist_do_not_stop_the_others(cli: Cli, rootfs: Path, native: str) -> None:
    run = ("run", "--driver", native, "--rootfs", rootfs)
    cli(*run, "--name", "a", "true")
    cli(*run, "--name", "b", "true")
    result = cli("inspect", "a", "nosuch", "b")
    assert result.returncode == 1
    assert [item["name"] for item in json.loads(result.stdout)] == ["a", "b"]
    assert result.stderr.startswith("execdrivers: ")
    assert "nosuch" in result.stderr
    result = cli("rm", "a", "nosuch", "b")
    assert (result.returncode, result.stdout) == (1, "a\nb\n")
    assert "nosuch" in result.stderr
    assert cli("rm", "-f", "nosuch").returncode == 0
    assert cli("kill", "nosuch").returncode == 1
    assert cli("inspect", "nosuch").stdout == "[]\n"


def test_inspect(cli: Cli, run: tuple[object, ...], rootfs: Path) -> None:
    with cli.start(*run, "--name", "x", "sleep", "60") as process:
        details = cli.running("x")
        assert details["spec"]["args"] == ["sleep", "60"]
        assert details["spec"]["rootfs"] == str(rootfs)
        assert details["pids"] is None or details["pid"] in details["pids"]
        assert details["started_at"] >= details["created_at"]
        assert isinstance(details["guarantees"], dict)
        cli("kill", "x")
        process.wait(20)


def test_kill_and_rm(cli: Cli, run: tuple[object, ...]) -> None:
    script = "trap 'echo told; exit 9' USR1; echo ready; while :; do sleep 0.1; done"
    with cli.start(*run, "--name", "x", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        pid = cli.running("x")["pid"]
        refused = cli("rm", "x")
        assert refused.returncode == 1
        assert refused.stderr.endswith("  try: execdrivers rm -f x\n")
        assert alive(pid)
        assert cli("kill", "x", "-s", "sigusr1").stdout == "x\n"
        assert process.wait(20) == 9
    result = cli("kill", "x")
    assert result.returncode == 1
    assert "x" in result.stderr
    assert cli("rm", "x").stdout == "x\n"


def test_rm_by_force(cli: Cli, run: tuple[object, ...]) -> None:
    with cli.start(*run, "--name", "x", "sleep", "60") as process:
        pid = cli.running("x")["pid"]
        assert cli("rm", "-f", "x").stdout == "x\n"
        assert process.wait(20) == 137
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert not alive(pid)
    assert cli.names() == []


@pytest.mark.parametrize(
    "words", [["kill"], ["rm"], ["inspect"], ["kill", "-s", "FOO", "x"], ["ps", "x"], ["ps", "--format=x"]]
)
def test_wrong_usage(cli: Cli, words: list[str]) -> None:
    result = cli(*words)
    assert result.returncode == 125
    assert result.stderr.startswith("execdrivers: ")
    assert "  try: " in result.stderr


# drivers


def test_drivers(cli: Cli) -> None:
    text = cli("drivers").stdout
    columns, *rows = text.partition("\n\n")[0].splitlines()
    assert columns.split() == ["NAME", "AVAILABLE", "VERSION", "FEATURES"]
    names = {row.split()[0] for row in rows}
    assert {"native", "lxc", "oci", "chroot"} <= names
    data = json.loads(cli("drivers", "--json").stdout)
    assert {driver["name"] for driver in data["drivers"]} == names
    for driver in data["drivers"]:
        assert set(driver["features"]) <= set(FEATURES)
        assert driver["available"] or driver["problems"]
    detailed = cli("drivers", "-v").stdout
    assert all(feature in detailed for driver in data["drivers"] for feature in driver["features"])


# explain


def test_explain_equals_itself_and_runs_nothing(cli: Cli, run: tuple[object, ...], driver: str) -> None:
    words = ("explain", *run[1:])
    first, second = (cli(*words, "--json", "--", "nosuch", "-x") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["driver"] == driver
    assert not cli.root.exists()
    text = cli(*words, "--", "nosuch", "-x").stdout.splitlines()
    assert len(text) == 1 + len(json.loads(first.stdout)["steps"])
    assert text[1].split()[0] == "1"


def test_explain_without_root(nobody: dict[str, Any]) -> None:
    words = (*PROGRAM, "explain", "--driver", "native", "-m", "64m", "--json", "sh")
    first, second = (subprocess.run(words, capture_output=True, text=True, **nobody) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["driver"] == "native"


def test_explain_names_the_option_that_no_driver_honours(cli: Cli, rootfs: Path) -> None:
    result = cli("explain", "--driver", "chroot", "--rootfs", rootfs, "--pids-limit", "5", "sh")
    assert result.returncode == 125
    assert "(given by --pids-limit)" in result.stderr


# What the start costs, and how text is shown


def test_help_imports_no_engine() -> None:
    script = (
        "import sys; from execdrivers.cli import main; main(['run', '--help']); "
        "sys.exit([m for m in ('execdrivers.engine', 'execdrivers.spec', 'attrs', 'pluggy', 'importlib.metadata') "
        "if m in sys.modules] or 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_reader_that_goes_away_early() -> None:
    result = subprocess.run(
        ["sh", "-c", '"$0" -m execdrivers run --help | true', sys.executable], capture_output=True, text=True
    )
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7200, "2 hours"),
        (86400, "24 hours"),
        (172800, "2 days"),
        (14 * 86400, "2 weeks"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert table.duration(seconds) == text


def test_sizes() -> None:
    assert [table.size(n) for n in (1000, 1024, 32 << 20, 3 << 40, (1 << 20) + 1)] == [
        "1000",
        "1K",
        "32M",
        "3T",
        "1048577",
    ]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert table.printable("a\x1b[2Jb\n\x9b✓") == "a\\x1b[2Jb\\n\\x9b✓"


# what they share


@pytest.mark.needs("root")
def test_namespaces_of_another_container(cli: Cli, native: str, rootfs: Path) -> None:
    run = ("run", "--driver", native, "--rootfs", rootfs)
    with cli.start(*run, "--userns", "private", "--hostname", "first", "--name", "x", "sleep", "60") as process:
        cli.running("x")
        script = "hostname; cat /proc/self/uid_map"
        first, *mapped = cli(*run, "--uts", "container:x", "sh", "-c", script).stdout.split()
        assert first == "first"
        assert mapped[0] == "0" and mapped[1] != "0"
        assert cli(*run, "--network", "container:x", "hostname").stdout != "first\n"
        assert "no container" in cli(*run, "--ipc", "container:y", "true").stderr
        cli("kill", "x")
        process.wait(20)
    ended = cli(*run, "--pid", "container:x", "true")
    assert ended.returncode == 125
    assert "x" in ended.stderr
