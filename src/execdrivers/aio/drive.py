"""Waiting for one process in an event loop, as a thread does it in `execdrivers.process`.

All of it is callbacks of the loop and calls in its executor's threads, no task: so nothing that a program cancels
breaks it off half way.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from execdrivers import pidfd
from execdrivers.aio.cancellation import submit
from execdrivers.aio.pump import LoopPump
from execdrivers.pump import Pump

if TYPE_CHECKING:
    from execdrivers.aio.streams import InputStream
    from execdrivers.process import Process
    from execdrivers.terminal import RawTerminal
    from execdrivers.watch import Watch

__all__ = ["Drive"]

T = TypeVar("T")


class Drive:
    """Pumps what a started process writes and reads, until its end; then has a thread conclude it.

    ``ended`` is done when nothing is left to wait for. ``failure`` is what a sink, a source or the conclusion raised.
    """

    def __init__(self, process: Process, exit_fd: int, stdin: InputStream | None, watch: Watch | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.failure: BaseException | None = None
        self._process = process
        self._stdin = stdin
        self._pump: LoopPump | None = None
        self._raw: RawTerminal | None = None
        self._exit_fd = -1
        #: What happens is told by a thread, since observers may do anything; by one at a time, which keeps the order.
        self._untold: deque[Callable[[], object]] = deque()
        self._telling = threading.Lock()
        #: Done when an end that has come was noticed.
        self.looked: asyncio.Future[None] = self._loop.create_future()
        # For all threads: until the end it is this one that waits.
        self._holds = process._pumping.acquire(blocking=False)
        if process._over:
            self.stop()
        elif self._holds:
            self._watch(exit_fd)
            self._make_raw()
            self._attach(watch)
        else:
            # A thread that deletes it, and will close what could be watched here.
            self._submit(self._conclude_after_others, self._concluded)

    def _watch(self, exit_fd: int) -> None:
        self._exit_fd = exit_fd
        if exit_fd < 0:
            self._loop.call_soon(self._exited)
        else:
            self._loop.add_reader(exit_fd, self._exited)

    def _watch_no_more(self) -> None:
        if self._exit_fd >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self._exit_fd)
        self._exit_fd = -1

    def over_now(self) -> bool:
        """Whether the process seems to have ended, as of now."""
        if self._exit_fd < 0:
            return True
        poll = select.poll()
        poll.register(self._exit_fd, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def waits(self) -> bool:
        """Whether ``ended`` will be done: not in a loop that was closed."""
        return not self.ended.done() and not self._loop.is_closed()

    def stop(self) -> None:
        """Wait no more: from now on a thread may. May be called twice."""
        self._watch_no_more()
        self._pump_no_more()
        if self._raw is not None:
            raw, self._raw = self._raw, None
            raw.__exit__(None, None, None)
        if self._holds:
            self._holds = False
            if self._loop.is_closed():
                self._process._pumping = threading.RLock()  # the thread that holds it is perhaps no more
            else:
                self._process._pumping.release()
        for future in (self.looked, self.ended):
            if not future.done() and not self._loop.is_closed():
                future.set_result(None)

    # --- while it runs

    def _make_raw(self) -> None:
        terminal = self._process.terminal
        if self._process._wiring.inherits_terminal and terminal is not None:
            from execdrivers.terminal import RawTerminal

            self._raw = RawTerminal(0, terminal)
            self._raw.__enter__()

    def _attach(self, watch: Watch | None) -> None:
        wiring = self._process._wiring
        if self._stdin is not None and wiring.writer is not None:
            self._stdin.attach(wiring.writer, self._refill)
        readers = [reader for reader in wiring.readers.values() if reader.sink is not None]
        pump = LoopPump(readers, wiring.writer, watch, self._tell)
        if pump.done:
            pump.close()
        else:
            self._pump = pump
            self._loop.add_reader(pump.fileno(), self._move)

    def _refill(self) -> None:
        if self._pump is not None:
            self._guarded(self._pump.refill)
            self._move()

    def _move(self) -> None:
        if self._pump is None:
            return
        self._guarded(self._pump.move)
        if self._stdin is not None:
            self._stdin.moved()
        if self._pump is not None and self._pump.done:
            self._pump_no_more()

    def _guarded(self, move: Callable[[], object]) -> None:
        try:
            move()
        except Exception as error:
            self._fail(error)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """A sink or source has raised: nothing that the container writes goes anywhere now."""
        self.failure = self.failure or error
        for reader in self._process._wiring.readers.values():
            if reader.sink is not None:
                reader.sink = len
        if self._process._wiring.writer is not None:
            self._process._wiring.writer.close()
        self._submit(self._process._kill)

    def _pump_no_more(self) -> None:
        if self._pump is not None:
            pump, self._pump = self._pump, None
            if not self._loop.is_closed():
                self._loop.remove_reader(pump.fileno())
            pump.close()

    def _tell(self, call: Callable[[], object]) -> None:
        self._untold.append(call)
        if len(self._untold) == 1:  # else a thread is about to
            self._submit(self._tell_all)

    def _tell_all(self) -> None:
        with self._telling:
            while self._untold:
                self._untold.popleft()()

    def _submit(self, call: Callable[[], T], then: Callable[[asyncio.Future[T]], object] | None = None) -> None:
        try:
            future = submit(call)
        except RuntimeError:
            return  # the executor is shut down, and soon its loop: what is dropped then cleans up by itself
        if then is not None:
            future.add_done_callback(then)

    # --- its end

    def _exited(self) -> None:
        """The process has ended: take what it wrote last, and have all else done by a thread."""
        self._watch_no_more()
        if self.ended.done():
            return
        if self._drain():
            self._conclude()
        else:
            self._submit(self._process._kill_rest, self._rest_killed)

    def _rest_killed(self, future: asyncio.Future[None]) -> None:
        self.failure = self.failure or future.exception()
        self._drain()
        self._conclude()

    def _drain(self) -> bool:
        drained = True
        if self._pump is not None:
            pump = self._pump
            try:
                drained = pump.drain()
            except Exception as error:
                self._fail(error)
        return drained

    def _conclude(self) -> None:
        self._pump_no_more()  # its descriptors may be closed now
        self._submit(self._conclude_in_thread, self._concluded)

    def _conclude_in_thread(self) -> int:
        """-1; or, where it has not ended yet, what to wait for next."""
        self._tell_all()
        if self._process._over:
            return -1
        awaited = self._process._awaited()
        if pidfd.wait(awaited, 0):
            self._process._conclude(Pump(-1, ()))
            return -1
        return awaited

    def _conclude_after_others(self) -> int:
        self._process._supervise(None)
        return -1

    def _concluded(self, future: asyncio.Future[int]) -> None:
        failure = future.exception()
        self.failure = self.failure or failure
        if failure is None and future.result() >= 0 and not self.ended.done():
            self.looked.set_result(None)
            self.looked = self._loop.create_future()
            self._watch(future.result())
        else:
            self.stop()
