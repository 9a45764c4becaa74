"""What a container uses: one sample of processor, memory, processes, block I/O, network and pressure, as values.

All times are nanoseconds, all sizes bytes, unless a field says otherwise. What a host cannot tell is None, never 0.
Names are those of the kernel's cgroup files, runc's ``events --stats`` and Docker's stats API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

__all__ = [
    "CpuStats",
    "DeviceStats",
    "MemoryStats",
    "NetworkStats",
    "PidsStats",
    "Pressure",
    "PressureStats",
    "Source",
    "Stall",
    "Stats",
    "cpu_percent",
]

#: Where a number is from: the container's ``cgroup``, or, where it has none with that controller, its ``processes``:
#: the sum over those that live now, from /proc.
Source = Literal["cgroup", "processes"]


@attrs.frozen(kw_only=True)
class CpuStats:
    """Processor time that was used.

    From ``processes`` it counts them and the children that they have waited for, to a clock tick (10 ms); what has
    ended with nobody in the container to wait for it, as the processes of `Container.exec`, is not in it any more.
    """

    source: Source
    #: In all; the two parts, which the kernel may have sampled, need not add up to it.
    usage: int
    user: int | None = None
    system: int | None = None
    #: Of each processor in turn (cgroup v1).
    per_cpu: tuple[int, ...] | None = None
    #: Periods of the quota that have passed, those in which it was used up, and how long processes had to wait then.
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_time: int | None = None


@attrs.frozen(kw_only=True)
class MemoryStats:
    """Memory that is in use.

    From ``processes`` it is the sum of what each has resident, so that pages which several share count for each.
    """

    source: Source
    #: With the page cache of files that were read or written.
    usage: int
    #: The highest usage so far (cgroup v1, and v2 from Linux 5.19 on).
    peak: int | None = None
    #: What it may be at most; None: no limit of its own.
    limit: int | None = None
    swap: int | None = None
    #: Memory of the processes themselves; page cache; of that what was not used lately and can go first.
    anon: int | None = None
    file: int | None = None
    inactive_file: int | None = None
    #: The kernel's own memory on behalf of the container.
    kernel: int | None = None
    #: Processes that were killed for want of memory, and how often the usage met the limit.
    oom_kills: int | None = None
    failcnt: int | None = None

    @property
    def working_set(self) -> int:
        """Usage without the page cache that can go first: what ``docker stats`` shows."""
        return max(0, self.usage - (self.inactive_file or 0))


@attrs.frozen(kw_only=True)
class PidsStats:
    """Processes and their threads, as the limit ``pids`` counts them."""

    source: Source
    current: int
    #: None: no limit of its own.
    limit: int | None = None


@attrs.frozen(kw_only=True)
class DeviceStats:
    """Reads and writes of one block device. What stays in the page cache has not come to one."""

    major: int
    minor: int
    read_bytes: int
    write_bytes: int
    read_operations: int
    write_operations: int


@attrs.frozen(kw_only=True)
class NetworkStats:
    """One network interface as the container sees it: ``rx`` is what it has received."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


@attrs.frozen(kw_only=True)
class Stall:
    """How long processes stood still for want of something: percent of the last 10, 60 and 300 seconds, and in all."""

    avg10: float
    avg60: float
    avg300: float
    total: int


@attrs.frozen(kw_only=True)
class Pressure:
    """``some``: at least one process stood still; ``full``: all at once (None where the kernel does not tell)."""

    some: Stall
    full: Stall | None = None


@attrs.frozen(kw_only=True)
class PressureStats:
    """Pressure stall information of its cgroup (v2; Documentation/accounting/psi.rst)."""

    cpu: Pressure | None = None
    memory: Pressure | None = None
    io: Pressure | None = None


@attrs.frozen(kw_only=True)
class Stats:
    """One sample of what a container uses; `Container.stats` takes it.

    ``time`` is in seconds since the epoch; ``monotonic`` in seconds of the host's monotonic clock, which nobody sets.
    """

    time: float
    monotonic: float
    cpu: CpuStats
    memory: MemoryStats
    pids: PidsStats
    #: By device. Empty: nothing was read or written. None: it has no cgroup that counts. Cgroup v1 counts, since Linux
    #: 6.10, only devices for which anybody has set a throttle since they are there.
    blkio: tuple[DeviceStats, ...] | None = None
    #: By interface. None: the network is the host's, or the container's first process has ended.
    network: tuple[NetworkStats, ...] | None = None
    pressure: PressureStats | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with every field."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stats:
        """Inverse of `to_dict`, also from JSON."""
        devices, network, pressure = data.get("blkio"), data.get("network"), data.get("pressure")
        cpu = dict(data["cpu"])
        if cpu.get("per_cpu") is not None:
            cpu["per_cpu"] = tuple(cpu["per_cpu"])
        return cls(
            time=data["time"],
            monotonic=data["monotonic"],
            cpu=CpuStats(**cpu),
            memory=MemoryStats(**data["memory"]),
            pids=PidsStats(**data["pids"]),
            blkio=None if devices is None else tuple(DeviceStats(**device) for device in devices),
            network=None if network is None else tuple(NetworkStats(**interface) for interface in network),
            pressure=None if pressure is None else _pressure(pressure),
        )


def _pressure(data: Mapping[str, Any]) -> PressureStats:
    def stall(numbers: Mapping[str, Any] | None) -> Stall | None:
        return None if numbers is None else Stall(**numbers)

    found = {kind: lines for kind, lines in data.items() if lines is not None}
    return PressureStats(
        **{kind: Pressure(some=Stall(**lines["some"]), full=stall(lines.get("full"))) for kind, lines in found.items()}
    )


def cpu_percent(before: Stats, after: Stats) -> float:
    """Processor time used between two samples of a container, in percent of one processor; 150 is one and a half.

    0 for two samples of the same moment.
    """
    elapsed = after.monotonic - before.monotonic
    used = (after.cpu.usage - before.cpu.usage) / 1e9
    return 100 * max(0.0, used) / elapsed if elapsed > 0 else 0.0
