"""What goes into containers and what comes out."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import struct
import subprocess
import termios
import threading
import time
from glob import glob

import pytest

from execdrivers import DEVNULL, PIPE, STDOUT, ContainerTimeout, InvalidState, SpecError, Terminal
from execdrivers.terminal import RawTerminal, window_size

CAT = ["cat"]


# --- input


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 5_000_000])
def test_input_of_any_size_comes_back(engine, size):
    data = os.urandom(size)
    assert engine.run(CAT, input=data, capture_output=True).stdout == data


def test_input_from_iterables_files_and_nowhere(engine, tmp_path):
    (tmp_path / "in").write_bytes(b"from a file")

    def run(given):
        return engine.run(CAT, stdin=given, stdout=PIPE).stdout

    assert run(b"%d\n" % number for number in range(3)) == b"0\n1\n2\n"
    assert run([b"", b"a", bytearray(b"b"), memoryview(b"c")]) == b"abc"
    assert run(bytearray(b"xy")) == b"xy"
    assert run(io.BytesIO(b"a\nb\n")) == b"a\nb\n"
    assert run(PIPE) == run(DEVNULL) == run(b"") == b""
    with open(tmp_path / "in", "rb") as file:
        assert run(file) == b"from a file"
        file.seek(0)
        assert run(file.fileno()) == b"from a file"


def test_a_command_need_not_read_its_input(engine):
    assert engine.run(["true"], input=b"x" * 1_000_000).returncode == 0


def test_endless_input_does_not_defer_the_timeout(engine):
    def forever():
        while True:
            yield b"x" * 4096

    with pytest.raises(ContainerTimeout):
        engine.run(["sh", "-c", "cat > /dev/null"], stdin=forever(), timeout=0.2)


def test_input_that_raises_ends_the_container(engine, root):
    def fail():
        yield b"one"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        engine.run(CAT, stdin=fail(), stdout=DEVNULL)
    with pytest.raises(SpecError, match="is text"):
        engine.run(CAT, stdin=["text"], stdout=DEVNULL)
    assert glob("*", root_dir=root) == []


# --- output


def test_text_mode_is_that_of_subprocess(engine):
    command = ["printf", r"a\r\nb\rc\n\303\251"]
    for options in ({"text": True}, {"encoding": "utf-8"}, {"errors": "replace", "encoding": "ascii"}):
        ours = engine.run(command, capture_output=True, **options).stdout
        assert ours == subprocess.run(command, capture_output=True, check=True, **options).stdout
    assert engine.run(CAT, input="é", text=True, encoding="latin-1", capture_output=True).stdout == "é"
    with pytest.raises(UnicodeDecodeError):
        engine.run(["printf", r"\377"], capture_output=True, encoding="utf-8")


def test_stderr_into_stdout(engine):
    r = engine.run(["sh", "-c", "echo a; echo b >&2; echo c"], stdout=PIPE, stderr=STDOUT)
    assert (r.stdout, r.stderr) == (b"a\nb\nc\n", None)


def test_output_to_files_descriptors_and_objects(engine, tmp_path):
    with open(tmp_path / "out", "wb") as file:
        engine.run(["echo", "one"], stdout=file)
        engine.run(["echo", "two"], stdout=file.fileno())
    assert (tmp_path / "out").read_bytes() == b"one\ntwo\n"
    memory = io.BytesIO()
    engine.run(["echo", "three"], stdout=memory, stderr=DEVNULL)
    assert memory.getvalue() == b"three\n"


def test_inherited_output(engine, capfd):
    engine.run(["sh", "-c", "echo out; echo err >&2"])
    assert capfd.readouterr() == ("out\n", "err\n")


def test_callbacks_run_in_the_waiting_thread(engine):
    seen = []
    engine.run(
        ["sh", "-c", "echo out; echo err >&2"],
        stdout=lambda data: seen.append(("out", data, threading.get_ident())),
        stderr=lambda data: seen.append(("err", data, threading.get_ident())),
    )
    here = threading.get_ident()
    assert sorted(seen) == [("err", b"err\n", here), ("out", b"out\n", here)]


def test_a_callback_that_raises_ends_the_container(engine, root, make):
    def fail(data):
        raise ZeroDivisionError

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        engine.run(["sh", "-c", "echo; sleep 60"], stdout=fail)
    assert glob("*", root_dir=root) == []
    with make("echo; sleep 60", stdout=fail) as c:
        c.start()
        with pytest.raises(ZeroDivisionError):
            c.wait()
        assert (c.state, c.exit.signal) == ("stopped", 9)
    assert time.monotonic() - began < 5


def test_a_callback_may_kill_but_not_wait(make):
    def act(data):
        if data == b"wait\n":
            with pytest.raises(InvalidState, match="its own callback"):
                c.wait()
            assert c.state == "running"
            c.kill()

    with make("echo wait; sleep 60", stdout=act) as c:
        c.start()
        assert c.wait(5).signal == 9


def test_capture_stops_at_its_limit_and_the_command_goes_on(engine):
    command = ["sh", "-c", "head -c 3000000 /dev/zero; echo err >&2; exit 3"]
    r = engine.run(command, capture_output=True, output_limit=1000)
    assert (r.stdout, r.stdout_truncated, r.stderr, r.stderr_truncated) == (bytes(1000), True, b"err\n", False)
    assert r.returncode == 3
    assert engine.run(["echo"], capture_output=True, output_limit=1).stdout_truncated is False
    assert len(engine.run(command, capture_output=True, output_limit=None).stdout) == 3_000_000


def test_output_without_end_exhausts_nothing(engine):
    with pytest.raises(ContainerTimeout) as caught:
        engine.run(["yes"], capture_output=True, output_limit=100, timeout=0.3)
    assert caught.value.output == b"y\n" * 50


def test_the_rest_of_the_output_is_not_lost_at_the_exit(engine):
    for _ in range(50):
        assert len(engine.run(["head", "-c", "60000", "/dev/zero"], capture_output=True).stdout) == 60000


# --- pipes of a live container


def test_communicate(make):
    with make("cat; echo err >&2", stdin=PIPE, stderr=PIPE) as c:
        c.start()
        assert c.communicate(b"in") == (b"in", b"err\n")
        assert c.exit.ok
        assert c.communicate() == (b"in", b"err\n")


def test_communicate_loses_nothing_by_a_timeout(make):
    with make("echo a; sleep 0.3; echo b") as c:
        c.start()
        with pytest.raises(ContainerTimeout):
            c.communicate(timeout=0.05)
        assert c.communicate()[0] == b"a\nb\n"


def test_communicate_after_wait_and_without_pipes(make):
    with make("echo there") as c:
        c.start()
        c.wait()
        assert c.communicate() == (b"there\n", None)
    with make("true", stdout=None) as c:
        c.start()
        with pytest.raises(SpecError, match="no way to the container"):
            c.communicate(b"x")
        assert c.communicate() == (None, None)


def test_stream(make):
    with make("for i in 1 2 3; do echo $i; sleep 0.02; done; echo e >&2; head -c 300000 /dev/zero", stderr=PIPE) as c:
        c.start()
        parts = list(c.stream())
        assert c.wait().ok
    assert b"".join(data for name, data in parts if name == "stdout") == b"1\n2\n3\n" + bytes(300000)
    assert [data for name, data in parts if name == "stderr"] == [b"e\n"]
    assert len(parts) >= 4
    with make("echo on; sleep 60") as c:
        c.start()
        stream = c.stream(timeout=0.2)
        assert next(stream) == ("stdout", b"on\n")
        with pytest.raises(ContainerTimeout):
            next(stream)


def test_a_caller_may_close_its_pipes(make):
    with make("cat; yes", stdin=PIPE) as c:
        c.start()
        c.stdin.close()
        assert c.stdout.read(4) == b"y\ny\n"
        c.stdout.close()
        assert c.wait(5).returncode in (-13, 141, 1)  # as the shell has it


def test_descriptors_of_other_containers_are_not_inherited(engine, make):
    with make("cat", stdin=PIPE) as c:
        c.start()
        r = engine.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True)
        for file in (c.stdin, c.stdout):
            assert os.readlink(f"/proc/self/fd/{file.fileno()}") not in r.stdout
        c.stdin.close()
        assert c.wait(5).ok


# --- terminals


def test_a_terminal(engine):
    r = engine.run(
        ["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && stty size && echo err >&2"],
        tty=True,
        console_size=(12, 34),
        stdin=b"",
        capture_output=True,
    )
    assert (r.stdout, r.stderr) == (b"^D\b\b12 34\r\nerr\r\n", None) or r.stdout == b"12 34\r\nerr\r\n"


def test_input_through_a_terminal_has_an_end(engine):
    r = engine.run(["sh", "-c", "stty -echo; cat; echo end"], tty=True, stdin=[b"half a line"], stdout=PIPE, timeout=5)
    assert b"half a line" in r.stdout
    assert r.stdout.endswith(b"end\r\n")


def test_a_live_terminal(make):
    with make("stty -echo; read x; stty size; echo $x; cat", spec={"tty": True}, stdin=PIPE) as c:
        c.start()
        terminal = c.terminal
        assert isinstance(terminal, Terminal)
        assert c.stdout is c.stdin is terminal
        assert c.stderr is None
        terminal.resize(5, 6)
        assert terminal.size == (5, 6)
        time.sleep(0.1)  # until echo is off
        assert terminal.write(b"typed\n") == 6
        text = b""
        while b"typed" not in text:
            text += terminal.read()
        assert b"5 6\r\n" in text
        terminal.write(b"again\n")
        while b"again" not in text:  # now it is surely cat that has the terminal
            text += terminal.read()
        terminal.write(b"\x03")  # interrupts the foreground process
        assert c.wait(5).returncode in (-2, 130)
        assert terminal.read() in (b"", b"^C")
    assert terminal.closed


def test_communicate_with_a_terminal(make):
    with make("stty -echo; echo ready; cat", spec={"tty": True}, stdin=PIPE) as c:
        c.start()
        assert c.terminal.read() == b"ready\r\n"
        out, err = c.communicate(b"line\n", timeout=5)
        assert (out, err) == (b"line\r\n", None)


def test_stderr_apart_is_refused_with_a_terminal(engine, root):
    with pytest.raises(SpecError, match="stderr"):
        engine.run(["true"], tty=True, stderr=DEVNULL)


def test_our_own_terminal_is_connected(program):
    """A program on a terminal runs a container on one: keys, size and control-C go through, and all is as before."""
    text = """
