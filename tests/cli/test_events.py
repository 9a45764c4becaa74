"""``events``: as it happens, and what has happened."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest

from .conftest import Cli, until


def listening(cli: Cli) -> bool:
    return (cli.root / ".events/listeners").exists()


def test_follows_until_it_is_interrupted(cli: Cli, native: str, rootfs: Path) -> None:
    with cli.start("events") as process:
        until(lambda: listening(cli))
        cli("run", "--driver", native, "--rootfs", rootfs, "--name", "x", "--rm", "sh", "-c", "exit 3")
        assert process.stdout is not None
        lines = [process.stdout.readline().rstrip() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z container"
    for line, more in zip(
        lines,
        [
            r"created x \(driver=native, pid=\d+\)",
            r"started x \(driver=native, pid=\d+\)",
            r"exited x \(driver=native, status=3, reason=exited\)",
            r"deleted x \(driver=native\)",
        ],
        strict=True,
    ):
        assert re.fullmatch(f"{stamp} {more}", line), line
    assert not listening(cli)


@pytest.fixture
def past(cli: Cli, native: str, rootfs: Path) -> list[dict[str, object]]:
    """What two runs, a and b, leave."""
    for name in ("a", "b"):
        cli("run", "--driver", native, "--rootfs", rootfs, "--name", name, "--cpus", "1", "true")
    result = cli("events", "--since", "1h", "--until", "0s", "--format", "json")
    assert result.stderr == ""
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_what_has_happened(cli: Cli, past: list[dict[str, object]]) -> None:
    kinds = ["created", "started", "exited"]
    assert [(event["id"], event["type"]) for event in past] == [(name, kind) for name in "ab" for kind in kinds]
    assert past[2]["exit"] == {"reason": "exited", "code": 0}

    def told(*words: str) -> list[str]:
        result = cli("events", "--since", "0", "--until", "0s", "--format", "{{.id}} {{.type}}{{.exit.code}}", *words)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.splitlines()

    assert told("--filter", "type=exited") == ["a exited0", "b exited0"]
    assert told("-f", "container=a", "-f", "event=created", "-f", "type=started") == ["a created", "a started"]
    assert told("-f", "container=none") == []
    assert cli("events", "--until", "1m").stdout == ""


def test_ends_when_told(cli: Cli) -> None:
    began = time.time()
    result = cli("events", "--until", str(began + 1.5))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.time() >= began + 1.5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["x"], "events takes no names, but 'x' was given\n  try: execdrivers events --filter container=x"),
        (["--filter", "image=x"], "'image=x' is not supported\n  try: container=web or type=exited"),
        (["--filter", "type=die"], "'die' is not a type of event\n  try: created, started"),
        (["--since", "yesterday"], "--since: 'yesterday' is not a time"),
        (["--format", "table"], "'table' names no value"),
    ],
)
def test_what_cannot_be_meant(cli: Cli, words: list[str], told: str) -> None:
    result = cli("events", *words)
    assert (result.returncode, result.stdout) == (125, "")
    assert told in result.stderr
    assert not cli.root.exists()


def test_a_reader_that_goes(cli: Cli, past: list[dict[str, object]]) -> None:
    with cli.start("events", "--since", "1h") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        cli("rm", "a", "b")
        assert process.wait(20) == 141
