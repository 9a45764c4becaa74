"""A sample of what a container uses, from its cgroups on either version, and from /proc where it has none.

Sources: Documentation/admin-guide/cgroup-v1 (cpuacct, memory, blkio-controller), cgroup-v2.rst, accounting/psi.rst;
proc_pid_stat(5), proc_pid_statm(5), proc_pid_net(5).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import attrs

from execdrivers import pidfd
from execdrivers.cgroups.limits import CgroupDir
from execdrivers.stats import (
    CpuStats,
    DeviceStats,
    MemoryStats,
    NetworkStats,
    PidsStats,
    Pressure,
    PressureStats,
    Stall,
    Stats,
)

__all__ = ["FILES_V1", "FILES_V2", "sample"]

_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: All files that are read: of v1 by controller, and of v2. None of a name that begins with a dash.
FILES_V1: Mapping[str, tuple[str, ...]] = {
    "cpuacct": ("cpuacct.usage", "cpuacct.stat", "cpuacct.usage_percpu"),
    "cpu": ("cpu.stat",),
    "memory": (
        "memory.usage_in_bytes",
        "memory.max_usage_in_bytes",
        "memory.limit_in_bytes",
        "memory.failcnt",
        "memory.memsw.failcnt",
        "memory.kmem.usage_in_bytes",
        "memory.oom_control",
        "memory.stat",
    ),
    "pids": ("pids.current", "pids.max"),
    "blkio": ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
}
FILES_V2 = (
    *("cpu.stat", "memory.current", "memory.peak", "memory.max", "memory.swap.current", "memory.stat"),
    *("memory.events", "pids.current", "pids.max", "io.stat", "cpu.pressure", "memory.pressure", "io.pressure"),
)

#: v1 writes "no limit" as the greatest number of whole pages.
_UNLIMITED = 1 << 62


def sample(
    cgroups: Sequence[CgroupDir], pids: Callable[[], Sequence[int]], first: int | None = None, first_fd: int = -1
) -> Stats:
    """What the container uses now.

    ``cgroups`` are its own, whose hierarchies may be of both versions; one that is gone counts as none. ``pids`` names
    its processes, asked for where a number has no cgroup. ``first`` is its first process, with a pidfd.
    """
    opened: list[int] = []
    try:
        v1, v2 = _open(cgroups, opened)
        processes = _Processes(pids)
        cpu = _cpu_v1(v1) or _cpu_v2(v2) or processes.cpu()
        # The controller cpu of v1 may have a hierarchy of its own, and a cgroup where cpuacct has none.
        if quota := v1.get("cpu", _None).numbers("cpu.stat"):
            cpu = attrs.evolve(
                cpu,
                periods=quota.get("nr_periods"),
                throttled_periods=quota.get("nr_throttled"),
                throttled_time=quota.get("throttled_time"),
            )
        return Stats(
            time=time.time(),
            monotonic=time.monotonic(),
            cpu=cpu,
            memory=_memory_v1(v1) or _memory_v2(v2) or processes.memory(),
            pids=_pids(v1.get("pids") or v2) or processes.pids(),
            blkio=_blkio_v1(v1) if "blkio" in v1 else _blkio_v2(v2),
            network=_network(first, first_fd),
            pressure=_pressure(v2),
        )
    finally:
        for fd in opened:
            os.close(fd)


# --- files --------------------------------------------------------------------------------------------------------


class _Directory:
    """A cgroup's directory, held open, so that all is read from the same one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, name: str) -> str:
        """The file's text; empty where this kernel, or the cgroup, has none."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return ""
        try:
            return _all_of(fd).decode("ascii")
        except OSError:
            return ""  # pressure that is switched off, or a cgroup that was removed just now
        finally:
            os.close(fd)

    def exists(self, name: str) -> bool:
        """Whether the cgroup has such a file."""
        try:
            os.stat(name, dir_fd=self._fd)
        except OSError:
            return False
        return True

    def number(self, name: str) -> int | None:
        """The file's only number; None: there is no such file, or it says "max"."""
        text = self.read(name)
        return int(text) if text and not text.startswith("max") else None

    def numbers(self, name: str) -> dict[str, int]:
        """A file of lines of a name and a number."""
        words = self.read(name).split()
        return dict(zip(words[::2], map(int, words[1::2]), strict=False))


_None = _Directory(-1)


