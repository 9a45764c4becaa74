"""What grows while it is read (events, logs), as an async iterator."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from execdrivers.aio.cancellation import in_thread, whole
from execdrivers.aio.readiness import Readiness

__all__ = ["Following"]

T = TypeVar("T", covariant=True)


class Followed(Protocol[T]):
    """A reader that need not wait."""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""

    @property
    def until(self) -> float | None:
        """When `read` is to be called in any case, in seconds since the epoch."""

    def fileno(self) -> int:
        """Readable when `read` may have more."""

    def read(self) -> Sequence[T]:
        """What there is, some at a time."""

    def close(self) -> None:
        """Let go of it."""


class Following(Generic[T]):
    """Iterate over it, one task at a time; an async context manager. It begins with the first of either."""

    def __init__(self, open: Callable[[], Followed[T]]) -> None:
        self._open = open
        self._reader: Followed[T] | None = None
        self._items: deque[T] = deque()
        self._closed = False
        #: A thread reads.
        self._reading = asyncio.Lock()
        self._change = Readiness()

    async def close(self) -> None:
        """No more comes. May be called twice, and while another task waits for the next."""
        self._closed = True
        self._change.wake()
        async with self._reading:
            if self._reader is not None:
                await in_thread(self._reader.close)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if self._closed and self._reader is None:
            raise StopAsyncIteration
        reader = await self._begin()
        while not self._items and not self._closed:
            async with self._reading:
                # Straight to where a cancellation does not lose them.
                await in_thread(lambda: self._items.extend(reader.read()))
            if not self._items:
                if reader.ended:
                    await self.close()
                elif not self._closed:
                    left = None if reader.until is None else max(0.0, reader.until - time.time()) + 0.001
                    await self._change.wait(reader.fileno(), left)
        if not self._items:
            raise StopAsyncIteration
        return self._items.popleft()

    async def _begin(self) -> Followed[T]:
        if self._reader is None:
            async with self._reading:
                if self._reader is None:
                    self._reader = await whole(self._open, lambda reader: reader.close())
        return self._reader

    async def __aenter__(self) -> Following[T]:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not GeneratorExit:  # the loop is gone; what is dropped is closed
            await self.close()
