"""What the kernel tells of a container's memory while it runs: that it has killed for want of it, that it runs short.

v1: an eventfd of this program is told (Linux Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control" and "Memory
Pressure"), of a kill before it is done. v2: its files can be waited for (Documentation/admin-guide/cgroup-v2.rst,
memory.events; Documentation/accounting/psi.rst).
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

from execdrivers.cgroups.directories import exists
from execdrivers.cgroups.limits import CgroupDir
from execdrivers.driver import Notice

__all__ = ["notices"]

#: Of v1's levels low, medium and critical: it swaps, or drops files that are in use.
_LEVEL = "medium"
#: PSI: processes stood still for want of memory for a tenth of the last two seconds. Windows of other lengths than a
#: multiple of two seconds take CAP_SYS_RESOURCE.
_STALL = b"some 200000 2000000\0"


def notices(cgroups: Sequence[CgroupDir]) -> list[Notice]:
    """Descriptors that tell of a container's memory; none without a memory cgroup, or where the kernel refuses."""
    found: list[Notice] = []
    for cgroup in filter(exists, cgroups):
        if cgroup.version == 1 and "memory" in cgroup.controllers:
            kinds = (_oom_v1, _pressure_v1)
        elif cgroup.version == 2 and os.path.exists(f"{cgroup.path}/memory.events"):
            kinds = (_oom_v2, _pressure_v2)
        else:
            continue
        for kind in kinds:
            with contextlib.suppress(OSError):
                found.append(kind(cgroup.path))
        break
    return found


def _oom_v1(path: str) -> Notice:
    control = os.open(f"{path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Notice(type="oom", fd=_eventfd(path, control), events=select.POLLIN, count_fd=control)
    except BaseException:
        os.close(control)
        raise


def _pressure_v1(path: str) -> Notice:
    control = os.open(f"{path}/memory.pressure_level", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Notice(type="memory_pressure", fd=_eventfd(path, control, _LEVEL), events=select.POLLIN)
    finally:
        os.close(control)


def _eventfd(path: str, *what: object) -> int:
    """One that the kernel tells of it, until it is closed."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with open(f"{path}/cgroup.event_control", "w", encoding="ascii") as file:
            file.write(" ".join(map(str, (fd, *what))))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _oom_v2(path: str) -> Notice:
    fd = os.open(f"{path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    return Notice(type="oom", fd=fd, events=select.POLLPRI, count_fd=fd)


def _pressure_v2(path: str) -> Notice:
    fd = os.open(f"{path}/memory.pressure", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, _STALL)
    except BaseException:
        os.close(fd)
        raise
    return Notice(type="memory_pressure", fd=fd, events=select.POLLPRI)
