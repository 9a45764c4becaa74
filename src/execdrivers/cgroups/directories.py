"""The directories: making them, with values and processes, reading, freezing, killing, removing."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from types import TracebackType

import attrs

from execdrivers.cgroups import bpf
from execdrivers.cgroups.devices import Rule, transition
from execdrivers.cgroups.layout import read
from execdrivers.cgroups.limits import CgroupDir
from execdrivers.errors import LaunchError, OperationError

__all__ = [
    "create",
    "exists",
    "extend",
    "freeze",
    "kill",
    "move",
    "oom_kills",
    "processes",
    "remove",
    "restrict",
    "thaw",
]


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
    except BaseException as error:
        remove(made)
        if isinstance(error, OSError):
            raise _launch_error(error) from error
        raise
    return tuple(made)


def restrict(cgroups: Sequence[CgroupDir]) -> None:
    """Bring the rules of device access into force that are programs (v2); those of v1 are values of files.

    For when its first process has its device nodes, and before it executes its command. Raises `LaunchError`.
    """
    for cgroup in cgroups:
        if cgroup.devices:
            try:
                _attach(cgroup)
            except OSError as error:
                raise _launch_error(error) from error


def _attach(cgroup: CgroupDir) -> None:
    bpf.attach(cgroup.path, [Rule.parse(text) for text in cgroup.devices])


def extend(
    existing: Sequence[CgroupDir], wanted: Sequence[CgroupDir], *, operation: str = "update"
) -> tuple[CgroupDir, ...]:
    """Bring the wanted values into force: in the directories that exist, and in new ones, which are returned.

    Raises `OperationError` of that operation; then no new directory is left.
    """
    with _Told(operation):
        return _extend(existing, wanted)


def _extend(existing: Sequence[CgroupDir], wanted: Sequence[CgroupDir]) -> tuple[CgroupDir, ...]:
    known = {cgroup.path for cgroup in existing}
    for cgroup in wanted:
        if cgroup.path in known:
            _make_usable(cgroup)
            cgroup = _without_interruption(cgroup)
            try:
                _write_values(cgroup)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EBUSY):
                    raise
                # Memory may not exceed memory with swap at any time: which goes first depends on the direction.
                _write_values(attrs.evolve(cgroup, values=cgroup.values[::-1]))
                _write_values(cgroup)
            if cgroup.devices:
                _attach(cgroup)
    made = create([cgroup for cgroup in wanted if cgroup.path not in known])
    try:
        restrict(made)
    except BaseException:
        remove(made)
        raise
    return made


def _without_interruption(cgroup: CgroupDir) -> CgroupDir:
    """The same so written that devices which stay allowed are at no time denied."""
    rules = [value for value in cgroup.values if value[0].startswith("devices.")]
    if not rules:
        return cgroup
    others = [value for value in cgroup.values if value not in rules]
    return attrs.evolve(cgroup, values=(*others, *transition(read(f"{cgroup.path}/devices.list"), rules)))


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
        while True:
            try:
                return os.mkdir(cgroup.path)
            except FileNotFoundError:
                _make_above(cgroup)
    except BaseException:
        _remove_above(cgroup)
        raise


#: Marks a directory that was made on the way to a container's: whoever leaves it empty removes it.
_MARK = "user.execdrivers"


def _make_above(cgroup: CgroupDir) -> None:
    """Make what leads to it. Another program may remove the like at the same time: then it takes another try."""
    for directory in _directories_above(cgroup)[1:]:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
            if not _stays(cgroup, directory):
                os.setxattr(directory, _MARK, b"")


def _remove_above(cgroup: CgroupDir) -> None:
    """Remove what was made on the way to it, as far as it is empty."""
    with contextlib.suppress(OSError):
        for directory in _directories_above(cgroup)[:0:-1]:
            os.getxattr(directory, _MARK)
            os.rmdir(directory)


def _stays(cgroup: CgroupDir, directory: str) -> bool:
    return f"{cgroup.mount_point}/{cgroup.base}/".startswith(f"{directory}/")


def _make_usable(cgroup: CgroupDir) -> None:
    """See to what the hierarchy demands before the first value, or process, can be put there."""
    if cgroup.version == 2:
        missing = set(cgroup.controllers) - set(read(f"{cgroup.path}/cgroup.controllers").split())
        for directory in _directories_above(cgroup) if missing else ():
            if lacking := missing - set(read(f"{directory}/cgroup.subtree_control").split()):
                _write(f"{directory}/cgroup.subtree_control", " ".join(f"+{c}" for c in sorted(lacking)))
    elif "cpuset" in cgroup.controllers:
        for name in ("cpuset.cpus", "cpuset.mems"):  # a v1 cpuset is born empty and takes no process
            for directory in [*_directories_above(cgroup)[1:], cgroup.path]:
                if not read(f"{directory}/{name}"):
                    _write(f"{directory}/{name}", read(f"{os.path.dirname(directory)}/{name}"))
    elif "cpu.rt_runtime_us" in cgroup.written():
        _grant_realtime(cgroup)


def _grant_realtime(cgroup: CgroupDir) -> None:
    """A cgroup can have no more real-time than the one above, where that is ours: see to it that it is enough."""
    wanted = cgroup.written()
    period = int(wanted.get("cpu.rt_period_us", 0)) or int(read(f"{cgroup.path}/cpu.rt_period_us"))
    share = Fraction(max(int(wanted["cpu.rt_runtime_us"]), 0), period)
    directory = os.path.dirname(cgroup.path)
    others = (_realtime(path) for path in _below(directory) if path != cgroup.path)
    with contextlib.suppress(OSError):  # the kernel refuses the container's own value then
        if _stays(cgroup, directory):
            total = share + sum(others, Fraction(0))
            _write(f"{directory}/cpu.rt_runtime_us", str(math.ceil(total * int(read(f"{directory}/cpu.rt_period_us")))))


def _realtime(path: str) -> Fraction:
    try:
        return Fraction(int(read(f"{path}/cpu.rt_runtime_us")), int(read(f"{path}/cpu.rt_period_us")))
    except OSError:
        return Fraction(0)


def _directories_above(cgroup: CgroupDir) -> list[str]:
    """What leads to it from the hierarchy's root, which is the first."""
    parts = cgroup.name.split("/")[:-1]
    return [cgroup.mount_point, *(f"{cgroup.mount_point}/{'/'.join(parts[: n + 1])}" for n in range(len(parts)))]


