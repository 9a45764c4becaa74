"""LXC's lock files: it keeps one per container, in a directory named as the container's, and never removes any."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

__all__ = ["held", "remove"]

_LOCKS = "/run/lxc/lock"


@contextlib.contextmanager
def held() -> Iterator[None]:
    """While LXC makes a lock, nobody of us removes the directories above it."""
    os.makedirs(_LOCKS, exist_ok=True)
    fd = os.open(_LOCKS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def remove(path: str, id: str) -> None:
    """Remove what LXC has made for a container below ``path`` (its ``-P``), and the directories that are empty then."""
    with contextlib.suppress(OSError):
        os.unlink(f"{_LOCKS}/{path}/.{id}")
    with contextlib.suppress(OSError):
        fd = os.open(_LOCKS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            parts = [part for part in path.split("/") if part]
            for count in range(len(parts), 1, -1):  # the topmost others may need
                os.rmdir("/".join([_LOCKS, *parts[:count]]))
        finally:
            os.close(fd)
