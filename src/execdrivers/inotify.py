"""Files watched through inotify(7): who waits for a change sleeps until there is one."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from typing import NamedTuple

__all__ = ["Change", "Inotify"]

#: Bits of a mask: what to watch for, and what has happened (sys/inotify.h).
MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
#: The file system is gone; changes were lost, as nobody read; the watch has ended.
UNMOUNT, OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
#: Only a directory; not through a symbolic link; nothing more of a file that was removed.
ONLYDIR, DONT_FOLLOW, EXCL_UNLINK = 0x1000000, 0x2000000, 0x4000000

#: Seconds after which who waits for a time far ahead looks again: poll(2) takes 24 days at the most.
LONGEST_WAIT = 86400.0

_EVENT = struct.Struct("iIII")
#: Room for some hundred changes with names.
_BUFFER = 64 << 10


class Change(NamedTuple):
    """What has happened: to which watch (-1: to none, with ``OVERFLOW``), which bits, and to which file in it."""

    watch: int
    mask: int
    cookie: int
    name: str


class Inotify:
    """One inotify instance. A context manager; ``fileno()`` is readable (poll(2)) when `read` has something to give."""

    def __init__(self) -> None:
        """Raises OSError: EMFILE when this user has too many (fs.inotify.max_user_instances)."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)

    def watch(self, target: str | bytes | int, mask: int) -> int:
        """Watch a path, or the file behind a descriptor, for the changes in ``mask``; the number of the watch.

        A file watched already keeps its number and gets the new mask. Raises OSError (ENOSPC: this user has too many
        watches, fs.inotify.max_user_watches).
        """
        path = os.fsencode(f"/proc/self/fd/{target}" if isinstance(target, int) else target)
        try:
            return self._call("inotify_add_watch", self._fd, path, ctypes.c_uint32(mask))
        except OSError as error:
            error.filename = os.fsdecode(path)
            raise

    def unwatch(self, watch: int) -> None:
        """End a watch; `read` then gives a change with ``IGNORED``. Raises OSError (EINVAL) for one that has ended."""
        self._call("inotify_rm_watch", self._fd, watch)

    def read(self) -> list[Change]:
        """The changes since the last time, at once, also when there is none."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        changes, at = [], 0
        while at < len(data):
            watch, mask, cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = data[at : at + length].rstrip(b"\0")
            changes.append(Change(watch, mask, cookie, os.fsdecode(name)))
            at += length
        return changes

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a change, ``timeout`` seconds at the most; whether there is one."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0.0, 1000 * timeout)))

    def fileno(self) -> int:
        """Its descriptor; -1 once closed."""
        return self._fd

    def close(self) -> None:
        """End all watches. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Inotify:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def _call(self, name: str, *arguments: object) -> int:
        result = int(getattr(self._libc, name)(*arguments))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
