"""Live containers in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from execdrivers import (
    DEVNULL,
    PIPE,
    CommandNotFound,
    ContainerNotFound,
    ContainerTimeout,
    Engine,
    InvalidState,
    UnsupportedFeature,
    aio,
    pidfd,
)
from execdrivers.aio.process import watched

pytestmark = pytest.mark.needs("root", "busybox")


def test_a_life(within, sh):
    async def main(engine):
        c = await engine.create(sh("echo hello; exit 3"), name="one", stdin=DEVNULL, stdout=PIPE)
        assert (c.id, c.state, c.exit, await c.poll()) == ("one", "created", None, None)
        with pytest.raises(InvalidState, match="not started"):
            await c.wait()
        await c.start()
        assert isinstance(c.pid, int) or c.exit
        exit = await c.wait()
        assert (exit.code, c.exit, c.returncode, c.state, c.pid) == (3, exit, 3, "stopped", None)
        assert await c.stdout.read() == b"hello\n"
        assert await c.wait() == await c.poll() == await c.stop() == exit
        with pytest.raises(InvalidState, match="has ended"):
            await c.signal("TERM")
        await c.kill()
        await c.delete()
        await c.delete()
        with pytest.raises(ContainerNotFound):
            await engine.get("one")
        assert "one" in repr(c)

    within(main)


def test_its_end_is_noticed_by_itself(within, sh):
    async def main(engine):
        async with await engine.create(sh("true"), stdin=DEVNULL) as c:
            await c.start()
            while c.exit is None:
                await asyncio.sleep(0.01)
            assert c.exit.ok and c.state == "stopped" and c.finished_at

    within(main)


def test_many_wait_for_one(within, sh):
    async def main(engine):
        async with await engine.create(sh("exit 5"), stdin=DEVNULL) as c:
            await c.start()
            assert {exit.code for exit in await asyncio.gather(*(c.wait() for _ in range(20)))} == {5}

    within(main)


def test_a_wait_that_ends_early_leaves_it_running(within, sh):
    async def main(engine):
        async with await engine.create(sh("sleep 60"), stdin=DEVNULL) as c:
            await c.start()
            with pytest.raises(ContainerTimeout):
                await c.wait(0.05)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(c.wait(), 0.05)
            assert c.state == "running" and await c.poll() is None
            with pytest.raises(InvalidState, match="running"):
                await c.delete()
            assert c.state == "running"
            await c.kill()
            assert (await c.wait()).signal == 9

    within(main)


def test_stop_asks_and_then_kills(within, sh):
    async def main(engine):
        async with await engine.create(sh("sleep 60", init=True), stdin=DEVNULL) as polite:
            await polite.start()
            assert (await polite.stop()).signal == 15
        async with await engine.create(sh("trap '' TERM; echo; sleep 60"), stdin=DEVNULL, stdout=PIPE) as deaf:
            await deaf.start()
            await deaf.stdout.readline()
            assert (await deaf.stop(timeout=0.1)).signal == 9

    within(main)


def test_a_command_that_is_not_there(within, rootfs):
    from execdrivers import ContainerSpec

    async def main(engine):
        c = await engine.create(ContainerSpec(["/no/such"], rootfs=rootfs), stdin=DEVNULL, stdout=PIPE)
        reading = asyncio.ensure_future(c.stdout.read())
        with pytest.raises(CommandNotFound):
            await c.start()
        assert await asyncio.wait_for(reading, 10) == b""
        assert c.exit.reason == "launch-failed"

    within(main)


def test_a_second_start_changes_nothing(within, sh):
    async def main(engine):
        async with await engine.create(sh("cat; exit 3"), stdin=PIPE, stdout=PIPE) as c:
            await c.start()
            with pytest.raises(InvalidState, match="cannot be started"):
                await c.start()
            assert await c.communicate(b"there") == (b"there", None)
            with pytest.raises(InvalidState, match="cannot be started"):
                await c.start()
            assert (await c.wait()).code == 3

    within(main)


@pytest.mark.parametrize("supervised", [False, True], ids=["deleted", "being deleted"])
def test_deleted_by_a_thread_as_it_starts(within, sh, monkeypatch, supervised):
    """As by an engine that is closed meanwhile: descriptors that a thread closes are not watched."""
    threads = []

    def found(process):
        found = watched(process)
        if supervised:
            threads.append(threading.Thread(target=process._supervise, args=(None,)))
            threads[0].start()
            while process._pumping.acquire(blocking=False):
                process._pumping.release()
                time.sleep(0.001)
        else:
            process.delete(force=True)
        return found

    monkeypatch.setattr("execdrivers.aio.container.watched", found)

    async def main(engine):
        c = await engine.create(sh("sleep 60"), stdin=PIPE, stdout=PIPE)
        reading = asyncio.ensure_future(c.stdout.read())
        await c.start()
        c._container.kill()
        for thread in threads:
            thread.join()  # with no turn of the loop
        assert (await c.wait(10)).signal == 9
        assert await asyncio.wait_for(reading, 10) == b""
        await c.delete()

    within(main)


def test_an_end_that_nobody_has_noticed_is_no_timeout(within, sh):
    async def main(engine):
        for finish in (lambda c: c.wait(0), lambda c: c.communicate(timeout=0)):
            async with await engine.create(sh("echo there"), stdin=DEVNULL, stdout=PIPE) as c:
                await c.start()
                assert pidfd.wait(c._drive._exit_fd, 10)  # without a turn of the loop
                await finish(c)
                assert c.exit.ok
                assert await c.communicate(timeout=0) == (b"there\n", None)
        async with await engine.create(sh("echo there; sleep 60"), stdin=DEVNULL, stdout=PIPE) as c:
            await c.start()
            for finish in (c.wait(0), c.communicate(timeout=0)):
                with pytest.raises(ContainerTimeout):
                    await finish

    within(main)


def test_the_loop_waits_for_no_lock(within, sh, root):
    """A thread may have a container locked for long, as while it runs one more process in it."""

    async def main(engine):
        c = await engine.create(sh("sleep 60", init=True), name="c", stdin=DEVNULL)
        await c.start()
        async with aio.Engine(root) as other:
            for seen in (c, await other.get("c")):
                with _locked(seen):
                    assert (seen.state, seen.pid, seen.exit) == ("running", c.pid, None)
            with _locked(seen) as let_go:
                asyncio.get_running_loop().call_later(0.05, let_go.set)
                with pytest.raises(ContainerTimeout):
                    await seen.wait(0.1)
            with _locked(seen) as let_go:
                asyncio.get_running_loop().call_later(0.05, let_go.set)
                await other.close()
        with _locked(c) as let_go:
            asyncio.get_running_loop().call_later(0.05, let_go.set)
            assert (await c.stop()).signal == 15
        with _locked(c) as let_go:
            asyncio.get_running_loop().call_later(0.05, let_go.set)
            await engine.close()
        assert c.state == "stopped"

    within(main)


@contextlib.contextmanager
def _locked(c):
    """A thread has it locked, until the event is set; it must not be the thread that has had enough."""
    locked, let_go = threading.Event(), threading.Event()

    def hold():
        with c._container._lock:
            locked.set()
            return let_go.wait(3)

    with ThreadPoolExecutor(1) as executor:
        held = executor.submit(hold)
        locked.wait()
        yield let_go
        let_go.set()
        assert held.result()


def test_exec_many_at_once(within, sh):
    async def main(engine):
        async with await engine.create(sh("sleep 60", init=True), stdin=DEVNULL) as c:
            await c.start()

            async def one(number):
                async with await c.exec(
                    ["sh", "-c", f"read x; echo $x {number}; exit {number}"], stdin=PIPE, stdout=PIPE
                ) as p:
                    out, _ = await p.communicate(b"got\n")
                    return out, p.returncode, p.exit.code

            expected = [(b"got %d\n" % number, number, number) for number in range(20)]
            assert await asyncio.gather(*map(one, range(20))) == expected

            p = await c.exec(["sleep", "60"])
            assert isinstance(p.pid, int) and p.id in repr(p)
            await p.signal("TERM")
            assert (await p.wait()).signal == 15
            await p.close()
            await p.close()
            async with await c.exec(["sleep", "60"]) as p:
                pass
            assert p.exit.signal == 9
            with pytest.raises(CommandNotFound):
                await c.exec(["/no/such"])
            async with await c.exec(["sleep", "60"]) as p:
                await c.kill()
                assert (await p.wait(10)).signal == 9
            await c.wait()
            with pytest.raises(InvalidState, match="stopped"):
                await c.exec(["true"])

    within(main)


def test_exec_on_a_terminal(within, sh):
    async def main(engine):
        async with await engine.create(sh("sleep 60", init=True), stdin=DEVNULL) as c:
            await c.start()
            command = ["sh", "-c", "stty -echo; stty size; read x; stty size"]
            async with await c.exec(command, tty=True, console_size=(3, 4), stdin=PIPE, stdout=PIPE) as p:
                assert await p.stdout.readline() == b"3 4\r\n"
                await p.resize(5, 6)
                await p.stdin.write(b"on\n")
                assert await p.stdout.readline() == b"5 6\r\n"
                assert (await p.wait(10)).ok
            async with await c.exec(["true"]) as p:
                with pytest.raises(InvalidState, match="no terminal"):
                    await p.resize(5, 6)

    within(main)


def test_pause_update_pids_and_stats(within, sh):
    async def main(engine):
        async with await engine.create(sh("while :; do :; done", memory="64M", pids=20), stdin=DEVNULL) as c:
            await c.start()
            await c.pause()
            assert c.state == "paused"
            with pytest.raises(InvalidState, match="paused"):
                await c.exec(["true"])
            await c.resume()
            await c.update(memory="32M")
            assert c.spec.resources.memory == 32 << 20
            assert await c.pids() == [c.pid]
            stats = await c.stats()
            assert stats.pids.current == 1

    within(main)


def test_a_sample_at_its_end_is_the_last(within, sh):
    async def main(engine):
        for _ in range(8):
            async with await engine.create(sh("sleep 0.01"), stdin=DEVNULL, accounting=True) as c:
                await c.start()
                while c.exit is None:
                    last = await c.stats()
                assert (await c.stats()).cpu.usage >= last.cpu.usage > 0

    within(main)


def test_what_a_driver_cannot_do_it_refuses(within, sh):
    async def main(engine):
        async with await engine.create(sh("sleep 60"), driver="chroot", stdin=DEVNULL) as c:
            await c.start()
            with pytest.raises(UnsupportedFeature, match="pause"):
                await c.pause()

    within(main)


@pytest.mark.parametrize("driver", ["native", "lxc", "oci", "chroot"])
def test_every_driver(within, sh, driver, driver_probe):
    driver_probe(driver)

    async def main(engine):
        done = await engine.run(sh("cat; exit 6"), driver=driver, input=b"in", capture_output=True)
        assert (done.stdout, done.exit.code) == (b"in", 6)
        async with await engine.create(sh("echo there; sleep 60"), driver=driver, stdin=DEVNULL, stdout=PIPE) as c:
            await c.start()
            assert await c.stdout.readline() == b"there\n"
            await c.kill()
            assert (await c.wait()).signal == 9

    within(main)


def test_an_engine_has_one_object_for_a_container(within, sh):
    async def main(engine):
        c = await engine.create(sh("sleep 60"), name="c", stdin=DEVNULL)
        assert await engine.get("c") is c
        assert [summary.id for summary in await engine.list()] == ["c"]
        await engine.delete("c", force=True)
        assert c.state == "stopped"
        assert "exec" in str(await engine.explain(sh("true"), driver="native"))

    within(main)


def test_closing_an_engine_ends_all_but_what_is_detached(no_leaks, sh, root):
    async def main():
        async with aio.Engine(root) as engine:
            running = [await engine.create(sh("sleep 60"), stdin=DEVNULL) for _ in range(10)]
            await asyncio.gather(*(c.start() for c in running))
            apart = await engine.create(sh("sleep 60"), name="apart", stdin=DEVNULL)
            await apart.start()
            await apart.detach()
        with pytest.raises(InvalidState, match="no more"):
            await apart.wait()
        del apart  # lets go of it
        with pytest.raises(InvalidState, match="closed"):
            await engine.create(sh("true"))
        assert {c.state for c in running} == {"stopped"}
        async with aio.Engine(root) as engine:
            again = await engine.get("apart")
            assert again.state == "running"
            waiting = asyncio.ensure_future(again.wait())
            await asyncio.sleep(0.05)
            await again.kill()
            assert (await waiting).signal in (9, None)
            await again.delete()

    asyncio.run(main())
    assert [name for name in os.listdir(root) if not name.startswith(".")] == []


def test_a_container_of_another_program(within, sh, root, rootfs):
    program = f"""
