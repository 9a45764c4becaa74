"""``exec``: one more command in a container, on each driver that can."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Cli, alive, until
from .test_tty import screen


@pytest.fixture
def web(cli: Cli, contained: tuple[object, ...]) -> Iterator[str]:
    """A container that runs."""
    words = (*contained, "--name", "web", "-e", "OWN=1", "--init", "sleep", "600")
    with cli.start(*words) as process:
        cli.running("web")
        yield "web"
        cli("kill", "web")
        process.wait(20)


def test_output_status_and_surroundings(cli: Cli, web: str, tmp_path: Path) -> None:
    result = cli("exec", web, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")
    file = tmp_path / "env"
    file.write_text("FILE=f\n")
    words = ("-e", "A=1", "-eMINE", "--env-file", file, "-w", "/etc", "-u", "4321:5432")
    lines = cli("exec", *words, web, "sh", "-c", "env; id -u; id -g; pwd", MINE="m").stdout.splitlines()
    assert {"OWN=1", "A=1", "MINE=m", "FILE=f", "4321", "5432", "/etc"} <= set(lines)
    seen = cli("exec", web, "readlink", "/proc/self/ns/pid").stdout
    assert seen.strip() == os.readlink(f"/proc/{cli.inspect(web)['pid']}/ns/pid")


def test_statuses(cli: Cli, web: str) -> None:
    assert cli("exec", web, "sh", "-c", "kill -9 $$").returncode == 137
    missing = cli("exec", web, "nosuch")
    assert missing.returncode == 127
    assert "nosuch" in missing.stderr
    assert cli("exec", web, "/etc/passwd").returncode == 126
    assert cli("exec", "nosuch", "true").returncode == 1
    for words, option in ((["-w", "rel", web, "pwd"], "-w/--workdir"), ([web, ""], "COMMAND")):
        wrong = cli("exec", *words)
        assert wrong.returncode == 125 and f"(given by {option})" in wrong.stderr


def test_options_after_the_name_are_the_commands(cli: Cli, web: str) -> None:
    assert cli("exec", web, "echo", "-i", "--", "-e").stdout == "-i -- -e\n"


def test_stdin_only_with_i(cli: Cli, web: str) -> None:
    assert cli("exec", web, "cat", input="hello").stdout == ""
    assert cli("exec", "-i", web, "cat", input="hello").stdout == "hello"


def test_detached_it_runs_on(cli: Cli, web: str) -> None:
    result = cli("exec", "-d", web, "sh", "-c", "echo seen by nobody; sleep 600")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert "sleep 600" in cli("exec", web, "ps").stdout.split("ps\n")[0]
    assert cli("exec", "-d", web, "nosuch").returncode == 127
    for words in (["-dt"], ["-d", "-i"]):
        assert cli("exec", *words, web, "true").returncode == 125


def test_it_ends_with_the_container(cli: Cli, web: str) -> None:
    with cli.start("exec", web, "sh", "-c", "echo ready; sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        cli("kill", web)
        assert process.wait(20) == 137


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_it(cli: Cli, web: str, number: signal.Signals) -> None:
    script = f"trap 'echo told; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.1; done"
    with cli.start("exec", web, "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(20) == 9
        assert process.stdout.read() == "told\n"


def test_it_outlives_the_death_of_exec_and_ends_with_the_container(cli: Cli, web: str) -> None:
    with cli.start("exec", web, "sh", "-c", "echo ready; sleep 4321") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait(20)
    pids = cli.inspect(web)["pids"]
    assert "sleep 4321" in cli("exec", web, "ps").stdout
    cli("kill", web)
    until(lambda: not any(alive(pid) for pid in pids))


def test_a_shell_on_a_terminal(cli: Cli, web: str) -> None:
    with screen(cli, "exec", "-it", "-e", "PS1=prompt> ", web, "sh") as it:
        it.until("prompt> ")
        assert it.raw
        it.type("tty; stty size\n")
        assert "30 100" in it.until("prompt> ")
        it.resize(11, 44)
        it.type("sleep 600\n")
        it.until("sleep 600\r\n")
        time.sleep(0.3)
        it.type("\x03")
        it.until("prompt> ")
        it.type("stty size; exit 5\n")
        it.until("11 44")
        assert it.process.wait(20) == 5
        assert it.restored()


def test_i_and_t_need_a_terminal(cli: Cli, web: str) -> None:
    result = cli("exec", "-it", web, "true", input="")
    assert (result.returncode, result.stderr.splitlines()[0]) == (125, "execdrivers: the input device is not a TTY")
    assert cli("exec", "-t", web, "sh", "-c", "test -t 1 && echo yes").stdout == "yes\n"


def test_paused_and_ended_containers(cli: Cli, web: str) -> None:
    assert cli("pause", web).stdout == "web\n"
    refused = cli("exec", web, "true")
    assert refused.returncode == 1
    assert refused.stderr.endswith("  try: execdrivers unpause web\n")
    assert cli("unpause", web).returncode == 0
    assert cli("exec", web, "true").returncode == 0
    cli("kill", web)
    until(lambda: cli.inspect(web)["state"] == "stopped")
    ended = cli("exec", web, "true")
    assert ended.returncode == 1
    assert "stopped" in ended.stderr


def test_a_driver_that_cannot(cli: Cli, drivers: dict[str, object], rootfs: Path) -> None:
    with cli.start("run", "--driver", "chroot", "--rootfs", rootfs, "--name", "x", "sleep", "60") as process:
        cli.running("x")
        refused = cli("exec", "x", "true")
        assert refused.returncode == 1
        assert "chroot" in refused.stderr
        cli("kill", "x")
        process.wait(20)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["web"],
        ["--privileged", "web", "true"],
        ["--detach-keys=ctrl-a", "web", "true"],
        ["-e", "=x", "web", "true"],
        ["--env-file", "/nosuch", "web", "true"],
        ["--nosuch", "web", "true"],
    ],
)
def test_wrong_usage(cli: Cli, words: list[str]) -> None:
    result = cli("exec", *words)
    assert result.returncode == 125
    assert result.stderr.startswith("execdrivers: ")
    assert "  try: " in result.stderr
