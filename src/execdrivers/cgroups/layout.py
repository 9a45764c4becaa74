"""Where the host has its cgroups, and what its kernel can limit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import attrs

from execdrivers import kernel
from execdrivers.driver import Problem

__all__ = ["Layout", "look", "parent", "problems", "read"]


def parent() -> str:
    """The directory, in each hierarchy, of all our containers' cgroups; it stays.

    It is ``execdrivers``, below the hierarchy's root, unless the environment variable ``EXECDRIVERS_CGROUP_PARENT``
    names another.
    """
    return os.environ.get("EXECDRIVERS_CGROUP_PARENT", "").strip("/") or "execdrivers"


@attrs.frozen
class Layout:
    """Where cgroups are: ``v1`` maps a controller to its hierarchy's mount point, ``v2`` is the unified one's (or "").

    ``v2_controllers`` are those the unified hierarchy offers. ``swap``: the kernel accounts for swap.
    """

    v1: Mapping[str, str]
    v2: str
    v2_controllers: frozenset[str]
    swap: bool
    #: Mount points of v1 hierarchies without a controller (systemd's), which tools make cgroups in as well.
    named: tuple[str, ...] = ()
    #: Mount point → the cgroup below which this program may make its own, where that is not the hierarchy's root: what
    #: was delegated to it. None: nothing was.
    delegated: Mapping[str, str | None] = attrs.field(factory=dict)
    #: What only some kernels have: cpu.burst, cpu.idle, cpu.realtime.
    extras: frozenset[str] = frozenset({"cpu.burst", "cpu.idle", "cpu.realtime"})
    #: What shares block devices by weight: the scheduler "bfq", or "cost" (io.cost, of v2).
    weights: frozenset[str] = frozenset({"bfq", "cost"})
    #: Sizes of huge pages, as hugetlb writes them: 2MB, 1GB.
    huge_pages: frozenset[str] = frozenset({"2MB", "1GB"})

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

    def below(self, mount_point: str) -> str:
        """The directory of all our containers' cgroups, as a path below the hierarchy's root."""
        return f"{self.delegated.get(mount_point) or ''}/{parent()}".strip("/")

    def problem(self, controller: str = "") -> Problem | None:
        """Why this program cannot make cgroups with the controller (none: with v2); None where it can."""
        if controller and not self.version(controller):
            return Problem(f"no cgroup hierarchy has the controller {controller}", self._remedy(controller))
        point = self.v1.get(controller) or self.v2
        if not point:
            return Problem("cgroup v2 is not mounted", "mount -t cgroup2 none /sys/fs/cgroup/unified")
        return _closed(point, self.delegated.get(point, ""))

    def _remedy(self, controller: str) -> str:
        if controller not in {line.split()[0] for line in kernel.read("/proc/cgroups").splitlines()[1:]}:
            return "enable it in the kernel"
        if self.kind == "v2":
            return "have it delegated (cgroup.subtree_control of the cgroups above), or run as root"
        return f"mount it: mount -t cgroup -o {controller} none /sys/fs/cgroup/{controller}"


def _closed(point: str, delegated: str | None) -> Problem | None:
    if delegated is None:
        reason = f"{point} cannot be written to, and no cgroup in it is delegated to this user"
        remedy = (
            "run as root where it is writable, or in a delegated cgroup: systemd-run --user --scope -p Delegate=yes"
        )
        return Problem(reason, remedy)
    place = f"{point}/{delegated}".rstrip("/")
    if not os.access(place, os.W_OK):
        return Problem(f"{place} cannot be written to", "run as root, where it is mounted read-write")
    if delegated and kernel.read(f"{place}/cgroup.type") and kernel.read(f"{place}/cgroup.procs"):
        missing = set(kernel.read(f"{place}/cgroup.controllers").split())
        if missing - set(kernel.read(f"{place}/cgroup.subtree_control").split()):
            reason = f"processes are in {place} itself, which cgroup v2 does not allow beside limits below it"
            return Problem(reason, f"move them a level down: mkdir {place}/main; echo PID >{place}/main/cgroup.procs")
    return None


def look() -> Layout:
    """The layout of this host, as this program's mount namespace shows it."""
    hierarchies = dict(_hierarchies())
    known = {line.split()[0] for line in kernel.read("/proc/cgroups").splitlines()[1:]}
    v1: dict[str, str] = {}
    for point, options in hierarchies.items():
        for controller in options & known:
            v1.setdefault(controller, point)
    v2 = next((point for point, options in hierarchies.items() if not options), "")
    named = tuple(point for point, options in hierarchies.items() if options and point not in v1.values())
    delegated = _delegated({point: names for point, names in hierarchies.items() if not _writable(point)})
    top = f"{v2}/{delegated.get(v2) or ''}"
    controllers = frozenset(kernel.read(f"{top}/cgroup.controllers").split() if v2 else ())
    if "memory" in v1:
        swap = os.path.exists(f"{v1['memory']}/memory.memsw.limit_in_bytes")
    else:
        # The root of v2 has no memory.swap.max; the kernel has accounted for swap by default since 5.8.
        swap = "memory" in controllers and "swapaccount=0" not in kernel.read("/proc/cmdline")
    return Layout(
        v1,
        v2,
        controllers,
        swap,
        named,
        delegated=delegated,
        extras=_extras(v1.get("cpu")),
        weights=_weights(v1.get("blkio"), v2 if "io" in controllers else ""),
        huge_pages=_huge_pages(),
    )