import sys
from execdrivers import ContainerSpec, Engine
with Engine({str(root)!r}) as engine:
    c = engine.create(ContainerSpec(["sh", "-c", "read x; exit 7"], rootfs={str(rootfs)!r}), name="theirs", stdin=-1)
    c.start()
    print("up", flush=True)
    sys.stdin.readline()
    c.communicate(b"go")
    sys.stdin.readline()
"""

    async def main(engine):
        other = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout.readline() == "up\n"
        theirs = await engine.get("theirs")
        assert (theirs.state, await theirs.poll(), theirs.stdout) == ("running", None, None)
        waiting = asyncio.ensure_future(theirs.wait())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        other.stdin.write("\n")
        other.stdin.flush()
        assert (await asyncio.wait_for(waiting, 20)).code == 7
        assert (await theirs.poll()).code == 7
        other.communicate("\n")

    within(main)


def test_who_waits_for_what_an_engine_found_is_told_that_it_was_closed(no_leaks, sh, root):
    async def main():
        with Engine(root) as maker, maker.create(sh("sleep 60"), name="theirs", stdin=DEVNULL) as made:
            made.start()
            async with aio.Engine(root) as engine:
                found = await engine.get("theirs")
                waiting = asyncio.ensure_future(found.wait())
                await asyncio.sleep(0.05)
            with pytest.raises(InvalidState, match="no more"):
                await waiting
            assert made.state == "running"

    asyncio.run(main())
    gc.collect()  # the error's traceback has what was found


def test_threads_and_a_loop_may_use_one_store(within, sh, root):
    async def main(engine):
        async with await engine.create(sh("exit 3"), name="ours", stdin=DEVNULL) as c:
            with Engine(root) as other:
                seen = other.get("ours")
                waiting = asyncio.get_running_loop().run_in_executor(None, seen.wait)
                await c.start()
                assert (await c.wait()).code == 3
                assert (await waiting).code in (3, None)  # on a slow machine it gives up on the record

    within(main)


def test_stopping_takes_no_turn_of_the_executor_from_others(within, sh):
    """More are deleted at once than the executor has threads: none waits for another's."""

    async def main(engine):
        containers = [await engine.create(sh("sleep 60"), stdin=DEVNULL) for _ in range(40)]
        await asyncio.gather(*(c.start() for c in containers))
        began = time.monotonic()
        await asyncio.gather(*(c.delete(force=True) for c in containers))
        assert time.monotonic() - began < 10

    within(main)


def test_by_name_the_one_is_deleted_that_has_it_now(within, sh, root):
    async def main(engine):
        ours = await engine.create(sh("true"), name="x", stdin=DEVNULL)
        others = Engine(root)
        others.delete("x")
        theirs = others.create(ours.spec, name="x", stdin=DEVNULL)
        await engine.delete("x")
        assert await engine.list() == []
        theirs.delete()
        await ours.delete()

    within(main)
