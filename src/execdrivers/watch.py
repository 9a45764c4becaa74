"""Watching what the kernel tells of a running container, in whatever loop waits for its end."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from execdrivers.driver import Notice

__all__ = ["Watch"]

#: Seconds after which a count is looked at again that is told of before it grows (cgroup v1).
_LOOKS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
#: Seconds between two events of memory that runs short.
_PAUSE = 1.0
#: Per cent of the last ten seconds for which processes stood still for want of memory: what a tenth of the last two
#: comes to in the kernel's average.
_SHORT = 1.8


#: Makes a call that tells somebody of something, now or elsewhere.
Teller = Callable[[Callable[[], object]], object]


def _now(call: Callable[[], object]) -> None:
    call()


class Watch:
    """What some notices tell. ``fds`` are to be polled, each with its mask; when one is ready, `read`, which may change
    them.

    ``oom(count)`` is called with the number of processes killed so far, ``pressure()`` once a second at most.
    """

    def __init__(self, notices: Sequence[Notice], oom: Callable[[int], object], pressure: Callable[[], object]) -> None:
        self._oom = oom
        self._pressure = pressure
        self._counts = {notice: 0 for notice in notices if notice.count_fd >= 0}
        self._others = [notice for notice in notices if notice.count_fd < 0]
        self._quiet_until = 0.0
        self._looks: Sequence[float] = ()
        self._timer: Timer | None = None
        #: Descriptor → poll(2) mask. Empty once the container is gone.
        self.fds: dict[int, int] = {notice.fd: notice.events for notice in notices}

    def read(self, ready: Collection[int] = (), tell: Teller = _now) -> None:
        """Look at all of them, without waiting; ``ready``: those that the poll named. What is new is told by calls that
        are given to ``tell``.

        A poll within a poll takes the notice of pressure from the kernel and does not name it: then the averages speak.
        """
        if not self.fds:
            return
        looked = self._timer is not None and self._timer.expired()
        for notice in self._counts:
            told = notice.events == select.POLLIN and _drain(notice.fd)
            if not self._recount(notice, tell):
                return
            if told or looked:
                # Another kill may have been told of at the same time as one that was counted.
                self._look_again(_LOOKS if told else self._looks[1:])
        for notice in self._others:
            told = notice.fd in ready or _is_short(notice.fd) if notice.events == select.POLLPRI else _drain(notice.fd)
            if told and time.monotonic() >= self._quiet_until:
                self._quiet_until = time.monotonic() + _PAUSE
                tell(self._pressure)

    def _recount(self, notice: Notice, tell: Teller) -> bool:
        """Tell of kills that are new; whether there is still something to count."""
        try:
            text = os.pread(notice.count_fd, 4096, 0)
        except OSError:
            self.close()  # the cgroup is gone
            return False
        lines = (line.split() for line in text.splitlines())
        count = next((int(words[1]) for words in lines if words[:1] == [b"oom_kill"]), 0)
        if count > self._counts[notice]:
            self._counts[notice] = count
            tell(lambda: self._oom(count))
        return True

    def _look_again(self, pauses: Sequence[float]) -> None:
        if self._timer is None:
            self._timer = Timer()
            self.fds[self._timer.fd] = select.POLLIN
        self._looks = pauses
        self._timer.set(pauses[0] if pauses else 0)

    def close(self) -> None:
        """Close all descriptors. May be called twice."""
        if not self.fds:
            return
        self.fds = {}
        for notice in (*self._counts, *self._others):
            notice.close()
        if self._timer is not None:
            self._timer.close()


def _drain(fd: int) -> bool:
    """Whether an eventfd was told anything since the last time."""
    try:
        return os.eventfd_read(fd) > 0
    except BlockingIOError:
        return False


def _is_short(fd: int) -> bool:
    try:
        words = os.pread(fd, 4096, 0).split()
    except OSError:
        return False
    shares = [float(word[6:]) for word in words if word.startswith(b"avg10=")]
    return bool(shares) and shares[0] >= _SHORT


class Timer:
    """A timerfd(2): readable when its time is over."""

    def __init__(self) -> None:
        import ctypes

        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = int(self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def set(self, seconds: float) -> None:
        """From now; 0: never."""
        whole = int(seconds)
        value = struct.pack("@qqqq", 0, 0, whole, int((seconds - whole) * 1e9))
        self._libc.timerfd_settime(self.fd, 0, value, None)

    def expired(self) -> bool:
        """Whether its time is over; then it is set no more."""
        try:
            return len(os.read(self.fd, 8)) == 8
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Once."""
        os.close(self.fd)
