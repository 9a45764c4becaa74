"""Reading a log while it is written and rotated.

``log`` is the file that grows; the full ones before it are called by how many bytes of the log came before them, the
first ``log.0``. So a reader knows at any time where in the whole of the log it is, and, when the files that it was to
read next are gone, how much it has missed.
"""

from __future__ import annotations

import errno
import io
import os
import select
import time
from collections.abc import Iterator, Mapping
from types import TracebackType

import attrs

from execdrivers import pidfd
from execdrivers.errors import StoreError
from execdrivers.inotify import CREATE, DELETE, LONGEST_WAIT, MODIFY, MOVED_TO, Inotify
from execdrivers.monitor.log import LogEntry, parse

__all__ = ["LogReader"]

#: Bytes read at once: longer than any record.
_BLOCK = 64 << 10
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class LogReader:
    """The entries of a log, those that are there and, to ``follow``, those to come: see `read_log`. A context manager.

    `read` never waits: call it until it gives nothing; then ``fileno()`` is readable (poll(2)) when there may be more.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        follow: bool = False,
        since: float | None = None,
        until: float | None = None,
        tail: int | None = None,
        stdout: bool = True,
        stderr: bool = True,
        writer: tuple[int, int] | None = None,
    ) -> None:
        """Raises `StoreError`: there is no such directory, or the user's limits on inotify are reached."""
        #: Nothing more comes. When ``until`` passes by, `read` is to be called to see that.
        self.ended = False
        self.until = until
        self._since = since
        self._streams = {name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted}
        self._follow = follow
        self._removed = False
        #: Nothing was opened yet: what was rotated away before is not missed.
        self._fresh = True
        self._lost = 0
        self._fd = self._directory = self._epoll = self._writer = -1
        self._base = self._at = 0
        self._inotify: Inotify | None = None
        try:
            self._directory = os.open(directory, _FLAGS | os.O_DIRECTORY)
            if follow:
                self._watch(writer)
            if tail is None:
                self._open_from(0)
            else:
                self._open_tail(tail)
            self._fresh = False
        except OSError as error:
            self.close()
            remedy = ""
            if error.errno in (errno.EMFILE, errno.ENOSPC):
                remedy = "raise fs.inotify.max_user_instances, max_user_watches or ulimit -n"
            message = f"log in {os.fspath(directory)}: {error.strerror}"
            raise StoreError(message, errno=error.errno or 0, path=os.fspath(directory), remedy=remedy) from error
        except BaseException:
            self.close()
            raise

    def read(self) -> list[LogEntry]:
        """Entries that are there, some hundred at once; none: `ended`, or wait for ``fileno()``."""
        while True:
            over = self._is_over()
            block = self._next_block()
            if not block:
                self.ended = over
                return []
            if entries := [entry for entry in self._parse(block) if self._wanted(entry)]:
                if lost := self._lost:
                    self._lost = 0
                    entries[0] = attrs.evolve(entries[0], lost=lost)
                return entries

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `read` may have more, ``timeout`` seconds at the most; whether it may."""
        if self.until is not None:
            left = max(0.0, self.until - time.time()) + 0.001
            timeout = left if timeout is None else min(left, timeout)
        poll = select.poll()
        poll.register(self._epoll, select.POLLIN)
        return bool(poll.poll(None if timeout is None else 1000 * min(timeout, LONGEST_WAIT)))

    def fileno(self) -> int:
        """Readable when there may be more; -1 where nothing is followed, and once closed."""
        return self._epoll

    def close(self) -> None:
        """May be called twice."""
        self.ended = True
        for fd in (self._fd, self._directory, self._epoll, self._writer):
            if fd >= 0:
                os.close(fd)
        self._fd = self._directory = self._epoll = self._writer = -1
        if self._inotify is not None:
            self._inotify.close()

    def __iter__(self) -> Iterator[LogEntry]:
        """The entries, waiting for those to come; then it is closed."""
        with self:
            while not self.ended:
                if entries := self.read():
                    yield from entries
                elif not self.ended:
                    self.wait()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_directory", -1) >= 0:
            self.close()

    # --- waiting ------------------------------------------------------------------------------------------------

    def _watch(self, writer: tuple[int, int] | None) -> None:
        self._inotify = Inotify()
        self._inotify.watch(self._directory, CREATE | DELETE | MODIFY | MOVED_TO)
        poll = select.epoll()
        poll.register(self._inotify.fileno(), select.EPOLLIN)
        if writer is not None:
            fd = pidfd.open_checked(*writer)
            if fd is None:
                self._follow = False  # no more will be written
            else:
                self._writer = fd
                poll.register(fd, select.EPOLLIN)
        self._epoll = os.dup(poll.fileno())
        os.set_inheritable(self._epoll, False)
        poll.close()

    def _is_over(self) -> bool:
        """Whether nothing is written any more. To be asked before what is there is read."""
        if not self._follow:
            return True
        assert self._inotify is not None
        for change in self._inotify.read():
            self._removed |= bool(change.mask & DELETE) and change.name == "log"
        if self._removed or (self.until is not None and time.time() > self.until):
            return True
        if self._writer >= 0 and pidfd.wait(self._writer, 0):
            return True
        return os.access("exit", os.F_OK, dir_fd=self._directory) or os.fstat(self._directory).st_nlink == 0

    # --- files --------------------------------------------------------------------------------------------------

    def _older(self) -> dict[int, int]:
        """The full files: how much of the log is before each, and its size."""
        # While a directory changes, a list of it may lack the one new file and have a later one (readdir(3)).
        before: dict[int, int] | None = None
        while (found := self._list()).keys() != (before or {}).keys() or before is None:
            before = found
        return found

    def _list(self) -> dict[int, int]:
        found = {}
        for name in os.listdir(self._directory):
            base = name[4:]
            if name.startswith("log.") and base.isascii() and base.isdigit():
                try:
                    found[int(base)] = os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_size
                except FileNotFoundError:
                    pass  # rotated away just now
        return found

    def _open_from(self, position: int) -> bool:
        """Open the file that goes on at this position in the log, or the first after it; whether there is one."""
        while not self._take(f"log.{position}", position):
            older = self._older()
            later = [base for base in older if base >= position]
            if position in later:
                continue  # it has just been given its name
            if not later:
                if (opened := self._open_newest(older, position)) is not None:
                    return opened
            elif self._take(f"log.{min(later)}", min(later)):
                self._lost += 0 if self._fresh else self._base - position
                break
        return True

    def _open_newest(self, older: Mapping[int, int], position: int = 0) -> bool | None:
        """Open the file that grows, after these; whether there is one. None: there are others by now."""
        if not self._take("log", max((base + size for base, size in older.items()), default=position)):
            return False  # there is none yet, or not again
        return True if self._older().keys() == older.keys() else None

    def _take(self, name: str, base: int) -> bool:
        try:
            fd = os.open(name, _FLAGS, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._base, self._at = fd, base, 0
        return True

    def _next_block(self) -> bytes:
        """Whole lines that come next; none: there are none now."""
        while True:
            if self._fd < 0 and not self._open_from(0):
                return b""
            rotated = not self._grows()  # asked before reading: a file that was rotated grows no more
            if block := self._block():
                return block
            if not rotated or not self._open_from(self._base + os.fstat(self._fd).st_size):
                return b""

    def _grows(self) -> bool:
        try:
            named = os.stat("log", dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def _block(self) -> bytes:
        data = os.pread(self._fd, _BLOCK, self._at)
        if not data and os.fstat(self._fd).st_size < self._at:
            self._at = 0  # somebody has emptied it
            return self._block()
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) == _BLOCK:
            whole = _BLOCK  # no log of ours
        self._at += whole
        return data[:whole]

    # --- entries ------------------------------------------------------------------------------------------------

    def _parse(self, block: bytes) -> Iterator[LogEntry]:
        for line in io.BytesIO(block):
            entry = parse(line)
            if entry is None:
                self._lost += len(line)  # torn, or written by others
            else:
                yield entry

    def _wanted(self, entry: LogEntry | None) -> bool:
        return (
            entry is not None
            and entry.stream in self._streams
            and (self._since is None or entry.time >= self._since)
            and (self.until is None or entry.time <= self.until)
        )

    def _open_tail(self, count: int) -> None:
        """Open the log where its last ``count`` lines begin, of those wanted."""
        seen, there = 0, None
        while there is None:
            there = self._open_newest(self._older())
        while there:
            for end, line in _backwards(self._fd):
                entry = parse(line)
                if entry is None or not self._wanted(entry) or (entry.partial and seen):
                    continue
                if seen == count:
                    self._at = end
                    return
                seen += 1
            before = [base for base, size in self._older().items() if base + size == self._base]
            there = bool(before) and self._take(f"log.{before[0]}", before[0])


def _backwards(fd: int) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file, from the last to the first, and where each ends."""
    at, rest = os.fstat(fd).st_size, b""
    while at:
        size = min(_BLOCK, at)
        at -= size
        data = os.pread(fd, size, at) + rest
        end = data.rfind(b"\n") + 1
        while end and ((start := data.rfind(b"\n", 0, end - 1) + 1) or not at):
            yield at + end, data[start:end]
            end = start
        rest = data[:end]
