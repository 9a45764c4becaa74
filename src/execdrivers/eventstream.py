"""Reading the journal of events, from the past or as it grows."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from types import TracebackType

from execdrivers import inotify
from execdrivers.errors import SpecError, StoreError
from execdrivers.events import TYPES, Event
from execdrivers.journal import Journal, Mark, count_lines, lines_before

__all__ = ["EventStream"]

#: Bytes read at a time, of some hundred events, and of the longest line at the most.
_CHUNK, _LONGEST = 16 << 10, 4 << 20

#: What wakes who waits; nobody deletes files there.
_CHANGES = inotify.MODIFY | inotify.CREATE | inotify.MOVED_TO | inotify.DELETE


class EventStream:
    """Events of all containers below a root, whichever program causes them: `Engine.events` makes one.

    Iterate over it; a context manager. The order is that of the journal, also where the clock was set meanwhile. Where
    a stream was read so slowly that the journal was rotated twice, an event of type ``lost`` tells how many it missed.
    Lines that are damaged, or of a later version, are passed over, logged (logger ``execdrivers``) and counted in
    ``skipped``. For one thread at a time, but for `close`.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        since: float | None = None,
        until: float | None = None,
        types: Collection[str] | str | None = None,
        containers: Collection[str] | str | None = None,
        follow: bool = True,
    ) -> None:
        self.skipped = 0
        #: Seconds since the epoch, when it ends; None: never.
        self.until = until
        self._since = since
        self._types = _chosen(types)
        for name in self._types or ():
            if name not in TYPES:
                raise SpecError("types", name, "is not a type of event", f"known are {', '.join(TYPES)}")
        self._containers = _chosen(containers)
        self._follow = follow
        self._ended = False
        self._journal = journal
        self._inotify: inotify.Inotify | None = None
        self._mark: Mark | None = None
        self._lines: _Lines | None = None
        self._wake = -1
        #: Held by who reads or waits; `close` does not wait for it.
        self._reading = threading.RLock()
        self._closing = threading.Lock()
        self._events: deque[Event] = deque()
        try:
            if follow:
                self._inotify = inotify.Inotify()
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._listen()
            self._lines = _Lines(journal, at_end=follow and since is None)
        except OSError as error:
            self.close()
            message = f"cannot follow the events in {journal.directory}: {error.strerror or error}"
            remedy = "run as who owns the containers there" if error.errno == errno.EACCES else ""
            raise StoreError(message, errno=error.errno or 0, path=journal.directory, remedy=remedy) from error

    @property
    def ended(self) -> bool:
        """Whether nothing more comes: it was closed, ``until`` has passed, or all of the past was read."""
        return self._ended and not self._events

    def fileno(self) -> int:
        """Readable (poll(2)) when there may be more to `read`. -1 when it does not follow, or was closed."""
        return self._inotify.fileno() if self._inotify is not None else -1

    def read(self) -> list[Event]:
        """The next events, some at a time, without waiting. Call it until it gives none, and then wait for `fileno`.

        With ``until``, call it when that time has come, too.
        """
        with self._reading:
            events = list(self._events)
            self._events.clear()
            return events or self._read()

    def _read(self) -> list[Event]:
        events: list[Event] = []
        if self._ended:
            return events
        passed = self.until is not None and time.time() >= self.until
        if self._inotify is not None and self._inotify.read():
            self._listen()  # somebody may have removed the journal, and the directory with it
        for lines, lost in self._lines or ():
            if lost:
                events.append(Event(type="lost", id="", driver="", time=time.time(), lost=lost))
            events.extend(event for line in lines if (event := self._parse(line)) is not None)
            if events:
                return events
        if passed or not self._follow:
            self.close()
        return events

    def _listen(self) -> None:
        """Begin to, unless it does so already."""
        assert self._inotify is not None
        while self._mark is None or not self._mark.stands:
            if self._mark is not None:
                self._mark.close()
            self._journal.prepare()
            self._mark = self._journal.listen()
            with contextlib.suppress(FileNotFoundError):  # removed once more, and the mark with it
                self._inotify.watch(self._journal.directory, _CHANGES)

    def _parse(self, line: bytes) -> Event | None:
        try:
            data = json.loads(line)
            if not isinstance(data, dict):
                raise ValueError("not an event")
            if "journal" in data:
                return None
            event = Event.from_dict(data)
        except (ValueError, RecursionError) as error:
            import logging

            self.skipped += 1
            shown = line if len(line) < 200 else line[:200] + b"..."
            logging.getLogger("execdrivers").warning("%s: %r: %s", self._journal.path, shown, error)
            return None
        return event if self._wanted(event) else None

    def _wanted(self, event: Event) -> bool:
        return (
            (self._types is None or event.type in self._types)
            and (self._containers is None or event.id in self._containers)
            and (self._since is None or event.time >= self._since)
            and (self.until is None or event.time <= self.until)
        )

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        with self._reading:
            while not self._events and not self._ended:
                self._events.extend(self._read())
                if not self._events and not self._ended:
                    self._wait()
            if self._ended:
                self._release()
            if not self._events:
                raise StopIteration
            return self._events.popleft()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        left = None if self.until is None else min(max(0.0, self.until - time.time()), inotify.LONGEST_WAIT)
        poll.poll(None if left is None else int(left * 1000) + 1)

    def close(self) -> None:
        """No more comes. From any thread, also while another waits for the next. May be called twice."""
        with self._closing:
            self._ended = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
        if self._reading.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._reading.release()

    def _release(self) -> None:
        with self._closing:
            wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)
        for held in (self._mark, self._inotify, self._lines):
            if held is not None:
                held.close()

    def __del__(self) -> None:
        if hasattr(self, "_lines"):
            self.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Lines:
    """The journal's lines from one place on, through the changes of its files."""

    def __init__(self, journal: Journal, *, at_end: bool) -> None:
        self._journal = journal
        self._fd = -1
        #: Where the next line begins in the file, and which it is of all.
        self._offset = 0
        self._number = 0
        files = self._files()
        if files and at_end:
            self._take(*files[-1])
            self._skip()
        elif files:
            self._take(*files[0])
        for fd, _ in files:
            if fd != self._fd:
                os.close(fd)

    def __iter__(self) -> Iterator[tuple[list[bytes], int]]:
        """Whole lines, some at a time, up to the end; with each, how many before them were lost."""
        while True:
            final = not self._is_current()
            lines = self._read() if self._fd >= 0 else []
            lost = 0
            if not lines and (not final or (lost := self._advance()) < 0):
                return
            yield lines, lost

    def _read(self) -> list[bytes]:
        size = _CHUNK
        while not (length := (data := os.pread(self._fd, size, self._offset)).rfind(b"\n") + 1):
            if len(data) < size:
                break  # what has no end yet is still being written
            if size >= _LONGEST:
                length = size  # none of ours
                break
            size *= 2
        lines = data[:length].removesuffix(b"\n").split(b"\n") if length else []
        if not length and os.fstat(self._fd).st_size < self._offset:
            self._offset = 0  # somebody has truncated it
            return self._read()
        self._number += len(lines) - (1 if lines and not self._offset else 0)
        self._offset += length
        return [line for line in lines if line]

    def _is_current(self) -> bool:
        """Whether more may be written to this file. Not so before the first."""
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self._journal.path))
        except FileNotFoundError:
            return True

    def _advance(self) -> int:
        """Go on with the next file; how many lines were lost in between, -1: there is none."""
        files = self._files()
        own = os.fstat(self._fd) if self._fd >= 0 else None
        others = [file for file in files if own is None or not os.path.samestat(os.fstat(file[0]), own)]
        following = [file for file in others if file[1] >= self._number]
        # None follows where somebody has removed them all, and others have begun anew.
        chosen = min(following, key=lambda file: file[1]) if following else others[-1] if others else None
        lost = -1
        if chosen is not None:
            lost = max(0, chosen[1] - self._number)
            self._take(*chosen)
        for fd, _ in files:
            if fd != self._fd:
                os.close(fd)
        return lost

    def _files(self) -> list[tuple[int, int]]:
        """Both files that there may be, the older one first, each with the lines before it.

        They are opened in the other order: so none is missed by whoever rotates them meanwhile.
        """
        files: list[tuple[int, int]] = []
        for path in (self._journal.path, self._journal.older):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            files.insert(0, (fd, lines_before(fd)))
        return files

    def _take(self, fd: int, before: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._offset, self._number = fd, 0, before

    def _skip(self) -> None:
        """To the end of its whole lines."""
        size = os.fstat(self._fd).st_size
        while size and os.pread(self._fd, 1, size - 1) != b"\n":
            size -= 1
        self._offset = size
        self._number += count_lines(self._fd, size)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()


def _chosen(given: Collection[str] | str | None) -> frozenset[str] | None:
    return None if given is None else frozenset((given,) if isinstance(given, str) else given)