def _hierarchies() -> Iterator[tuple[str, frozenset[str]]]:
    """Mount point → what identifies the hierarchy in /proc/PID/cgroup: controllers, or its name; nothing for v2."""
    for line in kernel.read("/proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2":
            yield fields.split()[4], frozenset()
        elif kind == "cgroup":
            yield fields.split()[4], frozenset(options.split(",")) - {"rw", "ro"}


def _delegated(closed: Mapping[str, frozenset[str]]) -> dict[str, str | None]:
    """Of hierarchies whose root this program may not write to: the topmost cgroup above its own that it may."""
    found: dict[str, str | None] = dict.fromkeys(closed)
    for line in kernel.read("/proc/self/cgroup").splitlines() if closed else ():
        _, names, own = line.split(":", 2)
        wanted = frozenset(names.split(",")) - {""}
        parts = own.strip("/").split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))] if parts[0] else []
        for point, options in closed.items():
            if wanted <= options and bool(wanted) == bool(options):
                # To put processes below it takes both.
                usable = (p for p in above if _writable(f"{point}/{p}") and _writable(f"{point}/{p}/cgroup.procs"))
                found[point] = next(usable, None)
    return found


def _writable(path: str) -> bool:
    return os.access(path, os.W_OK)


def _extras(v1_cpu: str | None) -> frozenset[str]:
    if v1_cpu is not None:
        files = {"cpu.burst": "cpu.cfs_burst_us", "cpu.idle": "cpu.idle", "cpu.realtime": "cpu.rt_runtime_us"}
        return frozenset(name for name, file in files.items() if os.path.exists(f"{v1_cpu}/{file}"))
    # The root of v2 has none of these files; cgroups below it have, since Linux 5.14 and 5.15.
    release = kernel.version()
    since = {"cpu.burst": (5, 14), "cpu.idle": (5, 15)}
    return frozenset(name for name, version in since.items() if release >= version)


def _weights(v1_blkio: str | None, v2: str) -> frozenset[str]:
    if v1_blkio is not None:
        return frozenset({"bfq"} if os.path.exists(f"{v1_blkio}/blkio.bfq.io_service_bytes") else ())
    if not v2:
        return frozenset()
    found = {"cost"} if os.path.exists(f"{v2}/io.cost.qos") else set()
    schedulers = (kernel.read(f"/sys/block/{name}/queue/scheduler") for name in os.listdir("/sys/block"))
    return frozenset(found | ({"bfq"} if any("bfq" in names for names in schedulers) else set()))


def _huge_pages() -> frozenset[str]:
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except OSError:
        return frozenset()
    sizes = (int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names)
    return frozenset(
        f"{kib >> 20}GB" if kib >= 1 << 20 else f"{kib >> 10}MB" if kib >= 1 << 10 else f"{kib}KB" for kib in sizes
    )


def problems(layout: Layout) -> list[Problem]:
    """What keeps a tool that makes cgroups in every hierarchy from doing so."""
    points = layout.mount_points()
    if not points:
        return [Problem("no cgroup file system is mounted", "mount -t cgroup2 none /sys/fs/cgroup")]
    closed = [point for point in points if not os.access(point, os.W_OK)]
    return [Problem(f"{point} is read-only", "mount it read-write") for point in closed]


def read(path: str) -> str:
    """As `kernel.read`, of a file that must be there. Raises OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()
