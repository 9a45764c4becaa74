"""`aio.run` and `aio.Engine.run`: as the ones that block."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

import execdrivers
from execdrivers import DEVNULL, PIPE, CommandNotFound, ContainerError, ContainerTimeout, Engine, SpecError, aio

pytestmark = pytest.mark.needs("root", "busybox")

OPTIONS = [
    {"capture_output": True},
    {"capture_output": True, "text": True},
    {"stdout": PIPE, "stderr": execdrivers.STDOUT},
    {"capture_output": True, "input": b"in\n"},
    {"capture_output": True, "stdin": [b"a", b"b\n"], "encoding": "latin-1"},
    {"capture_output": True, "output_limit": 3},
    {"stdout": DEVNULL, "stderr": PIPE, "stdin": DEVNULL},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options))
def test_the_result_is_that_of_the_one_that_blocks(within, sh, tmp_path, options):
    spec = sh("cat; echo out; echo err >&2; exit 3", default_mounts=True)
    options = {"driver": "native", "stdin": DEVNULL, **options}
    if "input" in options:
        del options["stdin"]

    def comparable(done):
        return [getattr(done, name) for name in ("args", "exit", "stdout", "stderr", "stdout_truncated", "driver")]

    async def main(engine):
        return await engine.run(spec, **options)

    with Engine(tmp_path / "other") as engine:
        assert comparable(within(main)) == comparable(engine.run(spec, **options))


def test_module_level_run_uses_the_default_engine():
    done = asyncio.run(aio.run(["sh", "-c", "id -u"], capture_output=True, text=True, stdin=DEVNULL))
    assert (done.stdout, done.exit.ok) == ("65534\n", True)


def test_errors_are_the_same(within, sh, root):
    async def main(engine):
        with pytest.raises(ContainerError, match="code 3"):
            await engine.run(sh("exit 3"), check=True, stdin=DEVNULL)
        with pytest.raises(CommandNotFound):
            await engine.run(["/no/such"], rootfs=sh("").rootfs, stdin=DEVNULL)
        with pytest.raises(SpecError, match="memory"):
            await engine.run(["true"], memory="lots")
        with pytest.raises(SpecError, match="one of the two"):
            await engine.run(["true"], input=b"", stdin=DEVNULL)
        assert await engine.list() == []

    within(main)


def test_a_timeout_kills_and_tells_what_was_written(within, sh):
    async def main(engine):
        began = time.monotonic()
        with pytest.raises(ContainerTimeout) as caught:
            await engine.run(sh("echo so far; sleep 60"), capture_output=True, timeout=0.6, stdin=DEVNULL)
        assert caught.value.output == b"so far\n"
        assert caught.value.exit.reason == "timeout"
        assert time.monotonic() - began < 10

    within(main)


def test_output_without_end_exhausts_nothing(within, sh):
    async def main(engine):
        with pytest.raises(ContainerTimeout) as caught:
            await engine.run(sh("yes"), capture_output=True, output_limit=100, timeout=0.5, stdin=DEVNULL)
        assert caught.value.output == b"y\n" * 50

    within(main)


def test_functions_are_called_in_the_loop(within, sh):
    async def main(engine):
        seen = []

        def note(data):
            asyncio.get_running_loop()  # raises in another thread
            seen.append((data, threading.get_ident()))

        await engine.run(sh("echo one"), stdout=note, stdin=DEVNULL)
        assert seen == [(b"one\n", threading.get_ident())]

    within(main)


def test_a_function_that_raises_ends_the_container(within, sh):
    def fail(data):
        raise ZeroDivisionError

    def bad():
        yield b"x" * 1_000_000
        raise RuntimeError("no more")

    async def main(engine):
        with pytest.raises(ZeroDivisionError):
            await engine.run(sh("echo; sleep 60"), stdout=fail, stdin=DEVNULL)
        with pytest.raises(RuntimeError, match="no more"):
            await engine.run(sh("cat"), stdout=DEVNULL, stdin=bad())

    within(main)


def test_large_streams_in_both_directions(within, sh):
    data = os.urandom(5_000_000)

    async def main(engine):
        return await engine.run(sh("cat"), input=data, capture_output=True)

    assert within(main).stdout == data


def test_the_rest_of_the_output_is_not_lost_at_the_exit(within, sh):
    async def main(engine):
        spec = sh("head -c 60000 /dev/zero")
        runs = [engine.run(spec, capture_output=True, stdin=DEVNULL) for _ in range(50)]
        return [len(done.stdout) for done in await asyncio.gather(*runs)]

    assert within(main) == [60000] * 50


def test_a_record_is_kept_when_asked_for(within, sh):
    async def main(engine):
        done = await engine.run(sh("exit 4"), keep=True, name="kept", stdin=DEVNULL)
        (summary,) = await engine.list()
        assert summary.exit == done.exit
        await engine.delete("kept")

    within(main)


def test_who_holds_the_pipes_after_the_end_is_killed(within, rootfs):
    """The driver chroot has no pid namespace: what the command left behind writes on."""

    async def main(engine):
        command = ["sh", "-c", "sleep 60 & echo done"]
        done = await engine.run(command, rootfs=rootfs, driver="chroot", capture_output=True, stdin=DEVNULL)
        assert done.stdout == b"done\n"

    within(main)


def test_a_terminal(within, sh):
    async def main(engine):
        spec = sh("test -t 0 && stty size; cat", tty=True, console_size=(12, 34))
        done = await engine.run(spec, stdin=b"typed\n", stdout=PIPE, timeout=10)
        assert b"12 34\r\n" in done.stdout
        assert b"typed\r\n" in done.stdout

    within(main)


def test_a_terminal_reads_from_files_that_epoll_does_not_take(within, sh, tmp_path):
    (tmp_path / "keys").write_bytes(b"from a file\n")

    async def main(engine):
        with open(tmp_path / "keys", "rb") as file:
            done = await engine.run(sh("stty -echo; cat", tty=True), stdin=file, stdout=PIPE, timeout=10)
        assert b"from a file\r\n" in done.stdout

    within(main)


def test_our_own_terminal_is_connected(no_leaks, root, rootfs):
    """A program on a terminal runs a container on one: keys and size go through, and all is as before."""
    text = f"""
import asyncio, termios
from execdrivers import aio
before = termios.tcgetattr(0)
async def main():
    async with aio.Engine({str(root)!r}) as engine:
        script = "stty size; trap 'echo int' INT; echo ready; until read x; do :; done; echo got $x"
        return await engine.run(["sh", "-c", script], rootfs={str(rootfs)!r}, tty=True)
print("code", asyncio.run(main()).returncode, termios.tcgetattr(0) == before)
"""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 7, 77, 0, 0))
    command = [sys.executable, "-c", text]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen = b""

    def until(wanted):
        nonlocal seen
        deadline = time.monotonic() + 20
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
