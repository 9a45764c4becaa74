"""Terminals: the master side of a container's, and the one this program runs on."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

from execdrivers.errors import InvalidState
from execdrivers.streams import read_some

__all__ = ["RawTerminal", "Resizable", "Terminal", "window_size"]

#: struct winsize: rows, columns, and two of pixels that nobody sets.
_WINSIZE = struct.Struct("HHHH")


def window_size(fd: int) -> tuple[int, int] | None:
    """Rows and columns of a terminal; None when it is none, or does not know."""
    try:
        rows, columns, _, _ = _WINSIZE.unpack(fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(_WINSIZE.size)))
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


class Terminal:
    """The master side of a container's terminal. Looks enough like a binary file to be read and written."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_inheritable(fd, False)
        # Input goes in as the container takes it, or a full line buffer would block the caller.
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        """The descriptor (non-blocking); -1 once closed."""
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    def read(self, size: int = 65536) -> bytes:
        """What the container has written, at most ``size`` bytes; waits for some. ``b""`` when nobody holds it.

        Raises `InvalidState` once closed, as all that takes a terminal does.
        """
        while True:
            try:
                return read_some(self._open(), size)
            except BlockingIOError:
                self._wait(select.POLLIN)

    def readline(self) -> bytes:
        """The next line with its end; what there is of it when nobody holds the terminal any more."""
        line = b""
        while not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return line

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def write(self, data: bytes) -> int:
        """Type all of ``data``; waits until it is taken. Returns the number of bytes."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._open(), rest) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def resize(self, rows: int, columns: int) -> None:
        """Set the size in characters; the container's foreground processes get SIGWINCH."""
        fcntl.ioctl(self._open(), termios.TIOCSWINSZ, _WINSIZE.pack(rows, columns, 0, 0))

    @property
    def size(self) -> tuple[int, int] | None:
        """Rows and columns; None when not set."""
        return window_size(self._fd) if self._fd >= 0 else None

    def close(self) -> None:
        """Hang up: the container's foreground processes get SIGHUP. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self) -> int:
        if self._fd < 0:
            raise InvalidState("the terminal is closed", remedy="use it before delete() or close()")
        return self._fd

    def _wait(self, mask: int) -> None:
        poll = select.poll()
        poll.register(self._open(), mask)
        poll.poll()

    def __repr__(self) -> str:
        return "<Terminal closed>" if self.closed else f"<Terminal fd={self._fd} size={self.size}>"


class Resizable(Protocol):
    """A container's terminal, as far as its size goes."""

    @property
    def closed(self) -> bool:
        """Whether it has no size any more."""

    def resize(self, rows: int, columns: int) -> None:
        """Set it, in characters."""


class RawTerminal:
    """While entered, this program's own terminal passes every key on to the container's, and its size too.

    Does nothing when ``fd`` is no terminal. The size is followed only from the main thread, where signals arrive.
    """

    def __init__(self, fd: int, terminal: Resizable) -> None:
        self._fd = fd
        self._terminal = terminal
        self._attributes: list[Any] | None = None
        self._handler: Any = None

    def __enter__(self) -> RawTerminal:
        try:
            self._attributes = termios.tcgetattr(self._fd)
        except termios.error:
            return self
        import signal
        import tty

        tty.setraw(self._fd, termios.TCSADRAIN)
        try:
            self._handler = signal.signal(signal.SIGWINCH, lambda *_: self._follow())
        except ValueError:
            pass  # not the main thread
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._handler is not None:
            import signal

            signal.signal(signal.SIGWINCH, self._handler)
        if self._attributes is not None:
            try:
                # Now, not once all is printed: a terminal that was stopped would hold us here.
                termios.tcsetattr(self._fd, termios.TCSANOW, self._attributes)
            except termios.error:
                pass  # its window was closed

    def _follow(self) -> None:
        size = window_size(self._fd)
        if size and not self._terminal.closed:
            self._terminal.resize(*size)
