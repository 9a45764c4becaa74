"""The machine at rest: when the kernel has done what it has put off, as the removal of network namespaces."""

from __future__ import annotations

import time

__all__ = ["wait"]

_GLANCE = 0.1
_PATIENCE = 60.0
#: Share of all processors' time. What else runs on the machine is none of ours, and must not be waited for for ever.
_AT_REST = 0.9


def wait() -> None:
    """Until the processors are all but idle, or for a minute."""
    deadline = time.monotonic() + _PATIENCE
    while _idle_share() < _AT_REST and time.monotonic() < deadline:
        pass


def _idle_share() -> float:
    before = _times()
    time.sleep(_GLANCE)
    spent = [after - earlier for after, earlier in zip(_times(), before, strict=True)]
    return (spent[3] + spent[4]) / (sum(spent) or 1)  # idle and iowait


def _times() -> list[int]:
    """The first eight counters of /proc/stat, of all processors: the last two are parts of the first."""
    with open("/proc/stat", encoding="ascii") as file:
        return list(map(int, file.readline().split()[1:9]))
