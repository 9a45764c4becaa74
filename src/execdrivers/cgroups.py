"""A container's cgroups: which directories with which values (data), and the making, reading and removing of them.

For drivers. v1 has one hierarchy per controller: a launcher writes itself into each (``tasks``, which for a single
thread spares the kernel's global lock that ``cgroup.procs`` takes). On v2 a process can be born in its cgroup
(``CLONE_INTO_CGROUP``). A hybrid host has both.
Sources: Linux Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst; conversions as in the OCI runtime spec and runc.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers.driver import Problem, Step
from execdrivers.errors import LaunchError, OperationError

if TYPE_CHECKING:
    from execdrivers.spec import Resources

__all__ = [
    "CgroupDir",
    "Layout",
    "create",
    "extend",
    "features",
    "find",
    "freeze",
    "kill",
    "look",
    "move",
    "oom_kills",
    "parent",
    "plan",
    "processes",
    "remove",
    "thaw",
    "values",
]

_PERIOD = 100_000  # microseconds, as Docker


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


def create(cgroups: Sequence[CgroupDir]) -> tuple[CgroupDir, ...]:
    """Make the directories and write the values; the same with their inodes.

    On an error none is left; raises `LaunchError`, step ``cgroup``.
    """
    made: list[CgroupDir] = []
    try:
        for cgroup in cgroups:
            _mkdir(cgroup)
            made.append(attrs.evolve(cgroup, inode=os.stat(cgroup.path).st_ino))
            _make_usable(cgroup)
            _write_values(cgroup)
    except OSError as error:
        remove(made)
        raise _launch_error(error) from error
    return tuple(made)


def extend(
    existing: Sequence[CgroupDir], wanted: Sequence[CgroupDir], *, operation: str = "update"
) -> tuple[CgroupDir, ...]:
    """Bring the wanted values into force: in the directories that exist, and in new ones, which are returned.

    Raises `OperationError` of that operation; then no new directory is left.
    """
    with _told(operation):
        return _extend(existing, wanted)


def _extend(existing: Sequence[CgroupDir], wanted: Sequence[CgroupDir]) -> tuple[CgroupDir, ...]:
    known = {cgroup.path for cgroup in existing}
    for cgroup in wanted:
        if cgroup.path in known:
            _make_usable(cgroup)
            try:
                _write_values(cgroup)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EBUSY):
                    raise
                # Memory may not exceed memory with swap at any time: which goes first depends on the direction.
                _write_values(attrs.evolve(cgroup, values=cgroup.values[::-1]))
                _write_values(cgroup)
    return create([cgroup for cgroup in wanted if cgroup.path not in known])


def move(cgroups: Sequence[CgroupDir], pids: Callable[[], Sequence[int]]) -> None:
    """Put processes there; ``pids`` is asked until it names no new one. Raises OSError."""
    moved: set[int] = set()
    while fresh := set(pids()) - moved:
        for cgroup in cgroups:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                    _write(f"{cgroup.path}/cgroup.procs", str(pid))
        moved |= fresh


def _write_values(cgroup: CgroupDir) -> None:
    for name, value in cgroup.values:
        _write(f"{cgroup.path}/{name}", value)


def _mkdir(cgroup: CgroupDir) -> None:
    try:
        os.mkdir(cgroup.path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(cgroup.path), exist_ok=True)
        os.mkdir(cgroup.path)


def _make_usable(cgroup: CgroupDir) -> None:
    """See to what the hierarchy demands before the first value, or process, can be put there."""
    above = os.path.dirname(cgroup.path)
    if cgroup.version == 2:
        missing = [c for c in cgroup.controllers if not os.path.exists(f"{cgroup.path}/{c}.{_MARK[c]}")]
        for directory in _directories_from(cgroup.mount_point, above) if missing else ():
            _write(f"{directory}/cgroup.subtree_control", " ".join(f"+{c}" for c in missing))
    elif "cpuset" in cgroup.controllers:
        for name in ("cpuset.cpus", "cpuset.mems"):  # a v1 cpuset is born empty and takes no process
            for directory in [*_directories_from(cgroup.mount_point, above)[1:], cgroup.path]:
                if not _read(f"{directory}/{name}"):
                    _write(f"{directory}/{name}", _read(f"{os.path.dirname(directory)}/{name}"))


def _directories_from(top: str, directory: str) -> list[str]:
    """``top`` and what leads down to ``directory``, included."""
    parts = os.path.relpath(directory, top).split("/")
    return [top] + [f"{top}/{'/'.join(parts[: n + 1])}" for n in range(len(parts))]


#: A file of each v2 controller that is there once the controller is enabled.
_MARK = {"memory": "max", "pids": "max", "cpu": "max", "cpuset": "cpus"}


def _launch_error(error: OSError) -> LaunchError:
    path = str(error.filename or "")
    value = getattr(error, "value", "")
    what = f"cannot write {value!r} to {path}" if value else f"cannot make cgroup {path}"
    remedy = {
        errno.EEXIST: "a cgroup of that name is left over: rmdir it, or use another container name",
        errno.EROFS: "the cgroup file system is read-only: run where it is writable, or leave the limits unset",
        errno.EACCES: "run as root, or leave the limits unset",
        errno.EINVAL: "the kernel does not take this value: check it against the host's CPUs and memory",
        errno.ERANGE: "the host does not have these CPUs or memory nodes",
        errno.EBUSY: "raise the limit",
    }.get(error.errno or 0, "")
    return LaunchError(
        f"cgroup: {what}: {error.strerror}", step="cgroup", path=path, errno=error.errno or 0, remedy=remedy
    )


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()


def _read_or_empty(path: str) -> str:
    try:
        return _read(path)
    except OSError:
        return ""


def _write(path: str, value: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        error.filename = path
        error.value = value  # type: ignore[attr-defined]
        raise


def oom_kills(cgroups: Sequence[CgroupDir]) -> int:
    """How many processes the kernel has killed for want of memory; 0 without a memory cgroup."""
    for cgroup in cgroups:
        if "memory" in cgroup.controllers:
            file = "memory.oom_control" if cgroup.version == 1 else "memory.events"
            with contextlib.suppress(OSError):
                counts = dict(line.split() for line in _read(f"{cgroup.path}/{file}").splitlines())
                return int(counts.get("oom_kill", 0))
    return 0


def processes(cgroups: Sequence[CgroupDir]) -> list[int]:
    """Host pids of all processes in the cgroups and below (the first hierarchy speaks for all)."""
    pids: list[int] = []
    pending = [cgroup.path for cgroup in cgroups[:1]]
    while pending:
        path = pending.pop()
        with contextlib.suppress(OSError):
            pids += map(int, _read(f"{path}/cgroup.procs").split())
        pending += _below(path)
    return sorted(pids)


def kill(cgroups: Sequence[CgroupDir]) -> None:
    """SIGKILL every process in the cgroups, also those that fork meanwhile."""
    cgroups = list(filter(_exists, cgroups))
    for cgroup in cgroups:
        if cgroup.version == 2:
            with contextlib.suppress(OSError):  # gone, or before Linux 5.14: the loop below does it
                _write(f"{cgroup.path}/cgroup.kill", "1")
    with _frozen(cgroups):
        for pid in processes(cgroups):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


@contextlib.contextmanager
def _frozen(cgroups: Sequence[CgroupDir]) -> Iterator[None]:
    """Hold the processes still, so that none forks while the others are being killed."""
    files = _freezers(cgroups)
    with contextlib.suppress(OSError):
        for path, frozen, _ in files:
            _write(path, frozen)
    yield
    with contextlib.suppress(OSError):
        for path, _, thawed in files:
            _write(path, thawed)


def _freezers(cgroups: Sequence[CgroupDir]) -> list[tuple[str, str, str]]:
    """Files with what freezes and what thaws: v1's freezer where there is one, else v2's own."""
    v1 = [c for c in cgroups if c.version == 1 and "freezer" in c.controllers]
    if v1:
        return [(f"{c.path}/freezer.state", "FROZEN", "THAWED") for c in v1]
    return [(f"{c.path}/cgroup.freeze", "1", "0") for c in cgroups if c.version == 2]


def freeze(cgroups: Sequence[CgroupDir]) -> None:
    """Let every process in them stand still; returns when they do. Raises `OperationError`.

    v1 tells nobody when it is done, so it is asked again; v2 has its file for it (cgroup.events).
    """
    with _told("pause"):
        for path, frozen, _ in _freezers(cgroups):
            _write(path, frozen)
            pause = 0.0002
            while not _is_frozen(path):
                time.sleep(pause)
                pause = min(2 * pause, 0.02)
                if path.endswith("freezer.state"):
                    _write(path, frozen)  # what was forked meanwhile takes another push


def _is_frozen(path: str) -> bool:
    if path.endswith("freezer.state"):
        return _read(path) == "FROZEN"
    return "frozen 1" in _read(f"{os.path.dirname(path)}/cgroup.events").splitlines()


def thaw(cgroups: Sequence[CgroupDir]) -> None:
    """Let them go on. Raises `OperationError`."""
    with _told("resume"):
        for path, _, thawed in _freezers(cgroups):
            _write(path, thawed)


@contextlib.contextmanager
def _told(operation: str) -> Iterator[None]:
    """What the kernel refuses, as an error of that operation."""
    try:
        yield
    except LaunchError as error:  # of a new one
        raise OperationError(
            error.message, operation=operation, errno=error.errno or 0, path=error.path, remedy=error.remedy
        ) from error
    except OSError as error:
        path, value = str(error.filename or ""), getattr(error, "value", "")
        what = f"cannot write {value!r} to {path}" if value else path
        remedy = "the processes use more already: choose a higher limit" if error.errno == errno.EBUSY else ""
        message = f"{operation}: {what}: {error.strerror}"
        raise OperationError(message, operation=operation, errno=error.errno or 0, path=path, remedy=remedy) from error


def _exists(cgroup: CgroupDir) -> bool:
    try:
        return os.stat(cgroup.path).st_ino == cgroup.inode
    except FileNotFoundError:
        return False


def remove(cgroups: Sequence[CgroupDir]) -> None:
    """Remove the directories, and those that a container has made below. Gone already is fine; what is dying is waited
    for, up to two seconds."""
    for cgroup in filter(_exists, cgroups):
        _remove(cgroup.path)


def _remove(path: str) -> None:
    pause = 0.0005
    while True:
        try:
            return os.rmdir(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EBUSY or pause > 1:
                raise
        for below in _below(path):
            _remove(below)
        # A killed process is still on its way out; the kernel tells nobody when it is through.
        time.sleep(pause)
        pause *= 2


def _below(path: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []
