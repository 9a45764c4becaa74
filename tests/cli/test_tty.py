"""``run -t`` on a real terminal: a pseudo-terminal whose other side the test holds."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import PROGRAM, Cli, alive, until


class Screen:
    """The side of a terminal where a person sits, and a program on the other."""

    def __init__(self, cli: Cli, words: tuple[object, ...], size: tuple[int, int] = (30, 100)) -> None:
        self.master, self.slave = os.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [*PROGRAM, *map(str, words)],
            env={**cli.environment, "TERM": "xterm"},
            **dict.fromkeys(("stdin", "stdout", "stderr"), self.slave),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: str, seconds: float = 20.0) -> str:
        """Read until ``text`` appears; what was seen up to it is returned and forgotten."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} did not appear, but {self.seen!r}"
            self.seen += os.read(self.master, 4096).decode()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def rest(self) -> str:
        """All that is still to be seen after the program's end."""
        while select.select([self.master], [], [], 0.2)[0]:
            self.seen += os.read(self.master, 4096).decode()
        return self.seen

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before


@contextmanager
def screen(cli: Cli, *words: object) -> Iterator[Screen]:
    it = Screen(cli, words)
    try:
        yield it
    finally:
        if it.process.poll() is None:
            it.process.kill()
            it.process.wait()
        os.close(it.master)
        os.close(it.slave)


@pytest.fixture
def shell(contained: tuple[object, ...]) -> tuple[object, ...]:
    return (*contained, "--rm", "--name", "term", "-it", "-e", "PS1=prompt> ", "--", "sh")


def test_a_shell(cli: Cli, shell: tuple[object, ...]) -> None:
    with screen(cli, *shell) as it:
        it.until("prompt> ")
        assert it.raw
        it.type("tty; stty size\n")
        assert "30 100" in it.until("prompt> ")
        it.type("exit 5\n")
        assert it.process.wait(20) == 5
        assert it.restored()
    assert cli.names() == []


def test_keys_reach_the_foreground_of_the_container(cli: Cli, shell: tuple[object, ...]) -> None:
    with screen(cli, *shell) as it:
        it.until("prompt> ")
        it.type("sleep 60\n")
        it.until("sleep 60\r\n")
        time.sleep(0.3)
        it.type("\x03")
        it.until("prompt> ")
        it.type("echo $?\n")
        it.until("130\r\nprompt> ")
        it.type("\x04")
        assert it.process.wait(20) == 0
        assert it.restored()


def test_the_size_is_followed(cli: Cli, shell: tuple[object, ...]) -> None:
    with screen(cli, *shell) as it:
        it.until("prompt> ")
        it.resize(11, 44)
        for _ in range(50):
            it.type("stty size\n")
            if "11 44" in it.until("prompt> "):
                break
            time.sleep(0.05)
        else:
            pytest.fail("the new size did not arrive")
        it.type("exit\n")
        assert it.process.wait(20) == 0


def test_all_output_arrives(cli: Cli, contained: tuple[object, ...]) -> None:
    words = (*contained, "--rm", "-it", "--", "sh", "-c", "yes line | head -n 20000; echo end")
    with screen(cli, *words) as it:
        seen = it.until("end\r\n")
        assert seen.count("line\r\n") == 20000
        assert it.process.wait(20) == 0


def test_the_last_output_is_shown_as_all_the_other(cli: Cli, rootfs: Path, native: str) -> None:
    script = "echo ready; sleep 600; yes line | head -n 1000; echo end"
    with screen(cli, "run", "--name", "x", "-it", "--rootfs", rootfs, "--", "sh", "-c", script) as it:
        it.until("ready\r\n")
        cli.running("x")
        until(lambda: len(cli.inspect("x")["pids"]) == 2)
        pid, sleep = cli.inspect("x")["pids"]
        it.process.send_signal(signal.SIGSTOP)
        os.kill(sleep, signal.SIGKILL)
        until(lambda: not alive(pid))
        it.process.send_signal(signal.SIGCONT)
        assert it.until("end\r\n").count("line\r\n") == 1000
        assert it.process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_when_a_signal_ends_it(
    cli: Cli, rootfs: Path, native: str, number: signal.Signals
) -> None:
    words = ("run", "--rm", "--init", "-it", "--rootfs", rootfs, "--", "sh", "-c", "echo ready; sleep 60")
    with screen(cli, *words) as it:
        it.until("ready")
        assert it.raw
        it.process.send_signal(number)
        assert it.process.wait(20) == 128 + number
        assert it.restored()


def test_the_terminal_is_restored_after_errors(cli: Cli, rootfs: Path, native: str) -> None:
    with screen(cli, "run", "-it", "--rootfs", rootfs, "--", "nosuch") as it:
        assert it.process.wait(20) == 127
        assert it.restored()
        assert "execdrivers: " in it.rest()
    with screen(cli, "run", "-it", "--rm", "--timeout", "0.5", "--rootfs", rootfs, "--", "sleep", "60") as it:
        assert it.process.wait(20) == 124
        assert it.restored()
    assert cli.names() == []


def test_a_terminal_that_goes_away_takes_the_container_with_it(cli: Cli, rootfs: Path, native: str) -> None:
    """As when a window is closed: nobody could ever end that shell."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "run", "--rm", "--name", "x", "-it", "--rootfs", str(rootfs), "--", "sh"],
        env=cli.environment,
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    cli.running("x")
    os.close(master)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert cli.names() == []


def test_a_terminal_without_input(cli: Cli, rootfs: Path, native: str) -> None:
    with screen(cli, "run", "--rm", "-t", "--rootfs", rootfs, "--", "sh", "-c", "tty; stty size; sleep 1") as it:
        it.until("30 100")
        assert not it.raw
        assert it.process.wait(20) == 0


def test_a_terminal_for_a_pipe(cli: Cli, rootfs: Path, native: str) -> None:
    """-t alone needs no terminal on our side."""
    result = cli("run", "--rm", "-t", "--rootfs", rootfs, "--", "sh", "-c", "test -t 1 && echo yes")
    assert (result.returncode, result.stdout) == (0, "yes\n")


def test_i_and_t_need_a_terminal(cli: Cli, rootfs: Path) -> None:
    result = cli("run", "-it", "--rootfs", rootfs, "--", "sh", input="exit\n")
    assert result.returncode == 125
    assert result.stderr.startswith("execdrivers: the input device is not a TTY\n")


# Tables and colours


def test_colours_only_on_a_terminal(cli: Cli) -> None:
    assert "\x1b[" not in cli("drivers").stdout
    with screen(cli, "drivers") as it:
        it.process.wait(20)
        assert "\x1b[1m" in it.rest()
    cli.environment["NO_COLOR"] = "1"
    with screen(cli, "drivers") as it:
        it.process.wait(20)
        assert "\x1b[" not in it.rest()