def _open(cgroups: Sequence[CgroupDir], opened: list[int]) -> tuple[Mapping[str, _Directory], _Directory | None]:
    """v1 controller → its directory, and that of v2; ``opened`` gets their descriptors."""
    v1: dict[str, _Directory] = {}
    v2 = None
    for cgroup in cgroups:
        if cgroup.version == 1 and FILES_V1.keys().isdisjoint(cgroup.controllers):
            continue
        try:
            fd = os.open(cgroup.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        opened.append(fd)
        if cgroup.inode and os.fstat(fd).st_ino != cgroup.inode:
            continue  # another's of the same name
        directory = _Directory(fd)
        if cgroup.version == 2:
            v2 = directory
        else:
            v1.update(dict.fromkeys(cgroup.controllers, directory))
    return v1, v2


def _all_of(fd: int) -> bytes:
    data = b""
    while chunk := os.read(fd, 1 << 16):
        data += chunk
    return data


def _file(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _all_of(fd)
    finally:
        os.close(fd)


# --- processor ----------------------------------------------------------------------------------------------------


def _cpu_v1(v1: Mapping[str, _Directory]) -> CpuStats | None:
    cpuacct = v1.get("cpuacct", _None)
    usage = cpuacct.number("cpuacct.usage")
    if usage is None:
        return None
    ticks = cpuacct.numbers("cpuacct.stat")
    return CpuStats(
        source="cgroup",
        usage=usage,
        user=_times(ticks.get("user"), _TICK),
        system=_times(ticks.get("system"), _TICK),
        per_cpu=tuple(map(int, cpuacct.read("cpuacct.usage_percpu").split())) or None,
    )


def _cpu_v2(v2: _Directory | None) -> CpuStats | None:
    found = v2.numbers("cpu.stat") if v2 else {}
    if "usage_usec" not in found:
        return None
    return CpuStats(
        source="cgroup",
        usage=found["usage_usec"] * 1000,
        user=_times(found.get("user_usec"), 1000),
        system=_times(found.get("system_usec"), 1000),
        periods=found.get("nr_periods"),
        throttled_periods=found.get("nr_throttled"),
        throttled_time=_times(found.get("throttled_usec"), 1000),
    )


def _times(count: int | None, unit: int) -> int | None:
    return None if count is None else count * unit


# --- memory and processes -----------------------------------------------------------------------------------------


def _memory_v1(v1: Mapping[str, _Directory]) -> MemoryStats | None:
    memory = v1.get("memory", _None)
    usage = memory.number("memory.usage_in_bytes")
    if usage is None:
        return None
    parts = memory.numbers("memory.stat")
    limit = memory.number("memory.limit_in_bytes")
    limit = None if limit is None or limit >= _UNLIMITED else limit
    peak = memory.number("memory.max_usage_in_bytes")
    # What meets the limit of memory with swap is counted there alone, and by newer kernels (6.18) not at all.
    failures: int | None = sum(memory.number(name) or 0 for name in ("memory.failcnt", "memory.memsw.failcnt"))
    if not failures and limit is not None and (peak or 0) >= limit:
        failures = None
    return MemoryStats(
        source="cgroup",
        usage=usage,
        peak=peak,
        limit=limit,
        swap=parts.get("total_swap"),
        anon=parts.get("total_rss"),
        file=parts.get("total_cache"),
        inactive_file=parts.get("total_inactive_file"),
        kernel=memory.number("memory.kmem.usage_in_bytes"),
        oom_kills=memory.numbers("memory.oom_control").get("oom_kill"),
        failcnt=failures,
    )


def _memory_v2(v2: _Directory | None) -> MemoryStats | None:
    usage = v2.number("memory.current") if v2 else None
    if v2 is None or usage is None:
        return None
    parts = v2.numbers("memory.stat")
    events = v2.numbers("memory.events")
    return MemoryStats(
        source="cgroup",
        usage=usage,
        peak=v2.number("memory.peak"),
        limit=v2.number("memory.max"),
        swap=v2.number("memory.swap.current"),
        anon=parts.get("anon"),
        file=parts.get("file"),
        inactive_file=parts.get("inactive_file"),
        kernel=parts.get("kernel"),  # from Linux 5.18 on
        oom_kills=events.get("oom_kill"),
        failcnt=events.get("max"),
    )


def _pids(directory: _Directory | None) -> PidsStats | None:
    current = directory.number("pids.current") if directory else None
    if directory is None or current is None:
        return None
    return PidsStats(source="cgroup", current=current, limit=directory.number("pids.max"))


# --- block I/O ----------------------------------------------------------------------------------------------------


def _blkio_v1(v1: Mapping[str, _Directory]) -> tuple[DeviceStats, ...] | None:
    """What the throttle has let pass, which counts whether it has rules or not."""
    read = v1["blkio"].read
    counts: dict[str, dict[str, int]] = {}
    known = False
    for file, unit in (("io_service_bytes", "bytes"), ("io_serviced", "operations")):
        text = read(f"blkio.throttle.{file}_recursive")
        known = known or bool(text)
        for line in text.splitlines():
            device, *rest = line.split()
            if len(rest) == 2 and rest[0] in ("Read", "Write"):
                counts.setdefault(device, {})[f"{rest[0].lower()}_{unit}"] = int(rest[1])
    return _devices(counts) if known else None


#: v2's words for v1's.
_IO = {"rbytes": "read_bytes", "wbytes": "write_bytes", "rios": "read_operations", "wios": "write_operations"}


def _blkio_v2(v2: _Directory | None) -> tuple[DeviceStats, ...] | None:
    if v2 is None or not v2.exists("io.stat"):
        return None
    counts: dict[str, dict[str, int]] = {}
    for line in v2.read("io.stat").splitlines():
        device, *pairs = line.split()
        found = (pair.partition("=") for pair in pairs)
        counts[device] = {_IO[key]: int(value) for key, _, value in found if key in _IO}
    return _devices({device: numbers for device, numbers in counts.items() if numbers})


def _devices(counts: Mapping[str, Mapping[str, int]]) -> tuple[DeviceStats, ...]:
    def device(number: str, found: Mapping[str, int]) -> DeviceStats:
        major, _, minor = number.partition(":")
        return DeviceStats(major=int(major), minor=int(minor), **{name: found.get(name, 0) for name in _IO.values()})

    return tuple(device(number, found) for number, found in counts.items())


# --- pressure -----------------------------------------------------------------------------------------------------


def _pressure(v2: _Directory | None) -> PressureStats | None:
    if v2 is None:
        return None
    found = {kind: lines for kind in ("cpu", "memory", "io") if (lines := v2.read(f"{kind}.pressure"))}
    return PressureStats(**{kind: _stalls(lines) for kind, lines in found.items()}) if found else None


def _stalls(text: str) -> Pressure:
    stalls = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        numbers = dict(pair.split("=") for pair in pairs)
        averages = {name: float(numbers[name]) for name in ("avg10", "avg60", "avg300")}
        stalls[kind] = Stall(**averages, total=int(numbers["total"]) * 1000)
    return Pressure(some=stalls["some"], full=stalls.get("full"))


# --- /proc --------------------------------------------------------------------------------------------------------


class _Processes:
    """Sums over the processes that live now; looked at once, and only where a number is asked for."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids

    @cached_property
    def _stats(self) -> list[tuple[list[int], list[int]]]:
        """Of each: the numbers of its ``stat`` from the fourth field on, and of its ``statm``."""
        return list(self._look())

    def _look(self) -> Iterator[tuple[list[int], list[int]]]:
        for pid in self._pids():
            with contextlib.suppress(OSError):  # ended meanwhile
                stat = _file(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1:]
                yield list(map(int, stat)), list(map(int, _file(f"/proc/{pid}/statm").split()))

    def cpu(self) -> CpuStats:
        # utime, cutime; stime, cstime
        user = _TICK * sum(stat[10] + stat[12] for stat, _ in self._stats)
        system = _TICK * sum(stat[11] + stat[13] for stat, _ in self._stats)
        return CpuStats(source="processes", usage=user + system, user=user, system=system)

    def memory(self) -> MemoryStats:
        resident = sum(statm[1] for _, statm in self._stats)
        of_files = sum(statm[2] for _, statm in self._stats)
        anon = resident - of_files
        return MemoryStats(source="processes", usage=_PAGE * resident, anon=_PAGE * anon, file=_PAGE * of_files)

    def pids(self) -> PidsStats:
        return PidsStats(source="processes", current=sum(stat[16] for stat, _ in self._stats))


def _network(pid: int | None, fd: int) -> tuple[NetworkStats, ...] | None:
    """Of the process's network namespace, unless that is ours."""
    if pid is None:
        return None
    try:
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return None
        text = _file(f"/proc/{pid}/net/dev").decode("utf-8", "surrogateescape")
    except OSError:
        return None
    if pidfd.wait(fd, 0):
        return None  # it has ended, so that the pid may have been another's
    found = (line.rpartition(":") for line in text.splitlines()[2:])
    return tuple(_interface(name.strip(), list(map(int, numbers.split()))) for name, _, numbers in found)


def _interface(name: str, n: Sequence[int]) -> NetworkStats:
    return NetworkStats(
        name=name,
        rx_bytes=n[0],
        rx_packets=n[1],
        rx_errors=n[2],
        rx_dropped=n[3],
        tx_bytes=n[8],
        tx_packets=n[9],
        tx_errors=n[10],
        tx_dropped=n[11],
    )
