"""Cleaning up after a program or a container that has ended, as a program of its own. Internal.

``python -m execdrivers.aftermath --owner PID:START`` is what the guard of a program becomes (`guard`): it kills and
removes what the program left below the state roots that descriptor 4 names (launcher/c/guard.h).

``python -m execdrivers.aftermath ROOT ID`` is started by the monitor of a detached container at its end: it frees what
the container took, and records or, where that was asked for, removes it.

Nobody reads what it prints; errors go to the logger ``execdrivers`` all the same.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from execdrivers.errors import ContainerNotFound, ExecDriverError

__all__ = ["main"]

#: ED_GUARD_PAGE_FD
_PAGE = 4

#: Times that what fails is tried, and seconds before each: a cgroup may be busy for a moment.
_TRIES = (0.0, 0.1, 1.0)


def main(args: Sequence[str]) -> int:
    """0 unless something is left that should not be."""
    match args:
        case ["--owner", program]:
            pid, start = map(int, program.split(":"))
            return after_program((pid, start), _roots(_PAGE))
        case [root, id]:
            return after_container(root, id)
    print("usage: aftermath --owner PID:START | ROOT ID", file=sys.stderr)
    return 2


def after_program(owner: tuple[int, int], roots: Sequence[str]) -> int:
    """Remove what that program left below these roots."""
    import time

    from execdrivers.garbage import collect
    from execdrivers.registry import default_registry
    from execdrivers.store import Store

    left: set[str] = set()
    for seconds in _TRIES:
        time.sleep(seconds)
        left = set()
        for root in roots:
            try:
                found = list(collect(Store(root), default_registry(), owner=owner))
            except ExecDriverError as error:
                logging.getLogger("execdrivers").warning("%s", error)
                continue
            left |= {str(item) for item in found if item.error is not None}
        if not left:
            return 0
    for text in sorted(left):
        logging.getLogger("execdrivers").warning("%s", text)
    return 1


def after_container(root: str, id: str) -> int:
    """Conclude that one."""
    import time

    from execdrivers.garbage import recovered
    from execdrivers.registry import default_registry
    from execdrivers.store import Store

    why: Exception | None = None
    for seconds in _TRIES:
        time.sleep(seconds)
        try:
            container = recovered(Store(root), default_registry(), id)
            try:
                container.conclude()
                return 0
            finally:
                container._release()
        except ContainerNotFound:
            return 0  # somebody was faster
        except Exception as error:  # also a driver's
            why = error
    logging.getLogger("execdrivers").warning("container %r: %s: %s", id, type(why).__name__, why)
    return 1


def _roots(fd: int) -> list[str]:
    """As the program has written them to the memory that it shared with its guard."""
    used = int.from_bytes(os.pread(fd, 4, 4), sys.byteorder)
    data = os.pread(fd, used, 8)
    os.close(fd)
    return [os.fsdecode(root) for root in data.split(b"\0") if root]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
