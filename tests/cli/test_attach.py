"""``attach``: a detached container on this terminal, or on these pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execdrivers.cli.detachkeys import KeyFilter, parse_keys
from execdrivers.cli.parsing import UsageError

from .conftest import Cli, catches, until
from .test_tty import Screen, screen


@pytest.fixture
def shell(cli: Cli, contained: tuple[object, ...]) -> str:
    """A shell on a terminal that the container keeps."""
    result = cli(*contained, "-dit", "--name", "term", "-e", "PS1=prompt> ", "sh")
    assert result.stdout == "term\n", result.stderr
    return "term"


def test_a_shell(cli: Cli, shell: str) -> None:
    with screen(cli, "attach", shell) as it:
        it.type("\n")
        it.until("prompt> ")
        assert it.raw
        it.type("stty size; kept=yes\n")
        it.until("30 100")
        it.resize(11, 44)
        time.sleep(0.3)
        it.type("stty size\n")
        it.until("11 44")
        it.type("\x10\x11")
        assert it.process.wait(20) == 0
        assert it.restored()
        assert "execdrivers: detached from term" in it.rest()
    assert cli.inspect(shell)["state"] == "running"
    with screen(cli, "attach", shell) as it:
        it.type("echo $kept $((6*7))\n")
        it.until("yes 42")
        it.type("exit 5\n")
        assert it.process.wait(20) == 5
        assert it.restored()
    assert cli("wait", shell).stdout == "5\n"


def test_keys_of_ones_own(cli: Cli, shell: str) -> None:
    with screen(cli, "attach", "--detach-keys", "ctrl-a,x", shell) as it:
        # Not quite the keys, so they are for the shell.
        it.type("echo \x10\x11y\n")
        it.type("echo $((6*7))\n")
        it.until("42")
        it.type("\x01")
        time.sleep(0.2)
        assert it.process.poll() is None
        it.type("x")
        assert it.process.wait(20) == 0
    assert cli.inspect(shell)["state"] == "running"


def test_a_terminal_that_goes_away_leaves_it_running(cli: Cli, shell: str) -> None:
    with screen(cli, "attach", shell) as it:
        it.type("echo $((6*7))\n")
        it.until("42")
        it.process.send_signal(signal.SIGHUP)
        assert it.process.wait(20) == 128 + signal.SIGHUP
        assert it.restored()
    assert cli.inspect(shell)["state"] == "running"


def test_two_at_once(cli: Cli, shell: str) -> None:
    with screen(cli, "attach", shell) as one, screen(cli, "attach", shell) as two:
        one.type("\n")
        two.type("\n")
        one.until("prompt> ")
        two.until("prompt> ")
        one.type("echo $((6*7))\n")
        one.until("42")
        two.until("42")
        two.type("exit 3\n")
        assert (one.process.wait(20), two.process.wait(20)) == (3, 3)


def test_a_size_waits_for_room_and_holds_up_nothing(cli: Cli, native: str, rootfs: Path) -> None:
    """While the program does not read what was typed."""
    reading = "cat <&3 >/dev/null & until stty size | grep 44; do sleep 0.05; done"
    script = f"exec 3<&0; trap '{reading}' USR1; stty raw -echo; echo up; while :; do sleep 0.05; done"
    cli("run", "--driver", native, "--rootfs", rootfs, "-dit", "--name", "deaf", "sh", "-c", script)
    until(lambda: "up" in cli("logs", "deaf").stdout)

    def fill(it: Screen) -> None:
        until(lambda: it.raw)
        os.set_blocking(it.master, False)
        for _ in range(20):
            with suppress(BlockingIOError):
                while True:
                    os.write(it.master, bytes(4096))
            time.sleep(0.02)
        os.set_blocking(it.master, True)

    with screen(cli, "attach", "deaf") as it:
        fill(it)
        it.resize(10, 40)
        time.sleep(0.1)
        it.process.send_signal(signal.SIGHUP)
        assert it.process.wait(20) == 128 + signal.SIGHUP
    with screen(cli, "attach", "deaf") as it:
        fill(it)
        it.resize(11, 44)
        time.sleep(0.1)
        cli("kill", "-s", "USR1", "deaf")
        it.until("11 44")


@pytest.fixture
def talking(cli: Cli, contained: tuple[object, ...]) -> str:
    script = "trap 'echo bye >&2; exit 4' TERM; while :; do echo tick; sleep 0.1; done"
    cli(*contained, "-d", "--name", "web", "sh", "-c", script)
    return "web"


def test_output_and_the_end(cli: Cli, talking: str) -> None:
    with cli.start("attach", talking) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "tick\n"
        cli("stop", talking)
        assert process.wait(20) == 4
        assert process.stderr is not None
        assert process.stderr.read() == "bye\n"
        assert set(process.stdout.read().split()) <= {"tick"}


def test_signals_are_passed_on(cli: Cli, talking: str) -> None:
    with cli.start("attach", talking) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_are_not_passed_on(cli: Cli, talking: str, number: signal.Signals) -> None:
    with cli.start("attach", "--sig-proxy=false", talking) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read() == "execdrivers: detached from web, which runs on\n"
    assert cli.inspect(talking)["state"] == "running"


def test_input_of_a_pipe(cli: Cli, contained: tuple[object, ...]) -> None:
    cli(*contained, "-di", "--name", "web", "sh", "-c", "while read x; do echo got $x; [ $x = end ] && exit 7; done")
    with cli.start("attach", "web", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("one\n")
        process.stdin.flush()
        assert process.stdout.readline() == "got one\n"
        # The end of ours is not the end of its own: others may have more.
        process.stdin.close()
        time.sleep(0.3)
        assert process.poll() is None
        with cli.start("attach", "web", stdin=subprocess.PIPE) as other:
            assert other.stdin is not None
            other.stdin.write("end\n")
            other.stdin.flush()
            assert other.wait(20) == process.wait(20) == 7
    ignored = cli("attach", "--no-stdin", "web")
    assert ignored.returncode == 1


def test_the_death_of_attach_ends_nothing(cli: Cli, talking: str) -> None:
    with cli.start("attach", talking) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait(20)
    with cli.start("attach", talking) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "tick\n"
        process.stdout.close()
        until(lambda: process.poll() is not None)
        assert process.returncode == 141
    assert cli.inspect(talking)["state"] == "running"


def test_the_death_of_the_monitor_is_told(cli: Cli, talking: str) -> None:
    with cli.start("attach", talking) as process:
        assert process.stdout is not None
        process.stdout.readline()
        record = json.loads((cli.root / talking / "state.json").read_text())
        os.kill(record["monitor"][0], signal.SIGKILL)
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert "monitor" in process.stderr.read()


def test_paused_ended_and_not_detached(cli: Cli, native: str, rootfs: Path) -> None:
    run = ("run", "--driver", native, "--rootfs", rootfs)
    cli(*run, "-d", "--name", "web", "sleep", "600")
    cli("pause", "web")
    refused = cli("attach", "web")
    assert refused.returncode == 1
    assert refused.stderr.endswith("  try: execdrivers unpause web\n")
    cli("kill", "web")
    cli("wait", "web")
    refused = cli("attach", "web")
    assert refused.returncode == 1
    assert refused.stderr.endswith("  try: execdrivers logs web\n")
    with cli.start(*run, "--name", "x", "sleep", "60") as process:
        cli.running("x")
        refused = cli("attach", "x")
        assert refused.returncode == 1
        assert "detached" in refused.stderr
        cli("kill", "x")
        process.wait(20)


def test_its_terminal_needs_one_of_ours(cli: Cli, shell: str) -> None:
    result = cli("attach", shell, input="")
    assert (result.returncode, result.stderr.splitlines()[0]) == (125, "execdrivers: the input device is not a TTY")
    with cli.start("attach", "--no-stdin", shell) as process:
        until(lambda: catches(process.pid, signal.SIGTERM))
        assert process.poll() is None
        cli("kill", shell)
        assert process.wait(20) == 137


# --detach-keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a", b"a"),
        ("ctrl-A,b,ctrl-@", b"\x01b\x00"),
        ("ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x1b\x1c\x1d\x1e\x1f"),
        ("", b""),
    ],
)
def test_detach_keys(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "ctrl-p,", "é", "shift-a"])
def test_what_are_no_keys(text: str) -> None:
    with pytest.raises(UsageError, match="--detach-keys"):
        parse_keys(text)


@given(st.text("ab\x10", max_size=12).map(str.encode), st.text("ab", min_size=1, max_size=4).map(str.encode), st.data())
def test_keys_are_found_however_they_arrive(typed: bytes, keys: bytes, data: st.DataObject) -> None:
    filter, passed, found = KeyFilter(keys), b"", False
    rest = typed
    while rest and not found:
        count = data.draw(st.integers(1, len(rest)))
        chunk, rest = rest[:count], rest[count:]
        more, found = filter.feed(chunk)
        passed += more
    assert found == (keys in typed)
    assert passed == typed.partition(keys)[0] if found else typed.startswith(passed)


@pytest.mark.parametrize(
    "words",
    [["attach"], ["attach", "a", "b"], ["attach", "--detach-keys=xx", "a"], ["attach", "--sig-proxy=x", "a"]],
)
def test_wrong_usage(cli: Cli, words: list[str]) -> None:
    result = cli(*words)
    assert result.returncode == 125
    assert result.stderr.startswith("execdrivers: ")
    assert "  try: " in result.stderr
