"""Events as an async iterator."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

from execdrivers import DEVNULL, PIPE, Registry, SpecError, aio, hookimpl

pytestmark = pytest.mark.needs("root", "busybox")


def test_events_as_they_come(within, sh):
    async def main(engine):
        async with engine.events() as events:
            done = await engine.run(sh("exit 3"), name="run", stdin=DEVNULL)
            seen = []
            async for event in events:
                seen.append(event)
                if event.type == "deleted":
                    break
        assert [event.type for event in seen] == ["created", "started", "exited", "deleted"]
        assert {event.id for event in seen} == {"run"}
        assert seen[2].exit == done.exit

    within(main)


def test_waiting_for_one_that_comes_later(within, sh):
    async def main(engine):
        async with engine.events(types="exited") as events:
            waiting = asyncio.ensure_future(events.__anext__())
            await asyncio.sleep(0.1)
            assert not waiting.done()
            await engine.run(sh("exit 4"), stdin=DEVNULL)
            assert (await asyncio.wait_for(waiting, 10)).exit.code == 4

    within(main)


def test_a_cancelled_wait_loses_nothing(within, sh):
    async def main(engine):
        async with engine.events(types=["started", "exited"]) as events:
            found = []
            running = asyncio.ensure_future(_run_some(engine, sh))
            while len(found) < 20:
                try:
                    found.append(await asyncio.wait_for(events.__anext__(), 0.002))
                except asyncio.TimeoutError:
                    pass
            await running
            assert [event.type for event in found] == ["started", "exited"] * 10

    within(main)


async def _run_some(engine, sh):
    for _ in range(10):
        await engine.run(sh("true"), stdin=DEVNULL)


def test_out_of_memory_is_told_while_it_runs(within, sh):
    async def main(engine):
        spec = sh("tail -c 64m /dev/zero | tail >/dev/null; sleep 60", memory="16M", memory_swap="16M")
        async with engine.events(types=["oom", "exited"]) as events, await engine.create(spec, stdin=DEVNULL) as c:
            await c.start()
            event = await asyncio.wait_for(events.__anext__(), 30)
            assert (event.type, event.id, c.state) == ("oom", c.id, "running")

    within(main)


def test_observers_hold_up_no_loop(no_leaks, sh, root):
    seen = []

    class Slow:
        @hookimpl
        def execdrivers_observe(self, event):
            if event.type in ("oom", "memory_pressure"):
                time.sleep(0.1)  # what comes next must not overtake it
            seen.append((event.type, threading.current_thread()))

    async def main():
        async with aio.Engine(root, registry=registry) as engine:
            # The second waits for the first to be told of, which is when the loop has noticed it.
            command = "tail -c 64m /dev/zero | tail >/dev/null; read x; tail -c 64m /dev/zero | tail >/dev/null"
            spec = sh(command, memory="16M", memory_swap="16M")
            async with await engine.create(spec, stdin=PIPE) as c:
                await c.start()
                while not any(type == "oom" for type, _ in seen):
                    await asyncio.sleep(0.01)
                await c.stdin.write(b"\n")
                await c.wait()

    registry = Registry()
    registry.register(Slow())
    asyncio.run(main())
    types = [type for type, _ in seen if type != "memory_pressure"]
    assert types[:3] == ["created", "started", "oom"]
    assert types[-3:] == ["oom", "exited", "deleted"]
    assert threading.current_thread() not in [thread for _, thread in seen]


def test_the_past_an_end_and_a_close(within, sh):
    async def main(engine):
        began = time.time()
        async with await engine.create(sh("true"), name="c", stdin=DEVNULL) as c:
            await c.start()
            await c.wait()
        past = [event.type async for event in engine.events(since=began, follow=False)]
        assert past == ["created", "started", "exited", "deleted"]
        assert [event async for event in engine.events(until=time.time() + 0.2)] == []
        events = engine.events()
        waiting = asyncio.ensure_future(events.__anext__())
        await asyncio.sleep(0.1)
        await events.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        unused = engine.events()
        await unused.close()
        open_before = os.listdir("/proc/self/fd")
        assert [event async for event in unused] == []
        assert os.listdir("/proc/self/fd") == open_before
        with pytest.raises(SpecError, match="not a type of event"):
            async for _ in engine.events(types="nonsense"):
                pass

    within(main)


def test_recover_and_gc(within, sh):
    async def main(engine):
        async with await engine.create(sh("sleep 60"), name="c", stdin=DEVNULL) as c:
            await c.start()
            assert await engine.recover() == [c]
            assert await engine.gc() == []
            assert c.state == "running"

    within(main)
