"""Detached containers in an event loop: made, found again, waited for, read and written."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from execdrivers import DEVNULL, PIPE, InvalidState, aio

pytestmark = pytest.mark.needs("root", "busybox")


def test_it_outlives_its_engine_and_is_found_again(no_leaks, sh, root):
    async def make():
        async with aio.Engine(root) as engine:
            async with await engine.create(
                sh("echo one; read x; echo $x; exit 3"), name="d", stdin=PIPE, detach=True
            ) as c:
                await c.start()
                assert (c.detached, c.stdin, c.stdout) == (True, None, None)
            assert c.state == "running"

    async def find():
        async with aio.Engine(root) as engine:
            (c,) = await engine.recover()
            assert (c.id, c.state, await c.poll()) == ("d", "running", None)
            with pytest.raises(TimeoutError):
                await c.wait(0.1)
            waiting = [asyncio.ensure_future(c.wait()) for _ in range(3)]
            logged = asyncio.ensure_future(_collect(c.logs(follow=True)))
            async with await c.attach() as attachment:
                await attachment.write(b"two\n")
                assert [part async for part in attachment] == [("stdout", b"two\n")]
                assert attachment.exit.code == 3
            assert {exit.code for exit in await asyncio.gather(*waiting)} == {3}
            assert await asyncio.wait_for(logged, 10) == [b"one\n", b"two\n"]
            assert [entry.data async for entry in c.logs(tail=1)] == [b"two\n"]
            assert (await engine.get("d")).exit.code == 3
            await c.delete()

    asyncio.run(make())
    asyncio.run(find())
    assert [name for name in os.listdir(root) if not name.startswith(".")] == []


async def _collect(entries):
    return [entry.data async for entry in entries]


def test_much_input_leaves_others_their_turn():
    class Taker:
        """Takes all at once."""

        def fileno(self):
            return 0

        def send(self, data):
            return min(len(data), 32768)

    async def main():
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        await aio.Attachment(Taker()).write(bytes(1 << 20))
        counting.cancel()
        assert turns >= 32

    asyncio.run(main())


def test_a_follower_that_is_cancelled_loses_nothing(within, sh):
    async def main(engine):
        spec = sh("i=0; while [ $i -lt 50 ]; do echo $i; i=$((i+1)); sleep 0.005; done")
        async with await engine.create(spec, stdin=DEVNULL, detach=True) as c:
            await c.start()
            entries = await c.logs(follow=True).__aenter__()  # slow machines open it in more than the timeout
            seen = []
            while True:
                try:
                    seen.append(int((await asyncio.wait_for(entries.__anext__(), 0.004)).data))
                except asyncio.TimeoutError:
                    pass
                except StopAsyncIteration:
                    break
            assert seen == list(range(50))
            await c.wait()
            await c.delete()

    within(main)


def test_stop_kill_and_delete(within, sh):
    async def main(engine):
        c = await engine.create(sh("sleep 60", init=True), stdin=DEVNULL, detach=True)
        await c.start()
        assert (await c.stop()).signal == 15
        await c.delete()
        c = await engine.create(sh("sleep 60"), stdin=DEVNULL, detach=True)
        await c.start()
        reading = asyncio.ensure_future(_collect(c.logs(follow=True)))
        await c.delete(force=True)
        assert await asyncio.wait_for(reading, 10) == []
        c = await engine.create(sh("true"), stdin=DEVNULL, detach=True)
        await c.delete()
        c = await engine.create(sh("true"), stdin=DEVNULL)
        with pytest.raises(InvalidState, match="detached"):
            await c.attach()
        with pytest.raises(InvalidState, match="detached"):
            await _collect(c.logs())
        await c.delete()

    within(main)


def test_only_its_maker_ends_it_before_its_start(within, sh, root):
    async def main(engine):
        async with await engine.create(sh("exit 3"), name="d", stdin=DEVNULL, detach=True) as c:
            async with aio.Engine(root) as other, await other.get("d"):
                pass
            await c.start()
            assert (await c.wait()).code == 3
        await c.delete()

    within(main)


def test_the_end_is_seen_when_its_monitor_was_killed(within, sh):
    async def main(engine):
        async with await engine.create(sh("sleep 60"), stdin=DEVNULL, detach=True) as c:
            await c.start()
            waiting = asyncio.ensure_future(c.wait())
            await asyncio.sleep(0.05)
            os.kill(c._container._record.monitor[0], signal.SIGKILL)
            await asyncio.sleep(0.2)
            assert (waiting.done(), c.state, await c.poll()) == (False, "running", None)
            await c.kill()
            assert (await asyncio.wait_for(waiting, 10)).reason in ("signaled", "unknown")
            await c.delete()

    within(main)


def test_a_thousand_lines_after_the_death_of_its_maker(within, sh, root, rootfs):
    program = f"""
import asyncio, os, signal
from execdrivers import DEVNULL, ContainerSpec, aio
async def main():
    engine = aio.Engine({str(root)!r})
    spec = ContainerSpec(["seq", "1000"], rootfs={str(rootfs)!r})
    c = await engine.create(spec, name="d", stdin=DEVNULL, detach=True)
    await c.start()
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""

    async def main(engine):
        made = subprocess.run([sys.executable, "-c", program], timeout=60)
        assert made.returncode == -9
        c = await engine.get("d")
        assert (await c.wait(10)).code == 0
        assert await _collect(c.logs()) == [b"%d\n" % number for number in range(1, 1001)]
        await c.delete()

    within(main)


def test_it_is_deleted_as_soon_as_its_end_is_told(within, sh):
    async def main(engine):
        for waited in (False, True):
            c = await engine.create(sh("read x"), stdin=PIPE, detach=True)
            await c.start()
            waiting = asyncio.ensure_future(c.wait()) if waited else None
            async with await c.attach() as attachment:
                await attachment.write(b"x\n")
                assert [part async for part in attachment] == []
            await c.delete()
            if waiting is not None:
                assert (await waiting).ok

    within(main)
