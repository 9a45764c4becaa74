"""``stop``, ``wait``, ``pause``, ``unpause`` and ``update``: containers that another program runs."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path

import pytest

from .conftest import Cli, until, watches

POLITE = ("sh", "-c", "trap 'exit 3' TERM; trap 'exit 4' USR1; echo ready; while :; do sleep 0.1; done")
STUBBORN = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")


def test_stop_asks_and_then_kills(cli: Cli, run: tuple[object, ...]) -> None:
    with (
        cli.start(*run, "--name", "a", *POLITE) as a,
        cli.start(*run, "--name", "b", *POLITE) as b,
        cli.start(*run, "--name", "c", "--stop-signal", "USR1", *POLITE) as c,
        cli.start(*run, "--name", "d", *STUBBORN) as d,
    ):
        for process in (a, b, c, d):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for name in "abcd":
            cli.running(name)
        assert cli("stop", "a").stdout == "a\n"
        assert a.wait(20) == 3
        assert cli("stop", "-s", "USR1", "b", "c").stdout == "b\nc\n"
        assert (b.wait(20), c.wait(20)) == (4, 4)
        began = time.monotonic()
        assert cli("stop", "--time", "1", "d").stdout == "d\n"
        assert time.monotonic() - began >= 1
        assert d.wait(20) == 137
    # What has ended is no error.
    assert cli("stop", "a", "d").stdout == "a\nd\n"
    result = cli("stop", "nosuch", "a")
    assert (result.returncode, result.stdout) == (1, "a\n")


def test_several_are_stopped_at_once(cli: Cli, native: str, rootfs: Path) -> None:
    run = ("run", "--driver", native, "--rootfs", rootfs)
    with cli.start(*run, "--name", "a", *STUBBORN) as a, cli.start(*run, "--name", "b", *STUBBORN) as b:
        for process in (a, b):
            assert process.stdout is not None
            process.stdout.readline()
        cli.running("a")
        cli.running("b")
        began = time.monotonic()
        assert cli("stop", "-t", "3", "a", "b").stdout == "a\nb\n"
        assert 3 <= time.monotonic() - began < 6
        assert (a.wait(20), b.wait(20)) == (137, 137)


def test_a_paused_container_is_stopped_too(cli: Cli, contained: tuple[object, ...]) -> None:
    with cli.start(*contained, "--name", "x", *POLITE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        cli.running("x")
        cli("pause", "x")
        assert cli("stop", "x").returncode == 0
        assert process.wait(20) == 3


def test_a_signal_to_all(cli: Cli, contained: tuple[object, ...]) -> None:
    script = "trap 'echo $1 told' USR1; echo $1 ready; while :; do sleep 0.1; done"
    two = f"sh -c {shlex.quote(script)} sh inner & {script}"
    with cli.start(*contained, "--name", "x", "sh", "-c", two, "sh", "outer") as process:
        assert process.stdout is not None
        assert {process.stdout.readline() for _ in range(2)} == {"inner ready\n", "outer ready\n"}
        cli.running("x")
        assert cli("kill", "-s", "USR1", "--all", "x").stdout == "x\n"
        assert {process.stdout.readline() for _ in range(2)} == {"inner told\n", "outer told\n"}
        assert cli("kill", "-s", "USR1", "x").stdout == "x\n"
        assert process.stdout.readline() == "outer told\n"
        cli("kill", "--all", "x")
        assert process.wait(20) == 137


def test_wait(cli: Cli, run: tuple[object, ...]) -> None:
    with (
        cli.start(*run, "--name", "a", "sh", "-c", "echo ready; read x; exit 7", "-i") as a,
        cli.start(*run, "--name", "b", "--rm", *POLITE) as b,
    ):
        for process in (a, b):
            assert process.stdout is not None
        assert b.stdout is not None
        b.stdout.readline()
        cli.running("b")
        until(lambda: "stopped" in cli("inspect", "a").stdout)
        with cli.start("wait", "b", "a") as waiter:
            until(lambda: watches(waiter.pid))
            time.sleep(0.3)
            assert waiter.poll() is None
            cli("stop", "b")
            assert b.wait(20) == 3
            assert waiter.wait(20) == 0
            assert waiter.stdout is not None
            assert waiter.stdout.read() == "3\n7\n"
    # Of what has ended it is said at once, and again.
    assert [cli("wait", "a").stdout for _ in range(2)] == ["7\n", "7\n"]
    result = cli("wait", "nosuch", "a")
    assert (result.returncode, result.stdout) == (1, "7\n")


def test_an_interrupted_wait_disturbs_nobody(cli: Cli, native: str, rootfs: Path) -> None:
    with cli.start("run", "--driver", native, "--rootfs", rootfs, "--name", "x", *POLITE) as process:
        cli.running("x")
        with cli.start("wait", "x", "x") as waiter:
            until(lambda: watches(waiter.pid))
            waiter.send_signal(signal.SIGINT)
            assert waiter.wait(20) == 130
            assert waiter.stderr is not None
            assert waiter.stderr.read() == ""
        assert cli.inspect("x")["state"] == "running"
        cli("kill", "x")
        process.wait(20)


def test_pause_and_unpause(cli: Cli, contained: tuple[object, ...]) -> None:
    script = "while :; do echo tick; sleep 0.1; done"
    with cli.start(*contained, "--name", "x", "sh", "-c", script) as process:
        cli.running("x")
        assert cli("pause", "x").stdout == "x\n"
        assert cli.inspect("x")["state"] == "paused"
        assert "(paused)" in cli("ps").stdout
        again = cli("pause", "x")
        assert again.returncode == 1
        assert again.stderr.endswith("  try: execdrivers unpause x\n")
        assert cli("unpause", "x").stdout == "x\n"
        assert cli.inspect("x")["state"] == "running"
        assert cli("unpause", "x").returncode == 1
        cli("kill", "x")
        process.wait(20)
    assert cli("pause", "x").returncode == 1
    assert cli("unpause", "x", "nosuch").returncode == 1


@pytest.mark.needs("root")
def test_update(cli: Cli, contained: tuple[object, ...]) -> None:
    with cli.start(*contained, "--name", "x", "-m", "64m", "--pids-limit", "40", "sleep", "60") as process:
        cli.running("x")
        result = cli("update", "--memory", "32m", "--pids-limit", "20", "x")
        assert (result.returncode, result.stdout, result.stderr) == (0, "x\n", "")
        assert cli.inspect("x")["spec"]["resources"] == {"memory": 32 << 20, "pids": 20}
        refused = cli("update", "--memory", "32m", "--memory-swap", "16m", "x")
        assert refused.returncode == 125
        assert "-m/--memory" in refused.stderr or "--memory-swap" in refused.stderr
        assert cli.inspect("x")["spec"]["resources"] == {"memory": 32 << 20, "pids": 20}
        cli("kill", "x")
        process.wait(20)
    ended = cli("update", "-m", "64m", "x")
    assert ended.returncode == 1
    assert "stopped" in ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["stop"],
        ["stop", "-t", "x", "c"],
        ["stop", "-t", "-2", "c"],
        ["stop", "-s", "FOO", "c"],
        ["wait"],
        ["pause"],
        ["unpause", "--nosuch", "c"],
        ["update", "c"],
        ["update", "-m", "64m"],
        ["update", "--restart=always", "c"],
        ["update", "--cpu-shares=x", "c"],
    ],
)
def test_wrong_usage(cli: Cli, words: list[str]) -> None:
    result = cli(*words)
    assert result.returncode == 125
    assert result.stderr.startswith("execdrivers: ")
    assert "  try: " in result.stderr
