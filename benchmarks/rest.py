"""The kernel at rest: when it has done what it has put off.

The network namespaces of containers that have ended are taken down by a worker of the kernel, in batches, of which a
thousand keep it busy for seconds; a worker's name in /proc says what it is at.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

__all__ = ["wait"]

#: Seconds.
_GLANCE = 0.05
#: A batch may come right after another.
_GLANCES = 4


def wait(patience: float) -> None:
    """Until no network namespace is being taken down any more; for so many seconds at the most, since others may make
    containers all the time."""
    deadline = time.monotonic() + patience
    quiet = 0
    while quiet < _GLANCES and time.monotonic() < deadline:
        time.sleep(_GLANCE)
        quiet = 0 if _at_work() else quiet + 1


def _at_work() -> bool:
    return any(name.startswith("kworker/") and name.endswith("+netns") for name in _names())


def _names() -> list[str]:
    names = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            names.append(Path(f"/proc/{pid}/comm").read_text().strip())
    return names