def _launch_error(error: OSError) -> LaunchError:
    path = str(error.filename or "")
    value = getattr(error, "value", "")
    what = f"cannot write {value!r} to {path}" if value else f"cannot make cgroup {path}"
    return LaunchError(
        f"cgroup: {what}: {error.strerror}",
        step="cgroup",
        path=path,
        errno=error.errno or 0,
        remedy=_remedy(path, error.errno or 0),
    )


def _remedy(path: str, number: int) -> str:
    directory, file = os.path.split(path)
    if file == "cgroup.subtree_control" and number == errno.EBUSY:
        return f"processes are in {directory} itself, which cgroup v2 does not allow: move them to a cgroup below it"
    if file == "cpu.rt_runtime_us" and number == errno.EINVAL:
        return f"it is more than {os.path.dirname(directory)} was granted: raise that one's {file}"
    return {
        errno.EEXIST: "it is there already: rmdir it if it is left over, or use another name",
        errno.EROFS: "the cgroup file system is read-only: run where it is writable, or leave the limits unset",
        errno.EACCES: "run as root, or leave the limits unset",
        errno.ENOENT: "the kernel does not have this file",
        errno.EINVAL: "the kernel does not take this value: check it against the host's CPUs and memory",
        errno.ERANGE: "the host does not have these CPUs or memory nodes",
        errno.E2BIG: "the kernel takes some hundred device rules: give fewer",
        errno.ENODEV: "the host does not have this device",
        errno.EOPNOTSUPP: "the device has neither the I/O scheduler BFQ (/sys/block/*/queue/scheduler) nor io.cost",
        errno.EBUSY: "the processes use more already: choose a higher limit",
    }.get(number, "")


def _write(path: str, value: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode() or b"\n")
        finally:
            os.close(fd)
    except OSError as error:
        error.filename = path
        error.value = value  # type: ignore[attr-defined]
        raise


def oom_kills(cgroups: Sequence[CgroupDir]) -> int:
    """How many processes the kernel has killed for want of memory; 0 without a memory cgroup."""
    for cgroup in cgroups:
        if "memory" in cgroup.controllers and exists(cgroup):
            file = "memory.oom_control" if cgroup.version == 1 else "memory.events"
            with contextlib.suppress(OSError):
                counts = dict(line.split() for line in read(f"{cgroup.path}/{file}").splitlines())
                return int(counts.get("oom_kill", 0))
    return 0


def processes(cgroups: Sequence[CgroupDir]) -> list[int]:
    """Host pids of all processes in the cgroups and below (the first hierarchy speaks for all)."""
    pids: list[int] = []
    pending = [cgroup.path for cgroup in cgroups[:1] if exists(cgroup)]
    while pending:
        path = pending.pop()
        with contextlib.suppress(OSError):
            pids += map(int, read(f"{path}/cgroup.procs").split())
        pending += _below(path)
    return sorted(pids)