import termios
before = termios.tcgetattr(0)
script = "stty size; trap 'echo int' INT; echo ready; until read x; do :; done; echo got $x"
r = engine.run(ContainerSpec(["sh", "-c", script], tty=True))
print("code", r.returncode, termios.tcgetattr(0) == before)
"""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 7, 77, 0, 0))
    process = subprocess.Popen(program(text), stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen = b""

    def until(wanted):
        nonlocal seen
        deadline = time.monotonic() + 10
        while wanted not in seen:
            assert time.monotonic() < deadline
            try:
                seen += os.read(master, 4096)
            except OSError:
                raise AssertionError(seen) from None

    until(b"ready")
    os.write(master, b"\x03")
    until(b"int\r\n")
    os.write(master, b"hello\n")
    until(b"code 0 True")
    assert process.wait() == 0
    os.close(master)
    assert b"7 77" in seen
    assert b"got hello" in seen


@pytest.mark.needs("busybox")
def test_the_last_that_is_written_to_a_terminal_arrives():
    """The kernel may say that nobody holds the other side before it has handed over what was written last."""
    for _ in range(1000):  # one in a hundred was short
        master, slave = os.openpty()
        terminal = Terminal(master)
        words = ["busybox", "dd", "if=/dev/zero", "bs=4k", "count=4", "status=none"]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=slave):
            os.close(slave)
            arrived = 0
            while data := terminal.read():
                arrived += len(data)
        terminal.close()
        assert arrived == 4 << 12


def test_a_raw_terminal_follows_the_size():
    host, host_side = os.openpty()
    master, slave = os.openpty()
    inner = Terminal(master)
    try:
        with RawTerminal(host_side, inner):
            fcntl.ioctl(host_side, termios.TIOCSWINSZ, struct.pack("HHHH", 3, 4, 0, 0))
            signal.raise_signal(signal.SIGWINCH)
            assert inner.size == window_size(slave) == (3, 4)
    finally:
        inner.close()
        for fd in (host, host_side, slave):
            os.close(fd)
