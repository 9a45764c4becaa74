"""The pump: one poll(2) loop, in the calling thread, over a container's pipes or terminal, its end, what the
kernel tells of it, and the clock."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from execdrivers.streams import CHUNK, LARGE, grow, read_some

if TYPE_CHECKING:
    from execdrivers.streams import Reader, Writer
    from execdrivers.watch import Watch

__all__ = ["Pump"]

_READ = select.POLLIN
_WRITE = select.POLLOUT
_GONE = select.POLLNVAL


class Pump:
    """Moves what the container writes to sinks and what it is to read from a source, until its first process ends.

    Nothing is lost between two pumps on the same streams. ``failed`` tells that a sink or source raised.
    """

    def __init__(
        self, exit_fd: int, readers: Sequence[Reader], writer: Writer | None = None, watch: Watch | None = None
    ) -> None:
        self.failed = False
        self._exit_fd = exit_fd
        self._poll = self._make_poll()
        self._readers = {reader.fd: reader for reader in readers if reader.fd >= 0}
        self._writer = writer if writer is not None and writer.fd >= 0 and writer.source is not None else None
        if exit_fd >= 0:
            self._poll.register(exit_fd, _READ)
        for fd in self._readers:
            self._poll.register(fd, _READ)
        self._watched = -1
        self._watch_input()
        self._watch = watch
        self._noticed: dict[int, int] = {}
        if watch is not None:
            self._watch_notices(watch)

    def run(self, deadline: float | None = None) -> bool:
        """Pump until the end of the first process (True) or the deadline (time.monotonic; False)."""
        while not self.step(deadline):
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return True

    def step(self, deadline: float | None = None) -> bool:
        """Wait once, move what is there; whether the first process has ended."""
        if self._exit_fd < 0:
            return True
        milliseconds = None
        if deadline is not None:
            # Rounded up, or the last millisecond would be spent spinning; a mere look takes none.
            left = deadline - time.monotonic()
            milliseconds = int(left * 1000) + 1 if left > 0 else 0
        ended = False
        ready = self._poll.poll(milliseconds)
        if self._watch is not None:
            self._notice(self._watch, ready)
        for fd, events in ready:
            if fd == self._exit_fd:
                ended = True
            else:
                self._move(fd, bool(events & _GONE))
        return ended

    def drain(self) -> bool:
        """After the end: move what is in the pipes already. Whether all are at their end, held open by nobody.

        Bounded, since processes that outlive the first may go on writing.
        """
        for fd in list(self._readers):
            poll = select.poll()
            poll.register(fd, _READ)
            left = LARGE
            while left > 0 and fd in self._readers and (events := poll.poll(0)):
                left -= self._read(fd, bool(events[0][1] & _GONE))
        return not self._readers

    def _make_poll(self) -> Any:
        """What waits: poll(2)'s object, or one like it."""
        return select.poll()

    def _move(self, fd: int, gone: bool) -> None:
        if fd in self._readers:
            self._read(fd, gone)
        elif fd == self._watched:
            self._write(fd, gone)

    def _read(self, fd: int, gone: bool) -> int:
        reader = self._readers[fd]
        try:
            data = b"" if gone else read_some(fd, reader.chunk)
        except BlockingIOError:
            return 0
        if not data:
            del self._readers[fd]
            self._poll.unregister(fd)
            reader.end(gone)
            return 0
        if len(data) == reader.chunk == CHUNK:
            reader.chunk = LARGE
            grow(fd)
        try:
            assert reader.sink is not None
            reader.sink(data)
        except BaseException:
            self.failed = True
            raise
        return len(data)

    def _write(self, fd: int, gone: bool) -> None:
        writer = self._writer
        assert writer is not None
        assert writer.source is not None
        try:
            if gone:
                writer.close()
            elif fd == writer.source.fd:
                writer.source.fill()
            else:
                writer.push()
        except BaseException:
            self.failed = True
            raise
        self._watch_input()

    def _notice(self, watch: Watch, ready: Sequence[tuple[int, int]]) -> None:
        if not ready or any(fd in self._noticed for fd, _ in ready):
            watch.read([fd for fd, _ in ready], self._tell)
            self._watch_notices(watch)

    def _tell(self, call: Callable[[], object]) -> None:
        """Tell of what the watch has noticed."""
        call()

    def _watch_notices(self, watch: Watch) -> None:
        for fd in self._noticed.keys() - watch.fds.keys():
            try:
                self._poll.unregister(fd)
            except OSError:
                pass  # closed
        for fd in watch.fds.keys() - self._noticed.keys():
            self._poll.register(fd, watch.fds[fd])
        self._noticed = dict(watch.fds)

    def _watch_input(self) -> None:
        """Wait for room in the container's stdin, or, with nothing to put there, for more to come."""
        writer = self._writer
        fd = -1
        if writer is not None and writer.fd >= 0 and writer.source is not None:
            fd = writer.fd if writer.source.ready else writer.source.fd
        if fd == self._watched:
            return
        if self._watched >= 0:
            try:
                self._poll.unregister(self._watched)
            except (KeyError, OSError):
                pass  # closed, and its number perhaps another's by now
        self._watched = fd
        if fd >= 0:
            self._poll.register(fd, _READ if fd != getattr(writer, "fd", -1) else _WRITE)
