"""Standard output and error, whatever state others have left them in."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

__all__ = ["give_up_stdout", "open_standard_streams"]


def open_standard_streams() -> None:
    """Put /dev/null where one is closed, or the next file opened would be taken for it; make the others `_Patient`."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    sys.stdout, sys.stderr = _patient(sys.stdout, 1), _patient(sys.stderr, 2)
    if isinstance(sys.stdout, io.TextIOWrapper):  # A terminal that knows only ASCII gets escapes, not a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """What is still to be written there goes nowhere, lest the interpreter fail at its exit for that."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class _Patient(io.FileIO):
    """Waits for its reader also when another program that writes there has set O_NONBLOCK, at whatever time.

    The flag belongs to the pipe or terminal as all have it open. To clear it would disturb the other.
    """

    def write(self, data: Any) -> int:
        while (count := super().write(data)) is None:
            poll = select.poll()
            poll.register(self.fileno(), select.POLLOUT)
            poll.poll()
        return count


def _patient(stream: TextIO, fd: int) -> TextIO:
    """The same on a `_Patient`, if it is the interpreter's own, and not what a caller of `main` has put there."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)  # with python -u there is none between
    if type(raw) is not io.FileIO or raw.fileno() != fd:
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Patient(fd, "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )
