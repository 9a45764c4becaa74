"""Limits as directories with values, in the form of the version that the host has each controller in.

Sources: Linux Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst; conversions as in the OCI runtime spec and runc.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers.cgroups.layout import Layout, parent
from execdrivers.driver import Step

if TYPE_CHECKING:
    from execdrivers.spec import Resources

__all__ = ["CgroupDir", "find", "plan", "values"]

_PERIOD = 100_000  # microseconds, as Docker


@attrs.frozen
class CgroupDir:
    """One directory to be made: in which hierarchy, with which values written in this order.

    ``name`` is its path below the hierarchy's root.
    """

    mount_point: str
    name: str
    controllers: tuple[str, ...]
    version: int
    values: tuple[tuple[str, str], ...] = ()
    #: Of the directory once made: another of the same name, made after ours was removed, is none of our business.
    inode: int = 0

    @property
    def path(self) -> str:
        """Absolute path of the directory."""
        return f"{self.mount_point}/{self.name}"

    def step(self) -> Step:
        """As a step of the plan that people see."""
        return Step("cgroup", {"path": self.path, **dict(self.values)})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CgroupDir:
        """Inverse of `attrs.asdict`, also from JSON."""
        listed = {"controllers": tuple(data["controllers"]), "values": tuple((k, v) for k, v in data["values"])}
        return cls(**{**data, **listed})


def plan(
    resources: Resources | None, id: str, layout: Layout, *, track: bool = False, show: bool = False
) -> tuple[CgroupDir, ...]:
    """The cgroups that container ``id`` needs: where something is limited, and no others, but for two cases.

    ``track``: without a pid namespace its processes are found by their cgroup. ``show``: the cgroup file systems are
    mounted inside, and must show its own part of each hierarchy, not the host's.
    """
    wanted = values(resources, layout) if resources is not None else {}
    if track and not (wanted.keys() & layout.v2_controllers):
        wanted.setdefault("freezer" if "freezer" in layout.v1 else "", [])
    for controller in layout.v1 if show else ():
        wanted.setdefault(controller, [])
    if show and not layout.v1:
        wanted.setdefault("", [])
    v1: dict[str, tuple[list[str], list[tuple[str, str]]]] = {}
    v2: tuple[list[str], list[tuple[str, str]]] = ([], [])
    for controller, written in wanted.items():
        mount_point = layout.v1.get(controller)
        names, all_values = v1.setdefault(mount_point, ([], [])) if mount_point else v2
        names.append(controller)
        all_values.extend(written)
    name = f"{parent()}/{id}"
    made = [CgroupDir(point, name, tuple(names), 1, tuple(written)) for point, (names, written) in v1.items()]
    if v2[0]:
        made.append(CgroupDir(layout.v2, name, tuple(name for name in v2[0] if name), 2, tuple(v2[1])))
    return tuple(made)


def values(resources: Resources, layout: Layout) -> dict[str, list[tuple[str, str]]]:
    """Controller → files and what is written to them, in the form of the version that the host has the controller in.

    Of memory, pids, cpu and cpuset, those that something is asked of.
    """
    written = {}
    for controller, convert in _VALUES.items():
        version = 1 if controller in layout.v1 else 2
        if files := convert(resources, version, layout.swap):
            written[controller] = files
    return written


def find(name: str, layout: Layout) -> tuple[CgroupDir, ...]:
    """The directories of that name (a path below the hierarchies' roots) that exist, whoever made them."""
    found = []
    for point, controllers in layout.mount_points().items():
        try:
            inode = os.stat(f"{point}/{name}").st_ino
        except OSError:
            continue
        version = 2 if point == layout.v2 else 1
        found.append(CgroupDir(point, name, tuple(controllers), version, inode=inode))
    return tuple(found)


def _memory(r: Resources, version: int, swap: bool) -> list[tuple[str, str]]:
    values = []
    if r.memory is not None:
        values.append(("memory.limit_in_bytes" if version == 1 else "memory.max", _limit(r.memory, version)))
    # Unset: no swap, so that the memory limit is the whole truth.
    total = r.memory_swap if r.memory_swap is not None else r.memory
    if total is not None and swap:
        if version == 1:
            values.append(("memory.memsw.limit_in_bytes", _limit(total, 1)))
        else:
            only_swap = -1 if total < 0 else total - max(r.memory or 0, 0)
            values.append(("memory.swap.max", _limit(only_swap, 2)))
    if r.memory_reservation is not None:
        values.append(
            ("memory.soft_limit_in_bytes" if version == 1 else "memory.low", _limit(r.memory_reservation, version))
        )
    return values


def _pids(r: Resources, version: int, swap: bool) -> list[tuple[str, str]]:
    return [("pids.max", "max" if r.pids < 0 else str(r.pids))] if r.pids is not None else []


def _cpu(r: Resources, version: int, swap: bool) -> list[tuple[str, str]]:
    period = r.cpu_period or _PERIOD
    quota = round(r.cpus * period) if r.cpus is not None else r.cpu_quota
    values = []
    if version == 1:
        if r.cpu_shares is not None:
            values.append(("cpu.shares", str(r.cpu_shares)))
        if r.cpu_period is not None or r.cpus is not None:
            values.append(("cpu.cfs_period_us", str(period)))
        if quota is not None:
            values.append(("cpu.cfs_quota_us", str(quota)))
    else:
        if r.cpu_shares is not None:
            # [2, 262144] onto [1, 10000], as runc and systemd do
            values.append(("cpu.weight", str(1 + (max(r.cpu_shares, 2) - 2) * 9999 // 262142)))
        if quota is not None or r.cpu_period is not None:
            values.append(("cpu.max", f"{quota if quota is not None and quota > 0 else 'max'} {period}"))
    return values


def _cpuset(r: Resources, version: int, swap: bool) -> list[tuple[str, str]]:
    given = (("cpuset.cpus", r.cpuset_cpus), ("cpuset.mems", r.cpuset_mems))
    return [(name, value) for name, value in given if value is not None]


_VALUES = {"memory": _memory, "pids": _pids, "cpu": _cpu, "cpuset": _cpuset}


def _limit(value: int, version: int) -> str:
    return ("-1" if version == 1 else "max") if value < 0 else str(value)
