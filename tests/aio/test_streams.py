"""Pipes and terminals of containers in an event loop."""

from __future__ import annotations

import asyncio
import os
import re
import resource
from pathlib import Path

import pytest

from execdrivers import (
    DEVNULL,
    PIPE,
    STDOUT,
    CommandNotFound,
    ContainerSpec,
    ContainerTimeout,
    InvalidState,
    SpecError,
)

pytestmark = pytest.mark.needs("root", "busybox")


@pytest.fixture
def held(within, sh):
    """A command and an async function of its container, started → the function is run with it."""

    def held(command, main, **options):
        fields = options.pop("spec", {})

        async def whole(engine):
            async with await engine.create(sh(command, **fields), **{"stdin": DEVNULL, "stdout": PIPE, **options}) as c:
                await c.start()
                return await asyncio.wait_for(main(c), 30)

        return within(whole)

    return held


def test_reading(held):
    async def main(c):
        assert await c.stdout.read(2) == b"ab"
        assert await c.stdout.readline() == b"c\n"
        assert await c.stdout.readexactly(4) == b"line"
        assert [line async for line in c.stdout] == [b"\n", b"no end"]
        assert await c.stdout.read() == await c.stdout.read(5) == await c.stdout.readline() == b""
        assert c.stdout.at_eof()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await c.stderr.readexactly(10)
        assert caught.value.partial == b"err\n"
        with pytest.raises(ValueError, match="-1 bytes"):
            await c.stdout.readexactly(-1)

    held("echo abc; echo line; printf 'no end'; echo err >&2", main, stderr=PIPE)


def test_lines_as_they_come(held):
    async def main(c):
        seen = []
        async for line in c.stdout:
            seen.append(line)
            c.stdin.write(b"go\n")
            if len(seen) == 3:
                break
        assert seen == [b"0\n", b"1\n", b"2\n"]

    held("i=0; while :; do echo $i; i=$((i+1)); read x; done", main, stdin=PIPE)


def test_a_line_without_end_comes_in_pieces(held):
    async def main(c):
        pieces = [line async for line in c.stdout]
        assert {len(piece) for piece in pieces[:-1]} == {65536}
        assert sum(map(len, pieces)) == 1_000_000

    held("head -c 1000000 /dev/zero", main)


def test_stream_gives_both_as_they_come(held):
    async def main(c):
        parts = [part async for part in c.stream()]
        assert c.exit.ok
        assert b"".join(data for name, data in parts if name == "stdout") == b"1\n2\n3\n" + bytes(300000)
        assert [data for name, data in parts if name == "stderr"] == [b"e\n"]
        assert len(parts) >= 4

    command = "for i in 1 2 3; do echo $i; sleep 0.02; done; echo e >&2; head -c 300000 /dev/zero"
    held(command, main, stderr=PIPE)


def test_stream_has_a_timeout(held):
    async def main(c):
        assert await c.stdout.readline() == b"ready\n"
        stream = c.stream(timeout=0.3)
        assert await stream.__anext__() == ("stdout", b"on\n")
        with pytest.raises(ContainerTimeout):
            await stream.__anext__()
        assert c.state == "running"

    held("echo ready; echo on; sleep 60", main)


def test_communicate(held):
    async def main(c):
        assert await c.communicate(b"in") == (b"in", b"err\n")
        assert c.exit.ok
        assert await c.communicate() == (b"in", b"err\n")

    held("cat; echo err >&2", main, stdin=PIPE, stderr=PIPE)


