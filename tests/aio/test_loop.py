"""What containers cost an event loop: no thread each, no time while they wait, no long turn while they are made."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time

import pytest

import execdrivers
from execdrivers import DEVNULL, PIPE, aio

pytestmark = pytest.mark.needs("root", "busybox")

#: Containers that wait at once. docs/asyncio.md has a thousand.
MANY = int(os.environ.get("EXECDRIVERS_WAITING", "250"))


@pytest.fixture(autouse=True)
def _no_old_garbage():
    """What the tests before have left would take a tenth of a second to look through, in some turn that is measured."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.timeout(300)
def test_many_that_wait_cost_nothing(no_leaks, root, sh):
    async def main(engine):
        alone = await _latencies(0.3)
        containers = []
        for _ in range(MANY):
            containers.append(await engine.create(sh("exec sleep 600"), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL))
            await containers[-1].start()
        waits = [asyncio.ensure_future(c.wait()) for c in containers]
        await asyncio.sleep(0.1)
        # The executor's at the most, however many wait.
        assert threading.active_count() < 40
        began = time.process_time()
        await asyncio.sleep(0.5)
        idle = time.process_time() - began
        assert idle < 0.01
        crowded = await _latencies(0.3)
        print(
            f"loop latency: {_median(alone):.1f} µs alone, {_median(crowded):.1f} µs beside {MANY} waiting containers"
        )
        # Very generous: the machine is shared.
        assert _median(crowded) < 10 * _median(alone) + 200
        await containers[17].kill()
        assert (await waits[17]).signal == 9
        assert not any(wait.done() for wait in waits[:17] + waits[18:])
        await containers[17].delete()

    async def whole():
        async with aio.Engine(root) as engine:
            await main(engine)

    asyncio.run(whole())  # not in debug mode, which takes time of its own


async def _latencies(seconds):
    """Microseconds that a callback waits for its turn, many times."""
    loop = asyncio.get_running_loop()
    found = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        done = loop.create_future()
        began = time.perf_counter()
        loop.call_soon(done.set_result, None)
        await done
        found.append(1e6 * (time.perf_counter() - began))
        await asyncio.sleep(0)
    return found


def _median(numbers):
    return sorted(numbers)[len(numbers) // 2]


def test_the_loop_goes_on_while_containers_come_and_go(within, sh, monkeypatch):
    """No callback takes long: with fifty containers, and one that never stops writing to who always reads."""
    turns = []
    run = asyncio.Handle._run

    def timed(handle):
        # Not by the clock: others have the processors, and the interpreter, too.
        began = time.thread_time()
        run(handle)
        turns.append(time.thread_time() - began)

    async def main(engine):
        done = asyncio.Event()
        beats = 0

        async def heart():
            nonlocal beats
            while not done.is_set():
                beats += 1
                await asyncio.sleep(0.002)

        async def flood():
            async with await engine.create(sh("yes"), stdin=DEVNULL, stdout=PIPE) as c:
                await c.start()
                async for _ in c.stdout:
                    if done.is_set():
                        break

        others = [asyncio.ensure_future(heart()), asyncio.ensure_future(flood())]
        await asyncio.sleep(0.1)
        before = beats
        monkeypatch.setattr(asyncio.Handle, "_run", timed)
        runs = [engine.run(sh(f"echo {number}"), capture_output=True, stdin=DEVNULL) for number in range(50)]
        assert [int(result.stdout) for result in await asyncio.gather(*runs)] == list(range(50))
        monkeypatch.undo()
        assert beats > before + 2
        done.set()
        await asyncio.gather(*others)
        turns.sort()
        print(f"a callback takes {1e6 * _median(turns):.0f} µs, of {len(turns)} the longest {1e6 * turns[-1]:.0f} µs")
        assert turns[-1] < 0.02

    within(main)


def test_an_endless_stream_gives_others_their_turn(within, sh):
    async def main(engine):
        async with await engine.create(sh("yes"), stdin=DEVNULL, stdout=PIPE) as c:
            await c.start()
            turns = 0

            async def other():
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(other())
            read = 0
            async for _, data in c.stream():
                read += len(data)
                if read > 20_000_000:
                    break
            task.cancel()
            assert turns > 10

    within(main)


def test_nothing_of_asyncio_is_loaded_for_who_does_not_use_it():
    program = "import sys, execdrivers; execdrivers.run(['true'], stdin=-3); print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert execdrivers.PIPE == PIPE
