"""Limits that cgroups enforce."""

# ruff: noqa: RUF009 - the linter does not see that `field` is attrs.field

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from execdrivers.errors import SpecError
from execdrivers.spec._convert import (
    EMPTY,
    UINT32,
    Value,
    between,
    each,
    each_value,
    fail,
    field,
    flag,
    instance,
    integer,
    name,
    number_text,
    one_of,
    optional,
    text,
)
from execdrivers.spec.filesystem import device_access
from execdrivers.units import MAX_SIZE, normalize_ids, parse_size

__all__ = ["BlockIO", "DeviceRule", "RdmaLimit", "Resources", "ThrottleDevice", "WeightDevice"]

#: Below this no program can be executed: the kernel charges page tables, stack and the file's pages.
MIN_MEMORY = 1024 * 1024

#: The period that ``cpus`` is counted in, microseconds; docker's and the kernel's own.
CPU_PERIOD = 100_000

#: PID_MAX_LIMIT, the most that pids.max takes.
MAX_PIDS = 4 * 1024 * 1024

_UINT64 = 2**64 - 1


@attrs.frozen(eq=False, repr=False)
class WeightDevice(Value):
    """Weight (10 to 1000) of block I/O on one device."""

    major: int = field(converter=integer, validator=between(0, 4095))
    minor: int = field(converter=integer, validator=between(0, 2**20 - 1))
    weight: int | None = field(default=None, converter=optional(integer), validator=between(10, 1000))
    leaf_weight: int | None = field(default=None, converter=optional(integer), validator=between(10, 1000))


def _rate(value: int | str) -> int:
    return parse_size(value)


@attrs.frozen(eq=False, repr=False)
class ThrottleDevice(Value):
    """Most bytes or operations per second on one device."""

    major: int = field(converter=integer, validator=between(0, 4095))
    minor: int = field(converter=integer, validator=between(0, 2**20 - 1))
    rate: int = field(converter=_rate)


def _weights(value: Iterable[WeightDevice | Mapping[str, Any]]) -> tuple[WeightDevice, ...]:
    return each(instance(WeightDevice), value)


