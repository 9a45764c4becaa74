"""The log of a container: how much of it is kept, its entries, and reading them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import attrs

from execdrivers.errors import SpecError
from execdrivers.units import parse_size

if TYPE_CHECKING:
    import os

__all__ = ["LogEntry", "LogOptions", "parse", "read_log"]

#: Bytes: what one file holds at the least, so that every record fits in.
_SMALLEST = 64 << 10
#: Files at the most (c/monitor.h).
_FILES = 1000

#: ``2026-11-26T01:02:03.123456789Z stdout F ``: a record's head, of a fixed length, and what it consists of.
_HEAD = 40
_SECOND = 19
_STREAMS: dict[bytes, Literal["stdout", "stderr"]] = {b"Z stdout ": "stdout", b"Z stderr ": "stderr"}


def _size(value: int | str) -> int:
    try:
        size = parse_size(value)
    except SpecError as error:
        raise error.within("log.max_size") from None
    if size < _SMALLEST:
        raise SpecError("log.max_size", value, "is too small for a file of the log", "give 64K or more")
    return size


def _files(instance: object, attribute: object, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _FILES:
        raise SpecError("log.max_files", value, "is not a possible number of files", f"give 1 to {_FILES}")


@attrs.frozen
class LogOptions:
    """How much of a detached container's output is kept: ``max_size`` bytes in a file, ``max_files`` of them; then the
    oldest goes. docker's ``max-size`` and ``max-file``.

    Of a single file two halves are kept, so that not all goes at once. Raises `SpecError`.
    """

    max_size: int = attrs.field(default=10 << 20, converter=_size)
    max_files: int = attrs.field(default=3, validator=_files)

    @property
    def file_size(self) -> int:
        """Bytes of one file, at the most."""
        return self.max_size if self.max_files > 1 else self.max_size // 2

    @property
    def file_count(self) -> int:
        """How many there are, at the most: two or more."""
        return max(2, self.max_files)


@attrs.frozen
class LogEntry:
    """One record of a log: a line that the container has written, or a part of one.

    The ``data`` of all entries of a stream, one after the other, are what was written to it.
    """

    #: When it was written, in nanoseconds since the epoch, by the clock of that moment.
    time_ns: int
    stream: Literal["stdout", "stderr"]
    #: With its newline, unless it is ``partial``.
    data: bytes
    #: The line goes on in this stream's next entry, unless it has none.
    partial: bool = False
    #: Bytes of the log that this reader has missed before this entry: rotated away before they were read.
    lost: int = 0

    @property
    def time(self) -> float:
        """When it was written, in seconds since the epoch."""
        return self.time_ns / 1e9


#: The date seen last, and its seconds since the epoch: most lines have that of the one before.
_last: tuple[bytes, int] = (b"", 0)


def _seconds(date: bytes) -> int:
    """Of ``2026-11-26T01:02:03``. Raises ValueError."""
    global _last
    text, seconds = _last
    if date != text:
        import calendar

        seconds = calendar.timegm(tuple(map(int, date.replace(b"T", b"-").replace(b":", b"-").split(b"-"))))
        _last = date, seconds
    return seconds


def parse(line: bytes) -> LogEntry | None:
    """The entry in one line of a log, its newline included; None where it is not one."""
    stream = _STREAMS.get(line[_SECOND + 10 : _HEAD - 2])
    tag = line[_HEAD - 2 : _HEAD]
    if stream is None or tag not in (b"F ", b"P ") or line[_SECOND : _SECOND + 1] != b".":
        return None
    partial = tag == b"P "
    try:
        time_ns = _seconds(line[:_SECOND]) * 1_000_000_000 + int(line[_SECOND + 1 : _SECOND + 10])
    except (ValueError, IndexError):
        return None
    return LogEntry(time_ns, stream, line[_HEAD:-1] if partial else line[_HEAD:], partial)


def read_log(
    directory: str | os.PathLike[str],
    *,
    follow: bool = False,
    since: float | None = None,
    until: float | None = None,
    tail: int | None = None,
    stdout: bool = True,
    stderr: bool = True,
    writer: tuple[int, int] | None = None,
) -> Iterator[LogEntry]:
    """The entries of the log in a container's directory, in the order in which they were written: the clock may have
    been set back between two of them.

    ``since`` and ``until`` (seconds since the epoch) leave out entries by their time; ``tail`` all but so many lines
    at the end. ``follow`` waits for more until the container has ended, its directory was removed, ``until`` is past,
    or the monitor, ``writer`` (pid and start time), is gone. Raises `StoreError`.
    """
    from execdrivers.monitor.reader import LogReader

    reader = LogReader(
        directory, follow=follow, since=since, until=until, tail=tail, stdout=stdout, stderr=stderr, writer=writer
    )
    return iter(reader)
