"""Attached to a detached container, in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from execdrivers.aio.cancellation import in_thread
from execdrivers.aio.readiness import Readiness

if TYPE_CHECKING:
    from execdrivers.exit import Exit
    from execdrivers.monitor import Attachment as SyncAttachment

__all__ = ["Attachment"]


class Attachment:
    """A connection to the stdio of a detached container: `Container.attach` makes one.

    As `execdrivers.monitor.Attachment`: iterate over its output, ``("stdout", b"…")``, until its end or `detach`. An
    async context manager; one task may write while another reads.
    """

    def __init__(self, attachment: SyncAttachment) -> None:
        self._attachment = attachment
        self._readable = Readiness()
        self._writable = Readiness(write=True)

    @property
    def tty(self) -> bool:
        """Whether the container has a terminal: then all its output is stdout's."""
        return self._attachment.tty

    @property
    def skipped(self) -> int:
        """Bytes of output that went by unseen, because they were read too slowly."""
        return self._attachment.skipped

    @property
    def exit(self) -> Exit | None:
        """How the container ended; None before that is read."""
        return self._attachment.exit

    def __aiter__(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        return self

    async def __anext__(self) -> tuple[Literal["stdout", "stderr"], bytes]:
        await asyncio.sleep(0)  # who never waits must not keep others from their turn
        while not self._attachment.ended:
            if (output := self._attachment.receive()) is not None:
                return output
            if not self._attachment.ended:
                await self._readable.wait(self._attachment.fileno())
        raise StopAsyncIteration

    async def write(self, data: bytes) -> None:
        """Give input; waits until all is taken. Raises BrokenPipeError after the end."""
        rest = memoryview(data)
        while rest:
            if self._attachment.fileno() < 0:
                raise BrokenPipeError("it was let go of")
            if count := self._attachment.send(rest):
                rest = rest[count:]
                await asyncio.sleep(0)  # others have their turn
            else:
                await self._writable.wait(self._attachment.fileno())

    async def close_stdin(self) -> None:
        """End the container's input, for all who are attached; into a terminal control-D is typed."""
        await in_thread(self._attachment.close_stdin)

    async def resize(self, rows: int, columns: int) -> bool:
        """Set the size of its terminal, in characters; nothing where it has none. Does not wait: False, nothing was
        done, for input that this one has written is not taken yet."""
        return self._attachment.resize(rows, columns)

    def detach(self) -> None:
        """Let go; the container goes on. May be called twice."""
        self._readable.wake()
        self._writable.wake()
        self._attachment.detach()

    async def __aenter__(self) -> Attachment:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not GeneratorExit:  # the loop is gone; what is dropped is closed
            self.detach()

    def __repr__(self) -> str:
        return f"<aio {repr(self._attachment)[1:]}"