def _throttles(value: Iterable[ThrottleDevice | Mapping[str, Any]]) -> tuple[ThrottleDevice, ...]:
    return each(instance(ThrottleDevice), value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BlockIO(Value):
    """OCI's ``blockIO``: weights are 10 to 1000, rates per second."""

    weight: int | None = field(default=None, converter=optional(integer), validator=between(10, 1000))
    leaf_weight: int | None = field(default=None, converter=optional(integer), validator=between(10, 1000))
    weight_device: tuple[WeightDevice, ...] = field(default=(), converter=_weights)
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = field(default=(), converter=_throttles)
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = field(default=(), converter=_throttles)
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = field(default=(), converter=_throttles)
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = field(default=(), converter=_throttles)


def _block_io(value: BlockIO | Mapping[str, Any]) -> BlockIO:
    return instance(BlockIO)(value)  # type: ignore[no-any-return]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RdmaLimit(Value):
    """Most handles and objects of one RDMA device."""

    hca_handles: int | None = field(default=None, converter=optional(integer), validator=between(0, UINT32))
    hca_objects: int | None = field(default=None, converter=optional(integer), validator=between(0, UINT32))


@attrs.frozen(eq=False, repr=False)
class DeviceRule(Value):
    """A rule of the device cgroup; later rules win. ``type`` a: all devices; a number of None: all of them."""

    allow: bool = field(converter=flag)
    type: str = field(default="a", converter=text, validator=one_of("a", "b", "c"))
    major: int | None = field(default=None, converter=optional(integer), validator=between(0, 2**31 - 1))
    minor: int | None = field(default=None, converter=optional(integer), validator=between(0, 2**31 - 1))
    access: str = field(default="rwm", converter=device_access)


#: Nothing but the standard devices, which every driver's containers have.
DENY_ALL = (DeviceRule(False),)


def _device_rules(value: Iterable[DeviceRule | Mapping[str, Any]]) -> tuple[DeviceRule, ...]:
    return each(instance(DeviceRule), value)


def _memory(value: int | str) -> int:
    if value in (-1, "-1", "unlimited") and not isinstance(value, float):
        return -1
    return parse_size(value)


def _cpus(value: float | str) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            fail(value, "is not a number of processors", "write it as 1.5")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        fail(value, "is not a number of processors", "write it as 1.5")
    if not 0.01 <= value <= 8192:
        fail(value, "is not a possible number of processors", "use 0.01 to 8192")
    # The kernel counts microseconds per period, so this is all the precision there is.
    return round(value * CPU_PERIOD) / CPU_PERIOD


_HUGE_PAGE = re.compile(r"[1-9]\d{0,6}[KMG]B", re.ASCII)
_CGROUP_FILE = re.compile(r"[a-z0-9_]+\.[A-Za-z0-9_.]+", re.ASCII)


def _huge_page(value: str) -> str:
    if not _HUGE_PAGE.fullmatch(value):
        fail(value, "is not a size of huge pages", "write it as 2MB or 1GB")
    return value


def _huge_pages(value: Mapping[str, int | str]) -> Mapping[str, int]:
    return each_value(_huge_page, parse_size, value)


def _rdma(value: Mapping[str, RdmaLimit | Mapping[str, Any]]) -> Mapping[str, RdmaLimit]:
    return each_value(name, instance(RdmaLimit), value)


def _priority(value: int) -> int:
    between(0, UINT32)(None, None, integer(value))
    return value


def _priorities(value: Mapping[str, int]) -> Mapping[str, int]:
    return each_value(name, _priority, value)


def _cgroup_file(value: str) -> str:
    # The name becomes a path below the container's cgroup: no separator may be in it.
    if not _CGROUP_FILE.fullmatch(value):
        fail(value, "is not a file of cgroup v2", "write it as memory.high")
    return value


def _unified(value: Mapping[str, str | int]) -> Mapping[str, str]:
    return each_value(_cgroup_file, number_text, value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Resources(Value):
    """What the container may use. Sizes are in bytes and taken as "64M" too; -1 is unlimited.

    ``memory_swap`` is memory and swap together. ``cpus`` is processor time per time (1.5: one and a half processors),
    the same as ``cpu_quota`` microseconds in each ``cpu_period``. ``cpuset_cpus`` and ``cpuset_mems`` are lists such as
    "0-2,4". ``unified`` writes files of cgroup v2 as they are. ``devices``: None is nothing but the standard devices
    and those of the spec, () is no restriction.
    """

    memory: int | None = field(default=None, converter=optional(_memory), validator=between(MIN_MEMORY, MAX_SIZE, -1))
    memory_swap: int | None = field(
        default=None, converter=optional(_memory), validator=between(MIN_MEMORY, MAX_SIZE, -1)
    )
    memory_reservation: int | None = field(
        default=None, converter=optional(_memory), validator=between(0, MAX_SIZE, -1)
    )
    memory_swappiness: int | None = field(default=None, converter=optional(integer), validator=between(0, 100))
    oom_kill_disable: bool | None = field(default=None, converter=optional(flag))
    cpus: float | None = field(default=None, converter=optional(_cpus))
    cpu_quota: int | None = field(
        default=None, converter=optional(integer), validator=between(1000, 2**44, -1, unit="µs")
    )
    cpu_period: int | None = field(
        default=None, converter=optional(integer), validator=between(1000, 1_000_000, unit="µs")
    )
    cpu_shares: int | None = field(default=None, converter=optional(integer), validator=between(2, 262144))
    cpu_burst: int | None = field(default=None, converter=optional(integer), validator=between(0, 2**44, unit="µs"))
    cpu_idle: bool | None = field(default=None, converter=optional(flag))
    cpu_rt_runtime: int | None = field(
        default=None, converter=optional(integer), validator=between(0, 2**44, -1, unit="µs")
    )
    cpu_rt_period: int | None = field(default=None, converter=optional(integer), validator=between(1, 2**44, unit="µs"))
    cpuset_cpus: str | None = field(default=None, converter=optional(normalize_ids))
    cpuset_mems: str | None = field(default=None, converter=optional(normalize_ids))
    pids: int | None = field(default=None, converter=optional(integer), validator=between(1, MAX_PIDS, -1))
    block_io: BlockIO | None = field(default=None, converter=optional(_block_io))
    hugepage_limits: Mapping[str, int] = field(default=EMPTY, converter=_huge_pages)
    rdma: Mapping[str, RdmaLimit] = field(default=EMPTY, converter=_rdma)
    network_class_id: int | None = field(default=None, converter=optional(integer), validator=between(0, UINT32))
    network_priorities: Mapping[str, int] = field(default=EMPTY, converter=_priorities)
    unified: Mapping[str, str] = field(default=EMPTY, converter=_unified)
    devices: tuple[DeviceRule, ...] | None = field(default=None, converter=optional(_device_rules))

    def _check(self) -> None:
        memory, swap, reservation = self.memory, self.memory_swap, self.memory_reservation
        if swap not in (None, -1):
            if memory is None or memory == -1:
                raise SpecError("memory_swap", swap, "is set without a limit of memory", "set memory as well")
            if swap < memory:
                problem = f"is below memory ({memory}), which it includes"
                raise SpecError("memory_swap", swap, problem, "raise it, or set it equal to memory for no swap")
        if reservation is not None and memory not in (None, -1) and reservation > memory:
            raise SpecError("memory_reservation", reservation, f"is above memory ({memory})", "lower it")
        if self.cpus is not None and (self.cpu_quota is not None or self.cpu_period is not None):
            other = "cpu_period" if self.cpu_quota is None else "cpu_quota"
            raise SpecError("cpus", self.cpus, f"says the same as {other}", "give one of the two")
        quota = self.quota
        if quota not in (None, -1) and self.cpu_burst is not None and self.cpu_burst > quota:
            raise SpecError("cpu_burst", self.cpu_burst, f"is above the quota of {quota} µs", "lower it")

    @property
    def quota(self) -> int | None:
        """Microseconds of processor time per `period`, from ``cpus`` or ``cpu_quota``; -1: unlimited."""
        return self.cpu_quota if self.cpus is None else round(self.cpus * CPU_PERIOD)

    @property
    def period(self) -> int | None:
        """The period of the quota in microseconds; None when neither is given."""
        return CPU_PERIOD if self.quota is not None and self.cpu_period is None else self.cpu_period