def test_communicate_loses_nothing_by_a_timeout_or_cancellation(held):
    async def main(c):
        assert await c.stdout.readline() == b"ready\n"
        with pytest.raises(ContainerTimeout):
            await c.communicate(timeout=0.1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(c.communicate(), 0.1)
        await c.signal("USR1")
        assert (await c.communicate(output_limit=3))[0] == b"a\nb\n"

    held("trap 'go=1' USR1; echo ready; echo a; while [ -z $go ]; do sleep 0.02; done; echo b", main)


def test_communicate_keeps_what_the_limit_allows(held):
    async def main(c):
        assert (await c.communicate(output_limit=1000))[0] == bytes(1000)

    held("head -c 3000000 /dev/zero", main)


def test_communicate_without_pipes(held):
    async def main(c):
        with pytest.raises(SpecError, match="no way to the container"):
            await c.communicate(b"x")
        assert await c.communicate() == (None, None)

    held("true", main, stdout=DEVNULL)


def test_what_nobody_reads_stays_in_the_container(held):
    """Back pressure: the command stands still, and our memory does not grow."""

    async def main(c):
        assert await c.stdout.readline() == b"y\n"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        written = await _written_in_all(c.pid)
        assert written < 3 << 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10
        stream = c.stream()
        await stream.__anext__()  # what readline had taken of the pipe beside its line
        await stream.__anext__()
        assert written < await _written_in_all(c.pid) < written + (4 << 20)

    held("yes", main)


async def _written_in_all(pid: int) -> int:
    """What it has written when it stands still."""
    last = -1
    while True:
        sleeps = Path(f"/proc/{pid}/stat").read_text().split()[2] == "S"
        written = int(re.search(r"wchar: (\d+)", Path(f"/proc/{pid}/io").read_text())[1])
        if sleeps and written == last:
            return written
        last = written
        await asyncio.sleep(0.1)


def test_what_is_not_read_by_the_end_can_be_read_after_it(held):
    async def main(c):
        assert (await c.wait()).ok
        assert len(await c.stdout.read()) == 60000

    held("head -c 60000 /dev/zero", main)


def test_one_task_reads(held):
    async def main(c):
        first = asyncio.ensure_future(c.stdout.read(1))
        await asyncio.sleep(0)
        with pytest.raises(InvalidState, match="another task"):
            await c.stdout.read(1)
        first.cancel()
        await asyncio.wait([first])
        await c.kill()
        assert await c.stdout.read() == b""

    held("sleep 60", main)


def test_a_reader_may_begin_before_the_start(within, sh):
    async def main(engine):
        async with await engine.create(sh("cat; echo there"), stdin=PIPE, stdout=PIPE) as c:
            reading = asyncio.ensure_future(c.stdout.read())
            c.stdin.write(b"early ")
            c.stdin.close()
            await asyncio.sleep(0.05)
            await c.start()
            assert await asyncio.wait_for(reading, 10) == b"early there\n"

    within(main)


@pytest.mark.parametrize("command", ["/no/such", "true"])
def test_what_never_starts_wakes_who_writes(within, rootfs, command):
    async def main(engine):
        c = await engine.create(ContainerSpec([command], rootfs=rootfs), stdin=PIPE)
        writing = [asyncio.ensure_future(_write(c, b"early")), asyncio.ensure_future(c.stdin.drain())]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(c.stdin.aclose())
        await asyncio.sleep(0)
        if command == "true":
            await c.delete()
        else:
            with pytest.raises(CommandNotFound):
                await c.start()
        await asyncio.wait_for(closing, 10)
        for each in writing:
            with pytest.raises(BrokenPipeError):
                await asyncio.wait_for(each, 10)
        await asyncio.wait_for(c.stdin.aclose(), 10)
        await c.delete()

    within(main)


def test_deleting_wakes_who_reads_and_writes(within, sh):
    async def main(engine):
        c = await engine.create(sh("sleep 60"), stdin=PIPE, stdout=PIPE)
        await c.start()
        reading = asyncio.ensure_future(c.stdout.read())
        writing = asyncio.ensure_future(_write(c, bytes(4_000_000)))
        await asyncio.sleep(0.05)
        await c.delete(force=True)
        assert await asyncio.wait_for(reading, 10) == b""
        with pytest.raises(BrokenPipeError):
            await asyncio.wait_for(writing, 10)

    within(main)


async def _write(c, data):
    await c.stdin.write(data)


def test_writing_waits_for_the_container(held):
    async def main(c):
        assert await c.stdout.readline() == b"ready\n"
        writing = asyncio.ensure_future(_write(c, bytes(4_000_000)))
        await asyncio.sleep(0.1)
        assert not writing.done()
        await c.signal("USR1")
        await writing
        await c.stdin.aclose()
        assert c.stdin.closed
        assert await c.stdout.read() == b"4000000\n"

    held("trap 'go=1' USR1; echo ready; while [ -z $go ]; do sleep 0.02; done; wc -c", main, stdin=PIPE)


def test_nobody_reads_what_is_written(held):
    async def main(c):
        await c.stdout.read()
        with pytest.raises(BrokenPipeError):
            await c.stdin.write(b"x")
        with pytest.raises(BrokenPipeError):
            await c.stdin.drain()
        await c.stdin.aclose()
        with pytest.raises(InvalidState, match="closed"):
            c.stdin.write(b"x")
        with pytest.raises(SpecError, match="not bytes"):
            c.stdin.write("text")

    held("exec 0<&-; echo; exec 1>&-; sleep 60", main, stdin=PIPE)


def test_both_ways_to_write(held):
    async def main(c):
        await c.stdin.write(b"one ")
        c.stdin.write(b"two ")
        c.stdin.write(memoryview(b"three"))
        await c.stdin.drain()
        await c.stdin.aclose()
        assert await c.stdout.read() == b"one two three"

    held("cat", main, stdin=PIPE)


def test_closing_stdout_is_seen_by_the_command(held):
    async def main(c):
        assert await c.stdout.readline() == b"y\n"
        c.stdout.close()
        assert (await c.wait()).returncode in (-13, 141, 1)

    held("yes", main)


def test_functions_and_pipes_together(within, sh):
    async def main(engine):
        errors = []
        spec = sh("echo a; echo b >&2")
        async with await engine.create(spec, stdin=DEVNULL, stdout=PIPE, stderr=errors.append) as c:
            await c.start()
            assert await c.communicate() == (b"a\n", None)
            assert errors == [b"b\n"]

    within(main)


def test_a_terminal(held):
    async def main(c):
        assert c.stderr is None
        assert await c.stdout.readline() == b"ready\r\n"
        await c.stdin.write(b"typed\n")
        assert await c.stdout.readline() == b"got typed\r\n"
        await c.stdin.aclose()
        assert await c.stdout.read() == b"end\r\n"
        assert (await c.wait()).ok

    command = "stty -echo; echo ready; read x; echo got $x; cat; echo end"
    held(command, main, stdin=PIPE, spec={"tty": True})


def test_stderr_into_stdout(held):
    async def main(c):
        assert await c.communicate() == (b"a\nb\n", None)

    held("echo a; echo b >&2", main, stderr=STDOUT)


def test_descriptors_are_closed_with_the_container(within, sh):
    async def main(engine):
        c = await engine.create(sh("cat"), stdin=PIPE, stdout=PIPE, stderr=PIPE)
        before = len(os.listdir("/proc/self/fd"))
        await c.start()
        await c.communicate(b"x")
        await c.delete()
        assert len(os.listdir("/proc/self/fd")) < before

    within(main)
