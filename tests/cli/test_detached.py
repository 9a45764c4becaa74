"""``run -d`` and ``logs``: containers that live on by themselves, on each driver that can."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import PROGRAM, Cli, alive, until, watches

TALK = "echo out; echo err >&2; i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done"


def detached(contained: tuple[object, ...], name: str = "web") -> tuple[object, ...]:
    return (*contained, "-d", "--name", name)


def test_the_story(cli: Cli, contained: tuple[object, ...]) -> None:
    """A container is made, its maker killed; what others learn of it afterwards is true."""
    words = [*PROGRAM, *map(str, detached(contained)), "-m", "64m", "--", "sh", "-c", f"trap 'exit 3' TERM; {TALK}"]
    with subprocess.Popen(
        ["sh", "-c", '"$@"; echo made; sleep 600', "sh", *words],
        env=cli.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            assert shell.stdout is not None
            assert [shell.stdout.readline() for _ in range(2)] == ["web\n", "made\n"]
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    details = cli.inspect("web")
    assert (details["state"], details["detached"]) == ("running", True)
    assert cli("exec", "web", "sh", "-c", "echo beside; exit 5").returncode == 5
    until(lambda: "tick 3\n" in cli("logs", "web").stdout)
    logged = cli("logs", "web")
    assert logged.stdout.startswith("out\ntick 1\ntick 2\n")
    assert logged.stderr == "err\n"
    (stats,) = [json.loads(line) for line in cli("stats", "--no-stream", "--format", "json", "web").stdout.splitlines()]
    assert stats["name"] == "web"
    with cli.start("wait", "web") as waiter:
        until(lambda: watches(waiter.pid))
        time.sleep(0.3)
        assert waiter.poll() is None
        assert cli("stop", "web").stdout == "web\n"
        assert waiter.wait(20) == 0
        assert waiter.stdout is not None
        assert waiter.stdout.read() == "3\n"
    details = cli.inspect("web")
    assert (details["state"], details["exit"]) == ("stopped", {"reason": "exited", "code": 3})
    assert cli("logs", "--tail", "1", "web").stdout.startswith("tick ")
    assert cli("rm", "web").stdout == "web\n"
    assert cli.names() == []


def test_the_end_that_nobody_saw(cli: Cli, contained: tuple[object, ...]) -> None:
    assert cli(*detached(contained), "sh", "-c", "echo said; kill -9 $$; exit 6").stdout == "web\n"
    assert cli("wait", "web").stdout == "6\n"
    assert cli("logs", "web").stdout == "said\n"
    assert "Exited (6)" in cli("ps", "-a").stdout
    until(lambda: cli.inspect("web")["finished_at"])


def test_its_name_is_printed(cli: Cli, contained: tuple[object, ...]) -> None:
    result = cli(*contained, "--detach", "true")
    name = result.stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{12}", name)
    assert (result.returncode, result.stderr) == (0, "")
    assert cli("wait", name).stdout == "0\n"
    again = cli(*contained, "-d", "--name", name, "true")
    assert again.returncode == 125
    assert name in again.stderr


def test_it_is_removed_when_asked(cli: Cli, contained: tuple[object, ...]) -> None:
    assert cli(*detached(contained), "--rm", "sleep", "3").returncode == 0
    with cli.start("wait", "web") as waiter:
        assert waiter.wait(20) == 0
        assert waiter.stdout is not None
        assert waiter.stdout.read() == "0\n"
    until(lambda: cli.names() == [])


@pytest.mark.parametrize(("command", "status"), [("nosuch", 127), ("/etc/passwd", 126)])
def test_commands_that_cannot_be_run_leave_nothing(
    cli: Cli, contained: tuple[object, ...], command: str, status: int
) -> None:
    result = cli(*detached(contained), command)
    assert (result.returncode, result.stdout) == (status, "")
    assert command in result.stderr
    assert cli.names() == []


def test_gc_leaves_it_alone(cli: Cli, contained: tuple[object, ...]) -> None:
    cli(*detached(contained), "sleep", "600")
    cli(*detached(contained, "ended"), "true")
    cli("wait", "ended")
    until(lambda: cli.inspect("ended")["finished_at"])
    result = cli("gc")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert cli.names() == ["ended", "web"]
    assert cli.inspect("web")["state"] == "running"


def test_nobody_waits_for_its_streams(cli: Cli, native: str, rootfs: Path) -> None:
    """Who runs it in a pipe sees the end of the pipe at once."""
    began = time.monotonic()
    words = [*PROGRAM, "run", "-d", "--name", "web", "--rootfs", str(rootfs), "sleep", "600"]
    piped = subprocess.run(words, env=cli.environment, capture_output=True, text=True, timeout=30)
    assert piped.stdout == "web\n"
    assert time.monotonic() - began < 20
    assert cli("kill", "web").returncode == 0
    assert cli("wait", "web").stdout == "137\n"


def test_a_closed_terminal_ends_nothing(cli: Cli, native: str, rootfs: Path) -> None:
    from .test_tty import screen

    with screen(cli, "run", "-d", "--name", "web", "--rootfs", rootfs, "sleep", "600") as it:
        it.until("web")
        assert it.process.wait(20) == 0
    pid = cli.inspect("web")["pid"]
    time.sleep(0.2)
    assert alive(pid)
    cli("rm", "-f", "web")
    assert not alive(pid)


# logs


@pytest.fixture
def spoken(cli: Cli, native: str, rootfs: Path) -> str:
    """A container that has said some lines and ended."""
    script = "echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three; printf rest"
    cli("run", "-d", "--name", "web", "--rootfs", rootfs, "sh", "-c", script)
    cli("wait", "web")
    return "web"


def test_logs(cli: Cli, spoken: str) -> None:
    logged = cli("logs", spoken)
    assert (logged.returncode, logged.stdout, logged.stderr) == (0, "one\nthree\nrest", "two\n")
    assert cli("logs", "-n", "2", spoken).stdout == "three\nrest"
    assert cli("logs", "--tail", "0", spoken).stdout == ""
    assert cli("logs", "--tail", "all", spoken).stdout == logged.stdout
    stamped = cli("logs", "-t", spoken)
    times = [line.split(" ")[0] for line in [*stamped.stdout.splitlines(), *stamped.stderr.splitlines()]]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", text) for text in times)
    one, three, _, two = times
    assert one < two < three
    assert stamped.stdout.endswith(" rest")
    assert cli("logs", "--since", two, spoken).stdout == "three\nrest"
    assert cli("logs", "--until", two, spoken).stdout == "one\n"
    assert cli("logs", "--since", "1h", "--until", "30m", spoken).stdout == ""
    objects = [json.loads(line) for line in cli("logs", "--format", "json", spoken).stdout.splitlines()]
    assert [(item["stream"], item["log"]) for item in objects] == [
        ("stdout", "one\n"),
        ("stderr", "two\n"),
        ("stdout", "three\n"),
        ("stdout", "rest"),
    ]
    assert objects[0]["time"] == one


def test_logs_that_are_followed(cli: Cli, contained: tuple[object, ...]) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    cli(*detached(contained), "sh", "-c", script)
    with cli.start("logs", "-f", "web") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "ready\n"
        cli("stop", "web")
        assert follower.stdout.read() == "bye\n"
        assert follower.wait(20) == 0
    assert cli("logs", "--follow", "web").stdout == "ready\nbye\n"


def test_following_is_interrupted(cli: Cli, native: str, rootfs: Path) -> None:
    cli("run", "-d", "--name", "web", "--rootfs", rootfs, "sh", "-c", "echo ready; sleep 600")
    with cli.start("logs", "-f", "web") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "ready\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 130
        assert follower.stderr is not None
        assert follower.stderr.read() == ""
    assert cli.inspect("web")["state"] == "running"


def test_a_reader_that_goes_away_early(cli: Cli, native: str, rootfs: Path) -> None:
    cli("run", "-d", "--name", "web", "--rootfs", rootfs, "sh", "-c", "while :; do echo line; sleep 0.05; done")
    words = ["sh", "-c", '"$@" | head -n 1', "sh", *PROGRAM, "logs", "-f", "web"]
    result = subprocess.run(words, env=cli.environment, capture_output=True, text=True, timeout=30)
    assert (result.stdout, result.stderr) == ("line\n", "")


def test_the_log_is_bounded(cli: Cli, native: str, rootfs: Path) -> None:
    words = ("run", "-d", "--name", "web", "--log-opt", "max-size=64k", "--log-opt=max-file=2", "--rootfs", rootfs)
    cli(*words, "sh", "-c", "yes 'a line of the log' | head -n 50000; echo end")
    cli("wait", "web")
    logged = cli("logs", "web").stdout
    assert logged.endswith("end\n")
    assert 1000 < len(logged) < 128 << 10
    sizes = [path.stat().st_size for path in (cli.root / "web").glob("log*")]
    assert len(sizes) == 2
    assert max(sizes) <= 64 << 10


def test_only_detached_containers_have_logs(cli: Cli, native: str, rootfs: Path) -> None:
    cli("run", "--name", "x", "--rootfs", rootfs, "echo", "seen")
    result = cli("logs", "x")
    assert (result.returncode, result.stdout) == (1, "")
    assert "detached" in result.stderr
    assert cli("logs", "nosuch").returncode == 1


def test_a_driver_that_cannot(cli: Cli, rootfs: Path) -> None:
    result = cli("run", "-d", "--driver", "chroot", "--rootfs", rootfs, "sleep", "60")
    assert result.returncode == 125
    assert "chroot" in result.stderr
    assert cli.names() == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "-d", "--timeout", "5", "true"],
        ["run", "-d", "--log-opt", "max-size=x", "true"],
        ["run", "-d", "--log-opt", "max-size=1", "true"],
        ["run", "-d", "--log-opt", "max-file=0", "true"],
        ["run", "-d", "--log-opt", "max-file=x", "true"],
        ["run", "-d", "--log-opt", "compress=true", "true"],
        ["run", "--log-opt", "max-file=3", "true"],
        ["run", "-d", "--restart=always", "true"],
        ["run", "-d", "--log-driver", "syslog", "true"],
        ["run", "-it", "--detach-keys", "ctrl-a", "true"],
        ["logs"],
        ["logs", "a", "b"],
        ["logs", "--tail", "x", "a"],
        ["logs", "--since", "x", "a"],
        ["logs", "--until=", "a"],
        ["logs", "--format=xml", "a"],
        ["logs", "-t", "--format=json", "a"],
    ],
)
def test_wrong_usage(cli: Cli, words: list[str]) -> None:
    result = cli(*words)
    assert result.returncode == 125
    assert result.stderr.startswith("execdrivers: ")
    assert "  try: " in result.stderr
    assert cli.names() == []
