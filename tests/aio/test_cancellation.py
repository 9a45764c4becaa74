"""A cancellation, an interrupt, or the end of the loop, at any moment, leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from execdrivers import DEVNULL, PIPE, InvalidState, aio
from execdrivers.aio.cancellation import deferred, in_thread, whole
from execdrivers.testing import leaks

pytestmark = pytest.mark.needs("root", "busybox")

#: Cancellations of each kind of call; their moments are drawn anew each time.
COUNT = int(os.environ.get("EXECDRIVERS_CANCELLATIONS", "75"))


async def run(engine, sh, **options):
    await engine.run(sh("cat; echo done"), input=b"x" * 100_000, capture_output=True, **options)


async def live(engine, sh):
    async with await engine.create(sh("cat; sleep 0.01", init=True), stdin=PIPE, stdout=PIPE) as c:
        await c.start()
        async with await c.exec(["sh", "-c", "echo exec"], stdout=PIPE) as p:
            await p.communicate()
        await c.pause()
        await c.resume()
        await c.stdin.write(b"line\n")
        await c.stdout.readline()
        await c.stdin.aclose()
        async for _ in c.stream():
            pass
        await c.stop()


async def together(engine, sh):
    # Without the last argument a gather that is cancelled does not wait for all.
    await asyncio.gather(*(run(engine, sh) for _ in range(4)), live(engine, sh), return_exceptions=True)


async def detached(engine, sh, **options):
    c = await engine.create(sh("cat; echo done"), stdin=PIPE, detach=True, **options)
    try:
        await c.start()
        async with await c.attach() as attachment:
            await attachment.write(b"hello")
            await attachment.close_stdin()
            async for _ in attachment:
                pass
        async for _ in c.logs(follow=True):
            pass
        await c.wait()
    finally:
        await c.delete(force=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", [run, live, together, detached], ids=lambda call: call.__name__)
def test_cancelled_at_any_moment_it_leaves_nothing(sh, root, tmp_path, call):
    _cancel(sh, root, tmp_path, call, COUNT)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("driver", ["lxc", "oci", "chroot"])
@pytest.mark.parametrize("call", [run, detached], ids=lambda call: call.__name__)
def test_so_it_is_with_every_driver(sh, root, tmp_path, driver_probe, driver, call):
    if call is detached and "detach" not in driver_probe(driver).features:
        pytest.skip(f"driver {driver} does not detach")

    async def by_driver(engine, sh):
        await call(engine, sh, driver=driver)

    _cancel(sh, root, tmp_path, by_driver, COUNT // 10)


def _cancel(sh, root, tmp_path, call, count):
    async def main():
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(6)
        loop.set_default_executor(executor)
        for _ in range(6):
            executor.submit(time.sleep, 0.05)  # starts a thread each, so that none comes later
        async with aio.Engine(root) as engine:
            for _ in range(3):
                began = time.monotonic()
                await call(engine, sh)
                takes = time.monotonic() - began
            before = leaks.Snapshot()
            cancelled = 0
            for number in range(count):
                task = asyncio.ensure_future(call(engine, sh))
                moments = [random.uniform(0, takes) for _ in range(random.randint(1, 3))]  # cleaning up may be, too
                timers = [loop.call_later(moment, task.cancel) for moment in moments]
                try:
                    await task
                except asyncio.CancelledError:
                    cancelled += 1
                # What it held when it was cancelled is in its traceback.
                for timer in timers:
                    timer.cancel()
                del task
                assert await engine.list() == []
                if number % 20 == 19:
                    _assert_none_left(before, tmp_path)
            assert cancelled > count / 3
            _assert_none_left(before, tmp_path)

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def _assert_none_left(before, tmp_path):
    left = leaks.wait_for_none(before, places=[str(tmp_path)])
    # Ours have a root of their own; what has the host's is another program's.
    assert not [each for each in left if not each.endswith(" in /")]


def test_what_a_cancelled_call_held_is_let_go_of_without_garbage_collection():
    held = []

    async def hold(wait):
        class Thing:
            """Something open."""

        thing = Thing()
        held.append(weakref.ref(thing))
        await wait()

    async def main():
        for wait in (lambda: in_thread(lambda: time.sleep(0.05)), lambda: whole(lambda: time.sleep(0.05), repr)):
            task = asyncio.ensure_future(hold(wait))
            await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            del task
        await asyncio.sleep(0)

    gc.disable()
    try:
        asyncio.run(main())
        assert [thing() for thing in held] == [None, None]
    finally:
        gc.enable()


def test_a_cancelled_wait_is_that_and_no_more(within, sh):
    async def main(engine):
        async with await engine.create(sh("sleep 60"), stdin=DEVNULL) as c:
            await c.start()
            waits = [asyncio.ensure_future(c.wait()) for _ in range(3)]
            await asyncio.sleep(0.02)
            waits[0].cancel()
            await asyncio.wait(waits[:1])
            assert c.state == "running"
            await c.kill()
            assert [(await wait).signal for wait in waits[1:]] == [9, 9]

    within(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup came with Python 3.11")
def test_timeouts_and_task_groups(within, sh):
    async def main(engine):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await engine.run(sh("sleep 60"), stdin=DEVNULL)

        async def fail():
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(engine.run(sh("sleep 60"), stdin=DEVNULL))
                group.create_task(engine.run(sh("exit 3"), stdin=DEVNULL, check=True))

        with pytest.raises(Exception, match="unhandled errors") as caught:
            await fail()
        assert [type(error).__name__ for error in caught.value.exceptions] == ["ContainerError"]
        assert await engine.list() == []

    within(main)


def test_control_c(no_leaks, sh, root):
    async def main():
        async with aio.Engine(root) as engine:
            asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGINT)
            await asyncio.gather(*(engine.run(sh("sleep 60"), stdin=DEVNULL) for _ in range(5)))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
    finally:
        signal.signal(signal.SIGINT, before)
    gc.collect()  # before Python 3.11 the interrupt goes through the loop, and takes the engine with it
    assert [name for name in os.listdir(root) if not name.startswith(".")] == []


def test_a_loop_that_is_closed_early(no_leaks, sh, root):
    """What is waited for there cleans up when it is dropped."""
    loop = asyncio.new_event_loop()

    async def begin():
        engine = aio.Engine(root)
        c = await engine.create(sh("sleep 60"), stdin=PIPE, stdout=PIPE)
        await c.start()
        return engine, c

    async def hang():
        async with aio.Engine(root) as engine, await engine.create(sh("cat"), stdin=PIPE, stdout=PIPE) as c:
            await c.start()
            await c.stdout.read()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        kept = loop.run_until_complete(begin())
        task = loop.create_task(hang())
        loop.run_until_complete(asyncio.sleep(0.3))
        task._log_destroy_pending = False
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        del kept, task
        gc.collect()
    assert [name for name in os.listdir(root) if not name.startswith(".")] == []


def test_an_end_while_the_executor_is_shut_down(no_leaks, sh, root):
    loop = asyncio.new_event_loop()
    failures = []
    loop.set_exception_handler(lambda loop, context: failures.append(context))

    async def begin():
        engine = aio.Engine(root)
        c = await engine.create(sh("sleep 60"), stdin=DEVNULL)
        await c.start()
        return engine, c

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        kept = loop.run_until_complete(begin())
        loop.run_until_complete(loop.shutdown_default_executor())
        kept[1]._container.kill()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()
        del kept
        gc.collect()
    assert failures == []
    assert [name for name in os.listdir(root) if not name.startswith(".")] == []


@pytest.mark.parametrize("thread", [False, True], ids=["here", "in another thread"])
def test_cleaning_up_in_another_loop(no_leaks, sh, root, thread):
    async def begin():
        engine = aio.Engine(root)
        c = await engine.create(sh("sleep 60"), stdin=PIPE, stdout=PIPE)
        await c.start()
        return engine, c, await c.exec(["sleep", "60"])

    async def end(engine, c, process):
        with pytest.raises(InvalidState, match="closed"):
            await c.wait()
        await process.close()
        await engine.close()
        assert c.exit.signal == process.exit.signal == 9

    kept = asyncio.run(begin())
    began = time.monotonic()
    if thread:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(lambda: asyncio.run(end(*kept))).result()
    else:
        asyncio.run(end(*kept))
    assert time.monotonic() - began < 8  # it waits ten seconds for what does not die
    assert [name for name in os.listdir(root) if not name.startswith(".")] == []


def test_what_a_thread_does_is_done_before_the_cancellation_goes_on():
    steps = []

    def slow(name):
        time.sleep(0.1)
        steps.append(name)
        return name

    async def cancelled(coroutine, times=1):
        task = asyncio.ensure_future(coroutine)
        for _ in range(times):
            await asyncio.sleep(0.02)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main():
        assert await in_thread(lambda: slow("one")) == "one"
        await cancelled(in_thread(lambda: slow("two")), times=3)
        assert steps == ["one", "two"]
        await cancelled(whole(lambda: slow("made"), lambda made: steps.append(f"{made} undone")))
        assert steps[2:] == ["made", "made undone"]
        with deferred() as patiently:
            assert await patiently(asyncio.get_running_loop().create_future(), timeout=0.01) is None
        with pytest.raises(ZeroDivisionError):
            await whole(lambda: 1 / 0, steps.append)

    asyncio.run(main())
    assert threading.active_count() == 1
