"""Blocking calls in threads, and cancellations that wait: what must be done whole is not broken off half way.

Counterpart of `execdrivers.interrupts`. A task can be cancelled wherever it awaits, and again while it cleans up; a
thread that makes or frees a container cannot be. So the task waits for the thread first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

__all__ = ["deferred", "in_thread", "whole"]

T = TypeVar("T")


class deferred:  # a context manager, which reads as the verb it is
    """Context manager: a function to await futures with, to their end; on leaving, a cancellation is raised that came
    meanwhile.

    with deferred() as patiently:
        await patiently(future)
    """

    __slots__ = ("cancelled",)

    def __init__(self) -> None:
        self.cancelled: asyncio.CancelledError | None = None

    def __enter__(self) -> deferred:
        return self

    async def __call__(self, future: asyncio.Future[T], timeout: float | None = None) -> T | None:
        """The future's result; None when it is not there after ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while not future.done() and (deadline is None or loop.time() < deadline):
            try:
                # Unlike an await of the future this does not pass the cancellation on to it.
                await asyncio.wait([future], timeout=None if deadline is None else deadline - loop.time())
            except asyncio.CancelledError as error:
                self.cancelled = error
        return future.result() if future.done() else None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        cancelled, self.cancelled = self.cancelled, None
        try:
            # What was raised meanwhile is its context.
            if cancelled is not None and kind is not GeneratorExit:
                raise cancelled
        finally:
            # Its traceback refers to this frame, and to who has the context manager: all they hold, an open log
            # perhaps, would be there until the next garbage collection.
            del cancelled


def submit(call: Callable[[], T]) -> asyncio.Future[T]:
    """Have a thread of the loop's default executor make a call."""
    return asyncio.get_running_loop().run_in_executor(None, call)


async def in_thread(call: Callable[[], T]) -> T:
    """The result of a blocking call, made by a thread; a cancellation waits until that is done."""
    with deferred() as patiently:
        future = submit(call)
        await patiently(future)
    return future.result()


async def whole(make: Callable[[], T], undo: Callable[[T], object]) -> T:
    """As `in_thread`; when cancelled, what was made is undone, in a thread too."""
    with deferred() as patiently:
        future = submit(make)
        await patiently(future)
        if patiently.cancelled is not None:
            await patiently(submit(lambda: undo(future.result())))
    return future.result()
