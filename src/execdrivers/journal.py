"""The journal of events below a store's root: what has happened to its containers, whichever program did it.

``ROOT/.events/journal`` has an event a line, as JSON, in the order in which they were written. A file begins with a
header: how many lines there were in all files before. When it has grown to `FILE_SIZE` it becomes ``journal.1``, in
place of the one before, and another begins. A line is written at once, at the end, while the file is locked (flock):
so no line is mixed with another's, and none follows in a file that is no longer the journal.

``ROOT/.events/listeners/`` exists while somebody listens, with a file locked by each: then events are written of
containers of which nothing is kept (`execdrivers.run`), too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from execdrivers.events import Event

__all__ = ["FILE_SIZE", "Journal", "Mark", "beginning", "count_lines", "lines_before"]

#: Bytes of one file; there are two at most.
FILE_SIZE = 4 << 20

#: Seconds to wait for others who write. Whoever holds the lock for longer was stopped, and is no more waited for, for
#: so long; then lines are written all the same, only not so well ordered, and nothing is rotated.
_PATIENCE, _IMPATIENCE = 5.0, 60.0

_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Journal:
    """The journal below one root. Holds no descriptor between two events; for many threads and programs."""

    def __init__(self, root: str) -> None:
        self.directory = f"{root}/.events"
        self.path = f"{self.directory}/journal"
        self.older = f"{self.path}.1"
        self._listeners = f"{self.directory}/listeners"
        self._failing = False
        #: Until when (time.monotonic) nobody is waited for.
        self._impatient = 0.0

    def append(self, event: Event) -> None:
        """Write an event. What keeps it from being written is logged, once, and disturbs nobody."""
        try:
            self._append(_line(event))
        except OSError as error:
            if not self._failing:
                import logging

                message = "events are not written to %s: %s"
                logging.getLogger("execdrivers").warning(message, self.path, error.strerror or error)
            self._failing = True
        else:
            self._failing = False

    def _append(self, line: bytes) -> None:
        fd, locked, size = self._open()
        try:
            if not size:
                line = _header(0) + line
            elif os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line  # after what somebody could write only half of
            if (written := os.write(fd, line)) < len(line):
                if locked:
                    os.ftruncate(fd, size)
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({written} of {len(line)} bytes written)")
            if locked and size + written >= FILE_SIZE:
                self._rotate(fd)
        finally:
            os.close(fd)

    def _rotate(self, fd: int) -> None:
        """There is a journal at every moment, and the next begins with its header."""
        aside = f"{self.path}.new"
        _forget(aside)
        os.link(self.path, aside)
        os.rename(aside, self.older)
        _forget(aside)  # still there where somebody was killed here: then the two are one file
        new = os.open(aside, _APPEND | os.O_EXCL, 0o600)
        try:
            os.write(new, _header(lines_before(fd) + count_lines(fd)))
        finally:
            os.close(new)
        os.rename(aside, self.path)

    def _open(self) -> tuple[int, bool, int]:
        """The journal, whether it is locked, and how many bytes it has."""
        now = time.monotonic()
        until = now + (_PATIENCE if now >= self._impatient else 0)
        while True:
            fd = self._open_or_make()
            try:
                pause = 0.0001
                while not (locked := _lock(fd)) and time.monotonic() < until:
                    time.sleep(pause)
                    pause = min(2 * pause, 0.002)
                if not locked and now >= self._impatient:
                    self._impatient = time.monotonic() + _IMPATIENCE
                status = os.fstat(fd)
                if not locked or self._is_current(status):
                    return fd, locked, status.st_size
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it became journal.1 while we waited

    def _open_or_make(self) -> int:
        try:
            return os.open(self.path, _APPEND, 0o600)
        except FileNotFoundError:
            self.prepare()
            return os.open(self.path, _APPEND, 0o600)

    def _is_current(self, status: os.stat_result) -> bool:
        try:
            return os.path.samestat(status, os.lstat(self.path))
        except FileNotFoundError:
            return False

    def prepare(self) -> str:
        """Its directory, made where it is lacking. Raises OSError."""
        os.makedirs(self.directory, 0o700, exist_ok=True)
        return self.directory

    @property
    def heard(self) -> bool:
        """Whether somebody listens. Costs one system call while nobody does."""
        return os.access(self._listeners, os.F_OK) and self._sweep()

    def _sweep(self) -> bool:
        """Remove the marks of listeners that died; whether one lives."""
        try:
            for name in os.listdir(self._listeners):
                path = f"{self._listeners}/{name}"
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    if not _lock(fd):
                        return True
                    os.unlink(path)
                finally:
                    os.close(fd)
            os.rmdir(self._listeners)
        except OSError:
            pass  # others sweep as well, or somebody has begun to listen
        return False

    def listen(self) -> Mark:
        """From now on the events of all containers are written, until the mark is closed. Raises OSError."""
        name = f"{self._listeners}/{os.getpid()}-{os.urandom(4).hex()}"
        while True:
            os.makedirs(self._listeners, 0o700, exist_ok=True)
            try:
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # the last one before us has left
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return Mark(name, fd)
            os.close(fd)  # taken for a dead one's before it was locked

    def oom_kills_told(self, id: str) -> int:
        """The number of the last ``oom`` written of a container that is there still; 0: of none."""
        told = 0
        for path in (self.older, self.path):
            try:
                with open(path, "rb") as file:
                    for line in file:
                        if id.encode() not in line or not (b'"oom"' in line or b'"created"' in line):
                            continue
                        data = _parsed(line)
                        if data.get("id") == id:
                            count = data.get("oom_kills") if data.get("type") == "oom" else 0
                            told = count if isinstance(count, int) else told
            except FileNotFoundError:
                pass
        return told


class Mark:
    """Shows that somebody listens, while it is open and its program lives."""

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._maker = os.getpid()

    @property
    def stands(self) -> bool:
        """Whether nobody has removed it."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink > 0

    def close(self) -> None:
        """Listen no more. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if os.getpid() == self._maker:
            try:
                os.unlink(self._path)
                os.rmdir(os.path.dirname(self._path))
            except OSError:
                pass  # others listen
        os.close(fd)


def lines_before(fd: int) -> int:
    """How many lines were written before those of this file; 0 where it does not say."""
    data = _parsed(os.pread(fd, 200, 0).partition(b"\n")[0])
    before = data.get("before")
    return before if isinstance(before, int) else 0


def _header(before: int) -> bytes:
    return f'{{"journal":1,"before":{before}}}\n'.encode()


def count_lines(fd: int, size: int = 1 << 62) -> int:
    """How many lines of events the first ``size`` bytes of a file hold."""
    count, at = -1, 0  # without the header
    while part := os.pread(fd, min(1 << 20, size - at), at):
        count += part.count(b"\n")
        at += len(part)
    return max(0, count)


def _line(event: Event) -> bytes:
    data = event.to_dict()
    if "spec" in data:  # what it holds of secrets would outlive the container here
        data["spec"] = {key: value for key, value in data["spec"].items() if key != "env"}
    return _encode(data).encode("ascii") + b"\n"


def beginning(type: str, id: str, driver: str) -> bytes:
    """A line up to its time, for a monitor to complete (launcher/c/monitor_watches.c)."""
    return _encode({"type": type, "id": id, "driver": driver}).encode("ascii")[:-1] + b',"time":'


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
