"""Limits as values of the kernel's files, in the form of the version that the host has each controller in. Pure.

Sources: Linux Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst; the OCI runtime specification, config-linux,
"Control groups"; conversions from v1's units to v2's as OCI runtimes have agreed on them, named where they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from execdrivers.cgroups.layout import Layout

if TYPE_CHECKING:
    from execdrivers.spec import Resources
    from execdrivers.spec.resources import BlockIO, ThrottleDevice

__all__ = ["Files", "cpu_weight", "io_weight", "values"]

#: What is written, in this order: (file, value). A file may be written to more than once.
Files = list[tuple[str, str]]

_PERIOD = 100_000  # microseconds, as Docker
_UINT32 = 2**32 - 1


def values(resources: Resources, layout: Layout) -> dict[str, Files]:
    """Controller → files and what is written to them. Only controllers that something is asked of, and that are there.

    Controllers have the names of their version (blkio of v1 is v2's io); "" has files that every cgroup of v2 has.
    """
    written: dict[str, Files] = {}
    for names, convert in _CONVERSIONS.items():
        for version, controller in zip((1, 2), names, strict=True):
            if controller and layout.version(controller) == version:
                if files := list(convert(resources, version, layout)):
                    written[controller] = files
                break
    for name, value in resources.unified.items():
        controller = name.partition(".")[0]
        controller = "" if controller == "cgroup" else controller
        written.setdefault(controller, []).extend((name, line) for line in value.splitlines() or [""])
    return written


def _memory(r: Resources, version: int, layout: Layout) -> Iterator[tuple[str, str]]:
    if r.memory is not None:
        yield ("memory.limit_in_bytes" if version == 1 else "memory.max"), _limit(r.memory, version)
    # Unset: no swap, so that the memory limit is the whole truth.
    total = r.memory_swap if r.memory_swap is not None else r.memory
    if total is not None and layout.swap:
        if version == 1:
            yield "memory.memsw.limit_in_bytes", _limit(total, 1)
        else:
            yield "memory.swap.max", _limit(-1 if total < 0 else total - max(r.memory or 0, 0), 2)
    if r.memory_reservation is not None:
        name = "memory.soft_limit_in_bytes" if version == 1 else "memory.low"
        yield name, _limit(r.memory_reservation, version)
    if version == 1 and r.memory_swappiness is not None:
        yield "memory.swappiness", str(r.memory_swappiness)
    if version == 1 and r.oom_kill_disable is not None:
        yield "memory.oom_control", str(int(r.oom_kill_disable))


def _pids(r: Resources, version: int, layout: Layout) -> Iterator[tuple[str, str]]:
    if r.pids is not None:
        yield "pids.max", _limit(r.pids, 2)


def _cpu(r: Resources, version: int, layout: Layout) -> Iterator[tuple[str, str]]:
    weight: Files = []
    if r.cpu_shares is not None:
        v1, v2 = ("cpu.shares", str(r.cpu_shares)), ("cpu.weight", str(cpu_weight(r.cpu_shares)))
        weight.append(v1 if version == 1 else v2)
    if r.cpu_idle is not None and "cpu.idle" in layout.extras:
        # An idle cgroup takes no weight: it is the last to be set, and the first to be lifted.
        weight.insert(len(weight) if r.cpu_idle else 0, ("cpu.idle", str(int(r.cpu_idle))))
    yield from weight
    period = r.cpu_period or _PERIOD
    quota = round(r.cpus * period) if r.cpus is not None else r.cpu_quota
    if version == 1:
        if r.cpu_period is not None or r.cpus is not None:
            yield "cpu.cfs_period_us", str(period)
        if quota is not None:
            yield "cpu.cfs_quota_us", str(quota)
        if r.cpu_rt_period is not None:
            yield "cpu.rt_period_us", str(r.cpu_rt_period)
        if r.cpu_rt_runtime is not None:
            yield "cpu.rt_runtime_us", str(r.cpu_rt_runtime)
    elif quota is not None or r.cpu_period is not None:
        yield "cpu.max", f"{_limit(-1 if quota is None else quota, 2)} {period}"
    if r.cpu_burst is not None:
        yield ("cpu.cfs_burst_us" if version == 1 else "cpu.max.burst"), str(r.cpu_burst)


def cpu_weight(shares: int) -> int:
    """``cpu.weight`` (1 to 10000) for ``cpu.shares`` (2 to 262144).

    The curve on which both ends and the default (1024 → 100) meet: opencontainers/cgroups #20, in runc since 1.3.2, and
    crun #1767, both of 2025. Before, runtimes had a line, which made 39 of the default.
    """
    exponent = math.log2(max(shares, 2))
    power = (exponent * exponent + 125 * exponent) / 612 - 7 / 34
    return min(math.ceil(10**power), 10_000)


def _cpuset(r: Resources, version: int, layout: Layout) -> Iterator[tuple[str, str]]:
    if r.cpuset_cpus is not None:
        yield "cpuset.cpus", r.cpuset_cpus
    if r.cpuset_mems is not None:
        yield "cpuset.mems", r.cpuset_mems


def _block_io(r: Resources, version: int, layout: Layout) -> Iterator[tuple[str, str]]:
    if r.block_io is not None:
        yield from _blkio(r.block_io) if version == 1 else _io(r.block_io, layout)


def _blkio(b: BlockIO) -> Iterator[tuple[str, str]]:
    # Weights are BFQ's: those of the scheduler CFQ, and its leaf weights, went with Linux 5.0.
    if b.weight is not None:
        yield "blkio.bfq.weight", str(b.weight)
    for device in b.weight_device:
        if device.weight is not None:
            yield "blkio.bfq.weight_device", f"{device.major}:{device.minor} {device.weight}"
    for name, throttled in _throttled(b):
        for limit in throttled:
            # The kernel cuts operations to 32 bits; 0 lifts the limit.
            rate = 0 if name.endswith("iops") and limit.rate >= _UINT32 else limit.rate
            yield f"blkio.throttle.{name}_device", f"{limit.major}:{limit.minor} {rate}"


def _io(b: BlockIO, layout: Layout) -> Iterator[tuple[str, str]]:
    # A device is shared by weight by the scheduler BFQ or by io.cost, whichever is switched on for it.
    bfq, cost = "bfq" in layout.weights, "cost" in layout.weights
    if b.weight is not None and bfq:
        yield "io.bfq.weight", str(b.weight)
    if b.weight is not None and cost:
        yield "io.weight", str(io_weight(b.weight))
    for device in b.weight_device:
        if device.weight is not None:
            number = f"{device.major}:{device.minor}"
            yield (
                ("io.bfq.weight", f"{number} {device.weight}")
                if bfq
                else (
                    "io.weight",
                    f"{number} {io_weight(device.weight)}",
                )
            )
    limits: dict[str, list[str]] = {}
    for name, throttled in _throttled(b):
        direction, unit = name.split("_")
        for limit in throttled:
            terms = limits.setdefault(f"{limit.major}:{limit.minor}", [])
            terms.append(f"{direction[0]}{unit}={limit.rate or 'max'}")
    for number, terms in limits.items():
        yield "io.max", f"{number} {' '.join(terms)}"


def io_weight(weight: int) -> int:
    """``io.weight`` (1 to 10000) for OCI's ``blockIO.weight`` (10 to 1000): runc's line."""
    return 1 + (weight - 10) * 9999 // 990


def _throttled(b: BlockIO) -> tuple[tuple[str, tuple[ThrottleDevice, ...]], ...]:
    return (
        ("read_bps", b.throttle_read_bps_device),
        ("write_bps", b.throttle_write_bps_device),
        ("read_iops", b.throttle_read_iops_device),
        ("write_iops", b.throttle_write_iops_device),
    )


def _hugetlb(r: Resources, version: int, layout: Layout) -> Iterator[tuple[str, str]]:
    last = "limit_in_bytes" if version == 1 else "max"
    for size, limit in r.hugepage_limits.items():
        # What is reserved is charged before it is used: without its own limit mmap(2) would succeed, and SIGBUS follow.
        yield f"hugetlb.{size}.rsvd.{last}", str(limit)
        yield f"hugetlb.{size}.{last}", str(limit)


def _rdma(r: Resources, version: int, layout: Layout) -> Iterator[tuple[str, str]]:
    for device, limit in r.rdma.items():
        given = (("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects))
        if terms := [f"{name}={value}" for name, value in given if value is not None]:
            yield "rdma.max", " ".join([device, *terms])


def _net_cls(r: Resources, version: int, layout: Layout) -> Iterator[tuple[str, str]]:
    if r.network_class_id is not None:
        yield "net_cls.classid", str(r.network_class_id)


def _net_prio(r: Resources, version: int, layout: Layout) -> Iterator[tuple[str, str]]:
    for interface, priority in r.network_priorities.items():
        yield "net_prio.ifpriomap", f"{interface} {priority}"


#: The controller's name in v1 and in v2 ("": it has none) → conversion.
_CONVERSIONS: dict[tuple[str, str], Callable[[Resources, int, Layout], Iterator[tuple[str, str]]]] = {
    ("memory", "memory"): _memory,
    ("pids", "pids"): _pids,
    ("cpu", "cpu"): _cpu,
    ("cpuset", "cpuset"): _cpuset,
    ("blkio", "io"): _block_io,
    ("hugetlb", "hugetlb"): _hugetlb,
    ("rdma", "rdma"): _rdma,
    ("net_cls", ""): _net_cls,
    ("net_prio", ""): _net_prio,
}


def _limit(value: int, version: int) -> str:
    return ("-1" if version == 1 else "max") if value < 0 else str(value)
