"""Which features of a spec can be had by cgroups on this host, and what in a spec this host cannot do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from execdrivers.cgroups import bpf
from execdrivers.cgroups.layout import Layout
from execdrivers.driver import Problem
from execdrivers.errors import SpecError

if TYPE_CHECKING:
    from execdrivers.spec import Resources
    from execdrivers.spec.resources import BlockIO

__all__ = ["COMMON", "check", "device_rules_problem", "features"]

#: Feature → the names of its controller in v1 and in v2 ("": it has none).
_CONTROLLERS = {
    "cgroup.memory": ("memory", "memory"),
    "cgroup.memory-reservation": ("memory", "memory"),
    "cgroup.swap": ("memory", "memory"),
    "cgroup.memory-swappiness": ("memory", ""),
    "cgroup.oom-kill-disable": ("memory", ""),
    "cgroup.pids": ("pids", "pids"),
    "cgroup.cpu": ("cpu", "cpu"),
    "cgroup.cpu-shares": ("cpu", "cpu"),
    "cgroup.cpu-burst": ("cpu", "cpu"),
    "cgroup.cpu-idle": ("cpu", "cpu"),
    "cgroup.cpu-realtime": ("cpu", ""),
    "cgroup.cpuset": ("cpuset", "cpuset"),
    "cgroup.block-io": ("blkio", "io"),
    "cgroup.hugetlb": ("hugetlb", "hugetlb"),
    "cgroup.rdma": ("rdma", "rdma"),
    "cgroup.net-cls": ("net_cls", ""),
    "cgroup.net-prio": ("net_prio", ""),
    "cgroup.unified": ("", ""),
}
#: Those that a tool which makes cgroups serves as well, whichever it is and on either version.
COMMON = (
    "cgroup.memory",
    "cgroup.memory-reservation",
    "cgroup.swap",
    "cgroup.pids",
    "cgroup.cpu",
    "cgroup.cpu-shares",
    "cgroup.cpuset",
)
#: Features that v2 does not have → why not, and what is there instead.
_V1_ALONE = {
    "cgroup.memory-swappiness": ("cgroup v2 has no swappiness of its own", "limit swap by memory_swap"),
    "cgroup.oom-kill-disable": (
        "cgroup v2 always kills when memory runs out",
        "slow the container down before: unified={'memory.high': …}",
    ),
    "cgroup.cpu-realtime": ("cgroup v2 grants no real-time processor time", "leave it unset"),
    "cgroup.net-cls": ("it is of cgroup v1 alone", "on v2 match the cgroup itself: nft socket cgroupv2"),
    "cgroup.net-prio": ("it is of cgroup v1 alone", "on v2 match the cgroup itself: nft socket cgroupv2"),
}
#: Features that not every kernel has → its name in `Layout.extras`.
_EXTRAS = {"cgroup.cpu-burst": "cpu.burst", "cgroup.cpu-idle": "cpu.idle", "cgroup.cpu-realtime": "cpu.realtime"}


def features(layout: Layout, served: Iterable[str] = tuple(_CONTROLLERS)) -> dict[str, Problem | None]:
    """The features that `values` serves (or these of them) → why this program cannot have them here; None: it can."""
    return {feature: _problem(feature, layout) for feature in served}


def _problem(feature: str, layout: Layout) -> Problem | None:
    v1, v2 = _CONTROLLERS[feature]
    if v1 in layout.v1:
        controller = v1
    elif feature in _V1_ALONE and (layout.kind == "v2" or v1 in layout.v2_controllers):
        return Problem(*_V1_ALONE[feature])
    else:
        controller = v2 if layout.kind == "v2" or v2 in layout.v2_controllers else v1
    if problem := layout.problem(controller):
        return problem
    if feature == "cgroup.swap" and not layout.swap:
        return Problem("the kernel does not account for swap", "boot with swapaccount=1")
    if feature in _EXTRAS and _EXTRAS[feature] not in layout.extras:
        remedy = "run a kernel with RT_GROUP_SCHED" if feature == "cgroup.cpu-realtime" else "run Linux 5.15 or later"
        return Problem("the kernel does not have it", remedy)
    if feature == "cgroup.hugetlb" and not layout.huge_pages:
        return Problem("the kernel has no huge pages", "run one that has")
    return None


def device_rules_problem(layout: Layout) -> Problem | None:
    """Why this program cannot restrict the access to devices here; None where it can."""
    if "devices" in layout.v1:
        problem = layout.problem("devices")
        if problem is None and layout.delegated.get(layout.v1["devices"], ""):
            return Problem("device lists of cgroup v1 take CAP_SYS_ADMIN", "run as root")
        return problem
    if problem := layout.problem():
        return problem
    return (
        None if bpf.supported() else Problem("no BPF program can be loaded", "run as root, on a kernel with CGROUP_BPF")
    )


#: Files of every cgroup of v2 that are limits; the others steer it, which is our business.
_LIMITS_OF_ALL = frozenset({"cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"})


def check(resources: Resources, layout: Layout) -> None:
    """Raise `SpecError` for values that nothing here can enforce; before any side effect. Looks at the host's devices.

    What cannot be had at all is a lacking feature and not looked at again.
    """
    for size, limit in resources.hugepage_limits.items():
        if size not in layout.huge_pages:
            has = ", ".join(sorted(layout.huge_pages))
            raise SpecError(
                f'resources.hugepage_limits["{size}"]', limit, "is of a size that this host has not", f"it has {has}"
            )
    if resources.block_io is not None:
        _check_block_io(resources.block_io, layout)
    for name, value in resources.unified.items():
        _check_unified(name, value, layout)


def _check_block_io(b: BlockIO, layout: Layout) -> None:
    where = "resources.block_io"
    for field, value in (("leaf_weight", b.leaf_weight), *((f, d.leaf_weight) for f, d in _devices(b, "weight"))):
        if value is not None:
            problem = "is of the I/O scheduler CFQ, which Linux has no more since 5.0"
            raise SpecError(f"{where}.{field}", value, problem, "use weight")
    for field, value in (("weight", b.weight), *((f, d.weight) for f, d in _devices(b, "weight"))):
        if value is not None and not layout.weights:
            raise SpecError(
                f"{where}.{field}", value, "takes the I/O scheduler BFQ", "modprobe bfq, or throttle instead"
            )
    for kind in ("weight", "throttle_read_bps", "throttle_write_bps", "throttle_read_iops", "throttle_write_iops"):
        for field, device in _devices(b, kind):
            number = f"{device.major}:{device.minor}"
            found = f"/sys/dev/block/{number}"
            if not os.path.exists(found):
                raise SpecError(f"{where}.{field}", number, "is no block device of this host", "see lsblk")
            if os.path.exists(f"{found}/partition"):
                raise SpecError(f"{where}.{field}", number, "is a partition", "name the whole disk: see lsblk")


def _devices(b: BlockIO, kind: str) -> list[tuple[str, Any]]:
    return [(f"{kind}_device[{n}]", device) for n, device in enumerate(getattr(b, f"{kind}_device"))]


def _check_unified(name: str, value: str, layout: Layout) -> None:
    field = f'resources.unified["{name}"]'
    controller = name.partition(".")[0]
    if controller == "cgroup":
        if name not in _LIMITS_OF_ALL:
            limits = ", ".join(sorted(_LIMITS_OF_ALL))
            raise SpecError(field, value, "is no limit, but how a cgroup is run", f"of these files set {limits} alone")
    elif controller in layout.v1:
        problem = f"is of cgroup v2, and here the controller {controller} is of v1"
        raise SpecError(field, value, problem, "set the field of its own, or boot with cgroup v2 alone")
    elif controller not in layout.v2_controllers:
        has = ", ".join(sorted(layout.v2_controllers)) or "none"
        raise SpecError(
            field, value, f"is of a controller that cgroup v2 does not have here ({controller})", f"it has {has}"
        )
