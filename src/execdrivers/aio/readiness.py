"""Waiting until one descriptor is ready."""

from __future__ import annotations

import asyncio

__all__ = ["Readiness"]


class Readiness:
    """One task waits for a descriptor to be readable, or (``write``) writable. Who closes that calls `wake` before."""

    def __init__(self, *, write: bool = False) -> None:
        self._write = write
        self._waiter: asyncio.Future[None] | None = None
        self._fd = -1

    async def wait(self, fd: int, timeout: float | None = None) -> None:
        """Wait, ``timeout`` seconds at the most. Raises RuntimeError when another task does."""
        if self._waiter is not None:
            raise RuntimeError("another task waits for it already")
        loop = asyncio.get_running_loop()
        self._fd = fd
        self._waiter = loop.create_future()
        (loop.add_writer if self._write else loop.add_reader)(fd, self.wake)
        try:
            await asyncio.wait([self._waiter], timeout=timeout)
        finally:
            self._watch_no_more(loop)
            self._waiter = None

    def wake(self) -> None:
        """End the wait, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._watch_no_more(asyncio.get_running_loop())
            self._waiter.set_result(None)

    def _watch_no_more(self, loop: asyncio.AbstractEventLoop) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0 and not loop.is_closed():
            (loop.remove_writer if self._write else loop.remove_reader)(fd)
