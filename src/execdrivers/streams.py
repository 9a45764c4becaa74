"""Our ends of a container's pipes: what to write to its stdin and from where, what to do with what it writes."""

from __future__ import annotations

import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from execdrivers import interrupts
from execdrivers.errors import SpecError

__all__ = ["CHUNK", "END_OF_INPUT", "LARGE", "Capture", "Reader", "Source", "Writer", "grow", "read_some"]

#: Bytes moved at once: at first, and where a stream proves to be long. The latter is the kernel's limit for pipes.
CHUNK, LARGE = 1 << 16, 1 << 20

#: Typed into a terminal, it ends the input (VEOF, control-D).
END_OF_INPUT = b"\x04"


def grow(fd: int) -> None:
    """Let a pipe through which much goes hold more, to change less often between the two programs."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, LARGE)
    except OSError:
        pass  # the user's share of such pages is used up, or it is a terminal


def read_some(fd: int, size: int) -> bytes:
    """As `os.read`, of a pipe or a terminal's master; ``b""`` at the end, or once closed.

    A terminal whose other side nobody holds any more fails with EIO, on Linux also with what was written just before
    that: the kernel looks whether there is anything before it looks whether anybody is there. The next call has it.
    """
    for last in (False, True):
        try:
            return os.read(fd, size)
        except OSError as error:
            if error.errno == errno.EBADF or (last and error.errno == errno.EIO):
                break
            if error.errno != errno.EIO:
                raise
    return b""


class Capture:
    """A sink that keeps the first ``limit`` bytes (None: all) and drops the rest, which ``truncated`` tells."""

    __slots__ = ("_kept", "_room", "truncated")

    def __init__(self, limit: int | None) -> None:
        # Grows in place, and its value is no copy: half the memory, and time, of a list to be joined.
        self._kept = io.BytesIO()
        self._room = limit
        self.truncated = False

    def __call__(self, data: bytes) -> None:
        if self._room is not None:
            if len(data) > self._room:
                data = data[: self._room]
                self.truncated = True
            self._room -= len(data)
        self._kept.write(data)

    def value(self) -> bytes:
        """What was kept."""
        return self._kept.getvalue()


class Source:
    """Bytes for a container's stdin: from an iterable, or (``fd``) copied from a descriptor of ours."""

    __slots__ = ("_end", "_items", "_last", "_rest", "ended", "fd")

    def __init__(self, items: bytes | Iterable[bytes] = (), *, fd: int = -1, end: bytes = b"") -> None:
        """``end`` is sent at the end: a terminal needs it to see one."""
        whole = isinstance(items, (bytes, bytearray, memoryview))
        self._items: Iterator[Any] = iter((items,) if whole else items)
        self._rest = memoryview(b"")
        self._end = end
        self._last = b""
        self.fd = fd
        #: Nothing is left, nor will be.
        self.ended = False

    @property
    def ready(self) -> bool:
        """Whether there is, or may at once be, something to write; else wait for ``fd`` and `fill`."""
        return self.fd < 0 or bool(self._rest) or self.ended

    def fill(self) -> None:
        """Read from ``fd``, which is readable."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a terminal that was hung up
        self._take(data or None)

    def peek(self) -> memoryview:
        """What to write next; empty when `ended`, or when it comes from ``fd``."""
        while not self._rest and not self.ended and self.fd < 0:
            self._take(next(self._items, None))
        return self._rest

    def advance(self, count: int) -> None:
        """So many bytes of `peek` are written."""
        self._rest = self._rest[count:]

    def _take(self, data: Any) -> None:
        if data is not None:
            if isinstance(data, str):
                raise SpecError("stdin", data, "is text", "give bytes: text.encode()")
            self._rest = memoryview(data).cast("B")
            self._last = bytes(self._rest[-1:]) or self._last
            return
        # In the middle of a line the first one only sends it off.
        end = self._end if self._last in (b"", b"\n", END_OF_INPUT) else self._end * 2
        self._end = b""
        if end:
            self._items, self.fd, self._rest = iter(()), -1, memoryview(end)
        else:
            self.ended = True


class Writer:
    """Our end of a container's stdin. Without a source the caller writes to `file`."""

    __slots__ = ("_file", "_grown", "fd", "source")

    def __init__(self, fd: int, source: Source | None) -> None:
        self.fd = fd
        self.source = source
        self._grown = False
        self._file: IO[bytes] | None = None
        if source is not None:
            os.set_blocking(fd, False)

    @property
    def file(self) -> IO[bytes] | None:
        """A file object to write to, which then owns the descriptor; None when it was closed before."""
        if self._file is None and self.fd >= 0:
            self._file = os.fdopen(self.fd, "wb")
        return self._file

    def feed(self, source: Source) -> None:
        """From now on `push` writes, from ``source``."""
        if self._file is not None:
            if self._file.closed:
                self.fd = -1
                return
            self._file.flush()
        if self.fd >= 0:
            os.set_blocking(self.fd, False)
            self.source = source

    def push(self) -> None:
        """Write what there is room for; at the end, or when nobody reads any more, close."""
        assert self.source is not None
        try:
            if data := self.source.peek():
                data = data[:LARGE]
                count = os.write(self.fd, data)
                self.source.advance(count)
                if count < len(data) and not self._grown:
                    self._grown = True
                    grow(self.fd)
                self.source.peek()
        except BlockingIOError:
            return
        except OSError:
            # EPIPE: as with subprocess, a command need not read its input. EIO: the same of a terminal.
            self.close()
            return
        if self.source.ended:
            self.close()

    @interrupts.deferring
    def close(self) -> None:
        """Close it: the container sees the end of its input. May be called twice."""
        fd, self.fd = self.fd, -1
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                pass  # what was buffered, nobody reads
        elif fd >= 0:
            os.close(fd)


class Reader:
    """Our end of an output. Without a sink the caller reads from `file`."""

    __slots__ = ("_file", "_terminal", "chunk", "fd", "name", "sink")

    def __init__(self, name: str, fd: int, sink: Callable[[bytes], object] | None, *, terminal: bool = False) -> None:
        self.name = name
        self.fd = fd
        self.sink = sink
        self.chunk = CHUNK
        self._terminal = terminal
        self._file: IO[bytes] | None = None

    @property
    def file(self) -> IO[bytes] | None:
        """A file object to read from, which then owns the descriptor; None when it was closed before."""
        if self._file is None and self.fd >= 0:
            self._file = os.fdopen(self.fd, "rb")
        return self._file

    def divert(self, sink: Callable[[bytes], object]) -> None:
        """From now on what comes goes to ``sink``."""
        if self._file is not None and self._file.closed:
            self.fd = -1
        self.sink = sink

    def end(self, gone: bool = False) -> None:
        """It is at its end; ``gone``: the descriptor was closed by others."""
        if gone or self._terminal:
            self.fd = -1
        else:
            self.close()

    @interrupts.deferring
    def close(self) -> None:
        """Close it: a container that still writes gets SIGPIPE. May be called twice."""
        fd, self.fd = self.fd, -1
        if self._file is not None:
            self._file.close()
        elif fd >= 0 and not self._terminal:
            os.close(fd)
