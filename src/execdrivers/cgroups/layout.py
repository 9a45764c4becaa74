"""Where the host has its cgroups, and what can be limited there."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs

from execdrivers.driver import Problem

__all__ = ["Layout", "features", "look", "parent", "problems", "read"]


def parent() -> str:
    """The directory, in each hierarchy, of all our containers' cgroups; it stays.

    It is ``execdrivers``, below the hierarchy's root, unless the environment variable ``EXECDRIVERS_CGROUP_PARENT``
    names another.
    """
    return os.environ.get("EXECDRIVERS_CGROUP_PARENT", "").strip("/") or "execdrivers"


@attrs.frozen
class Layout:
    """Where cgroups are: ``v1`` maps a controller to its hierarchy's mount point, ``v2`` is the unified one's (or "").

    ``v2_controllers`` are those the unified hierarchy's root offers. ``swap``: the kernel accounts for swap.
    """

    v1: Mapping[str, str]
    v2: str
    v2_controllers: frozenset[str]
    swap: bool
    #: Mount points of v1 hierarchies without a controller (systemd's), which tools make cgroups in as well.
    named: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``v1``, ``v2`` or ``hybrid``."""
        return "v1" if not self.v2 else "hybrid" if self.v1 else "v2"

    def version(self, controller: str) -> int:
        """1 or 2: where the controller is; 0: nowhere."""
        return 1 if controller in self.v1 else 2 if controller in self.v2_controllers else 0

    def mount_points(self) -> dict[str, list[str]]:
        """Mount point → controllers, of every hierarchy."""
        points: dict[str, list[str]] = {}
        for controller, point in self.v1.items():
            points.setdefault(point, []).append(controller)
        points.update({point: [] for point in self.named})
        if self.v2:
            points[self.v2] = sorted(self.v2_controllers)
        return points


def look() -> Layout:
    """The layout of this host, as this program's mount namespace shows it."""
    v1: dict[str, str] = {}
    v2 = ""
    named: list[str] = []
    known = {line.split()[0] for line in _read_or_empty("/proc/cgroups").splitlines()[1:]}
    for line in _read_or_empty("/proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        mount_point = fields.split()[4]
        if kind == "cgroup2":
            v2 = v2 or mount_point
        elif kind == "cgroup":
            for option in options.split(","):
                if option in known:
                    v1.setdefault(option, mount_point)
                elif option.startswith("name="):
                    named.append(mount_point)
    controllers = frozenset(_read_or_empty(f"{v2}/cgroup.controllers").split() if v2 else ())
    if "memory" in v1:
        swap = os.path.exists(f"{v1['memory']}/memory.memsw.limit_in_bytes")
    else:
        # The root of v2 has no memory.swap.max; the kernel has accounted for swap by default since 5.8.
        swap = "memory" in controllers and "swapaccount=0" not in _read_or_empty("/proc/cmdline")
    return Layout(v1, v2, controllers, swap, tuple(named))


#: Feature → the controller that it takes.
_CONTROLLERS = {
    "cgroup.memory": "memory",
    "cgroup.memory-reservation": "memory",
    "cgroup.swap": "memory",
    "cgroup.pids": "pids",
    "cgroup.cpu": "cpu",
    "cgroup.cpu-shares": "cpu",
    "cgroup.cpuset": "cpuset",
}


def features(layout: Layout) -> dict[str, Problem | None]:
    """The features that `plan` serves → why this program cannot have them here; None where it can."""
    return {feature: _problem(feature, controller, layout) for feature, controller in _CONTROLLERS.items()}


def _problem(feature: str, controller: str, layout: Layout) -> Problem | None:
    if not layout.version(controller):
        reason = f"no cgroup hierarchy has the controller {controller}"
        return Problem(reason, "mount it, or enable it in the kernel")
    if feature == "cgroup.swap" and not layout.swap:
        return Problem("the kernel does not account for swap", "boot with swapaccount=1")
    point = layout.v1.get(controller) or layout.v2
    if not os.access(point, os.W_OK):
        return Problem(f"{point} cannot be written to", "run as root, where it is mounted read-write")
    return None


def problems(layout: Layout) -> list[Problem]:
    """What keeps a tool that makes cgroups in every hierarchy from doing so."""
    points = layout.mount_points()
    if not points:
        return [Problem("no cgroup file system is mounted", "mount -t cgroup2 none /sys/fs/cgroup")]
    closed = [point for point in points if not os.access(point, os.W_OK)]
    return [Problem(f"{point} is read-only", "mount it read-write") for point in closed]


def read(path: str) -> str:
    """A file of the kernel's, without the end of its line."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()


def _read_or_empty(path: str) -> str:
    try:
        return read(path)
    except OSError:
        return ""