def kill(cgroups: Sequence[CgroupDir]) -> None:
    """SIGKILL every process in the cgroups, also those that fork meanwhile."""
    cgroups = list(filter(exists, cgroups))
    for cgroup in cgroups:
        if cgroup.version == 2:
            with contextlib.suppress(OSError):  # gone, or before Linux 5.14: the loop below does it
                _write(f"{cgroup.path}/cgroup.kill", "1")
                return  # the kernel spares none, nor asks AppArmor, and the other hierarchies hold the same processes
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
    """Let every process in them stand still; returns when they do. Raises `OperationError`, and they go on, when one
    does not for ten seconds.
    """
    with _Told("pause"):
        late = [path for path, frozen, _ in _freezers(cgroups) if not _come_to_rest(path, frozen)]
    if late:
        thaw(cgroups)
        place = os.path.dirname(late[0])
        message = f"pause: after {_REST:g} seconds not every process in {place} stands still"
        remedy = "one waits for a disk or a server and cannot be interrupted (state D in ps): see to that"
        raise OperationError(message, operation="pause", errno=errno.ETIMEDOUT, path=late[0], remedy=remedy)


#: Seconds that processes may take to stand still.
_REST = 10.0


def _come_to_rest(path: str, frozen: str) -> bool:
    """v1 tells nobody when it is done, so it is asked again; v2 has its file for it (cgroup.events)."""
    deadline, pause = time.monotonic() + _REST, 0.0002
    _write(path, frozen)
    while not _is_frozen(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
        _write(path, frozen)  # what was forked meanwhile takes another push on v1, and who kills it thaws it
    return True


def _is_frozen(path: str) -> bool:
    if path.endswith("freezer.state"):
        return read(path) == "FROZEN"
    return "frozen 1" in read(f"{os.path.dirname(path)}/cgroup.events").splitlines()


def thaw(cgroups: Sequence[CgroupDir]) -> None:
    """Let them go on; one that is another's by now is passed over. Raises `OperationError`."""
    with _Told("resume"):
        for path, _, thawed in _freezers(list(filter(exists, cgroups))):
            _write(path, thawed)


class _Told:
    """Context manager: what the kernel refuses, as an error of that operation. A class as `recovered._Sensible` is."""

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, LaunchError):  # of a new one
            raise OperationError(
                error.message, operation=self._operation, errno=error.errno or 0, path=error.path, remedy=error.remedy
            ) from error
        if isinstance(error, OSError):
            path, value = str(error.filename or ""), getattr(error, "value", "")
            what = f"cannot write {value!r} to {path}" if value else path
            number = error.errno or 0
            message = f"{self._operation}: {what}: {error.strerror}"
            raise OperationError(
                message, operation=self._operation, errno=number, path=path, remedy=_remedy(path, number)
            ) from error


def exists(cgroup: CgroupDir) -> bool:
    """Whether it is still the directory that was made, and not another of the same name."""
    try:
        return os.stat(cgroup.path).st_ino == cgroup.inode
    except FileNotFoundError:
        return False


def remove(cgroups: Sequence[CgroupDir]) -> None:
    """Remove the directories, those that a container has made below, and empty ones that were made on the way to them.

    Gone already is fine; what is dying is waited for, up to two seconds. One without inode was about to be made, and
    may be another's of the same name: then it goes only if it is empty. Raises `OperationError`.
    """
    for cgroup in cgroups:
        if not cgroup.inode or exists(cgroup):
            try:
                _remove(cgroup.path, below=bool(cgroup.inode))
            except OSError as error:
                number, path = error.errno or 0, str(error.filename or cgroup.path)
                foreign = f"it has processes that are not the container's: end or move those in {path}/cgroup.procs"
                raise OperationError(
                    f"delete: cannot remove cgroup {path}: {error.strerror}",
                    operation="delete", errno=number, path=path, remedy=foreign if number == errno.EBUSY else "",
                ) from error  # fmt: skip
            _remove_above(cgroup)


def _remove(path: str, *, below: bool = True) -> None:
    pause = 0.0005
    while True:
        try:
            return os.rmdir(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EBUSY or pause > 1:
                raise
        for inner in _below(path) if below else ():
            _remove(inner)
        # A killed process is still on its way out; the kernel tells nobody when it is through.
        time.sleep(pause)
        pause *= 2


def _below(path: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []
