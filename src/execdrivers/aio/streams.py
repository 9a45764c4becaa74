"""A process's pipes and terminal, as an asyncio program reads and writes them."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from execdrivers.errors import InvalidState, SpecError
from execdrivers.streams import CHUNK, END_OF_INPUT, LARGE, Source, grow, read_some

if TYPE_CHECKING:
    from execdrivers.streams import Reader, Writer

__all__ = ["LINE_LIMIT", "InputStream", "OutputStream", "first_readable"]

#: Bytes of a line that are held in memory: a longer one comes in pieces.
LINE_LIMIT = CHUNK
#: Lines from memory after which other tasks get a turn.
_LINES_PER_TURN = 256


class OutputStream:
    """What a process writes to stdout, stderr or its terminal. Read it as `asyncio.StreamReader`, one task at a time.

    Of what nobody asked for at most 64 KiB are held: a command that writes more than its pipe takes waits until
    somebody reads. As an async iterator it gives lines.
    """

    def __init__(self, name: str, reader: Reader) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._buffer = bytearray()
        self._lines = 0
        self._ended = False
        self._started = False
        self._over = False
        self._watched = -1
        self._waiter: asyncio.Future[None] | None = None
        os.set_blocking(reader.fd, False)

    def at_eof(self) -> bool:
        """Whether all was read, to the end."""
        return self._ended and not self._buffer

    async def read(self, n: int = -1) -> bytes:
        """What there is, at most ``n`` bytes; waits for some. ``b""`` at the end. -1: all until the end."""
        if n < 0:
            while await self._fill(LARGE):
                pass
        elif n and not self._buffer:
            await self._fill(min(n, LARGE))
        return self._take(n if n >= 0 else len(self._buffer))

    async def readexactly(self, n: int) -> bytes:
        """``n`` bytes. Raises `asyncio.IncompleteReadError` when it ends before."""
        if n < 0:
            raise ValueError(f"{n} bytes cannot be read exactly")
        while len(self._buffer) < n:
            if not await self._fill(min(n - len(self._buffer), LARGE)):
                raise asyncio.IncompleteReadError(self._take(n), n)
        return self._take(n)

    async def readline(self, limit: int = LINE_LIMIT) -> bytes:
        """A line with its end, or so many bytes of a longer one; what there is of it at the end, ``b""`` after that."""
        searched = 0
        while (found := self._buffer.find(b"\n", searched, limit)) < 0 and len(self._buffer) < limit:
            searched = len(self._buffer)
            if not await self._fill(CHUNK):
                break
        self._lines += 1
        if self._lines % _LINES_PER_TURN == 0:
            await asyncio.sleep(0)
        return self._take(found + 1 if found >= 0 else limit)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    def read_now(self) -> bytes | None:
        """What has come, without waiting: None when there is nothing yet, ``b""`` at the end."""
        return self._take(len(self._buffer)) if self._buffer or self._fill_now(LARGE) else b"" if self._ended else None

    def close(self) -> None:
        """Close it: a command that still writes gets SIGPIPE. May be called twice."""
        self.end()
        self._reader.close()

    # --- for who waits for the process

    def begin(self) -> None:
        """The process is started: before that its pipe may be closed by another thread."""
        self._started = True
        self._wake()

    def conclude(self) -> None:
        """It has ended, and with it all that could write here: an empty pipe is at its end."""
        self._over = True
        self._wake()

    def end(self) -> None:
        """What was not read yet is dropped."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._watch_no_more()
        if self._waiter is not None:
            _resolve(self._waiter)

    # --- the machinery

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _fill(self, most: int) -> bool:
        """Read some, waiting for it; False at the end."""
        if self._fill_now(most):
            await asyncio.sleep(0)  # who never waits must not keep others from their turn
            return True
        while not self._ended:
            await first_readable([self])
            if self._fill_now(most):
                return True
        return False

    def _fill_now(self, most: int) -> bool:
        """Read what has come; whether there was something."""
        if self._ended:
            return False
        try:
            data = read_some(self._reader.fd, most)
        except BlockingIOError:
            self._ended = self._over
            return False
        self._buffer += data
        self._ended = not data
        if len(data) == CHUNK == self._reader.chunk:
            self._reader.chunk = LARGE
            grow(self._reader.fd)
        return bool(data)

    def _listen(self) -> asyncio.Future[None]:
        """Done when it is worth another look: there is something to read, or the end."""
        if self._waiter is not None:
            raise InvalidState(f"another task reads {self.name} already", remedy="let one task read")
        self._waiter = self._loop.create_future()
        if self._ended or self._over:
            self._waiter.set_result(None)
        elif self._started:
            self._watched = self._reader.fd
            self._loop.add_reader(self._watched, _resolve, self._waiter)
        return self._waiter

    def _listen_no_more(self) -> None:
        self._waiter = None
        self._watch_no_more()

    def _watch_no_more(self) -> None:
        # Before the descriptor is closed, whose number may soon be another's.
        if self._watched >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._watched)
            self._watched = -1


async def first_readable(streams: Sequence[OutputStream], timeout: float | None = None) -> None:
    """Wait until one of them has something to read, or is at its end, ``timeout`` seconds at the most."""
    listening: list[OutputStream] = []
    try:
        waiters = []
        for stream in streams:
            waiters.append(stream._listen())
            listening.append(stream)
        await asyncio.wait(waiters, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for stream in listening:
            stream._listen_no_more()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done() and not waiter.get_loop().is_closed():
        waiter.set_result(None)


class Feed(Source):
    """A source that a program fills as it goes."""

    __slots__ = ("_closing", "_pieces", "pending")

    def __init__(self, end: bytes = b"") -> None:
        super().__init__(end=end)
        self._pieces: deque[bytes] = deque()
        self._closing = False
        #: Bytes that are not written yet.
        self.pending = 0

    @property
    def ready(self) -> bool:
        """Whether there is something to write, or the end to tell."""
        return bool(self._rest) or bool(self._pieces) or self._closing

    def put(self, data: bytes | None) -> None:
        """Write this as well; None: and then no more."""
        if data is None:
            self._closing = True
        elif data:
            self._pieces.append(data)
            self.pending += len(data)

    def peek(self) -> memoryview:
        """What to write next; empty where there is nothing yet, or no more."""
        while not self._rest and not self.ended and (self._pieces or self._closing):
            self._take(self._pieces.popleft() if self._pieces else None)
        return self._rest

    def advance(self, count: int) -> None:
        """So many bytes of `peek` are written."""
        super().advance(count)
        self.pending = max(0, self.pending - count)  # the end of a terminal's input was not counted


class InputStream:
    """A process's stdin; written to as to `asyncio.StreamWriter`."""

    def __init__(self, *, terminal: bool) -> None:
        self.feed = Feed(END_OF_INPUT if terminal else b"")
        #: Where it goes, and who moves it; None before the start.
        self._writer: Writer | None = None
        self._refill: Callable[[], object] = lambda: None
        self._closed = False
        self._over = False
        self._moved: asyncio.Future[None] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> Drained:
        """Write ``data``: at once what there is room for. Awaited, it is `drain`, so that both of these will do:

            stdin.write(data); await stdin.drain()
            await stdin.write(data)

        Raises `BrokenPipeError` when nobody reads any more; `InvalidState` when it was closed.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise SpecError("data", data, "is not bytes", "give bytes: text.encode()")
        if self._closed:
            raise InvalidState("stdin is closed", remedy="write before close()")
        self._require_reader()
        self.feed.put(bytes(data))
        self._refill()
        return Drained(self)

    async def drain(self) -> None:
        """Wait until all is in the container's pipe or terminal. Raises `BrokenPipeError` when nobody reads it."""
        while self.feed.pending and not self._broken:
            await self._progress()
        self._require_reader()

    def close(self) -> None:
        """The end of the input, after all that was written. May be called twice."""
        if not self._closed:
            self._closed = True
            self.feed.put(None)
            self._refill()

    async def aclose(self) -> None:
        """`close`, and wait until the container has been told. No error when nobody reads any more."""
        self.close()
        while not self.feed.ended and not self._broken:
            await self._progress()

    # --- for who moves it

    def attach(self, writer: Writer, refill: Callable[[], object]) -> None:
        """From now on ``refill`` is called when there is something for ``writer`` to write."""
        self._writer, self._refill = writer, refill
        writer.feed(self.feed)

    def moved(self) -> None:
        """Something was written, or cannot be any more."""
        if self._moved is not None:
            _resolve(self._moved)
            self._moved = None

    def conclude(self) -> None:
        """The process has ended, or never begins."""
        self._over = True
        if self._writer is not None:
            self._writer.close()
        self._refill = lambda: None
        self.moved()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def _broken(self) -> bool:
        over = self._over or (self._writer is not None and self._writer.fd < 0)
        return over and not self.feed.ended

    def _require_reader(self) -> None:
        if self._broken:
            raise BrokenPipeError(errno.EPIPE, "nobody reads this container's stdin any more")

    async def _progress(self) -> None:
        if self._moved is None:
            self._moved = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._moved])  # others may wait for it too


class Drained:
    """What `InputStream.write` returns."""

    __slots__ = ("_stream",)

    def __init__(self, stream: InputStream) -> None:
        self._stream = stream

    def __await__(self) -> Generator[Any, None, None]:
        return self._stream.drain().__await__()
