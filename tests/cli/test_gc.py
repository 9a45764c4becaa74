"""``gc``: what a crash left goes, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .conftest import Cli, alive, until


def test_nothing_is_removed_that_somebody_may_want(cli: Cli, native: str, rootfs: Path) -> None:
    run = ("run", "--driver", native, "--rootfs", rootfs)
    cli(*run, "--name", "kept", "sh", "-c", "exit 3")
    with cli.start(*run, "--name", "owned", "sleep", "600") as process:
        cli.running("owned")
        names = cli.names()
        for words in (["--dry-run"], []):
            result = cli("gc", *words)
            assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert cli.names() == names == ["kept", "owned"]
        assert cli.inspect("owned")["state"] == "running"
        cli("kill", "owned")
        process.wait(20)


def test_what_a_crash_left(cli: Cli, native: str, rootfs: Path) -> None:
    """A program that is killed before it has started its container, and its guard with it."""
    made = cli.root / "left"
    script = f"""
        import os
        from execdrivers.store import Store
        from execdrivers.record import Record
        entry = Store({str(cli.root)!r}).reserve("left")
        entry.write(Record(id="left", driver="native", owner=(os.getpid(), 1)))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=30)
    assert made.exists()
    (found,) = [json.loads(line) for line in cli("gc", "--dry-run", "--format", "json").stdout.splitlines()]
    assert (found["name"], found["what"]) == ("left", "container")
    assert made.exists()
    table = cli("gc").stdout.splitlines()
    assert table[0].split() == ["NAME", "WHAT", "WHY"]
    assert table[1].startswith("left")
    assert not made.exists()
    assert cli("gc").stdout == ""


def test_a_run_that_is_killed_leaves_nothing(cli: Cli, native: str, rootfs: Path) -> None:
    with cli.start("run", "--driver", native, "--rootfs", rootfs, "--name", "x", "sleep", "600") as process:
        pid = cli.running("x")["pid"]
        process.kill()
        process.wait(20)
    until(lambda: not alive(pid) and cli.names() == [])


@pytest.mark.parametrize("words", [["gc", "x"], ["gc", "--format=x"], ["gc", "--force"]])
def test_wrong_usage(cli: Cli, words: list[str]) -> None:
    result = cli(*words)
    assert result.returncode == 125
    assert result.stderr.startswith("execdrivers: ")
    assert "  try: " in result.stderr
