"""Looks at the container's root before anything is done, so that what cannot work is refused with a clear message.

The looks are advice for people; safety does not rest on them, since a rootfs may change meanwhile: the launcher
resolves each path again, confined to the root.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

from execdrivers import defaults, users
from execdrivers.errors import SpecError
from execdrivers.launcher import filesystems

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec, Device, Mount

__all__ = ["Found", "check", "check_device", "look", "resolve_user"]

_MAX_LINKS = 40  # as the kernel's own limit
#: No clock that files are stamped by is coarser, in nanoseconds: one of whole seconds, and the kernel's, of ticks.
_SECONDS, _TICK = 2_000_000_000, 50_000_000


class Found(NamedTuple):
    """What the container's root says to a spec."""

    #: Whom the process runs as.
    user: users.User
    #: Where the root directory is, symbolic links on the way to it followed: a mount cannot be attached to a link.
    path: str
    #: The default mounts that there is a place for.
    mounts: tuple[Mount, ...]


def look(spec: ContainerSpec, user: str | None) -> Found:
    """All of it. Raises `SpecError` for a root that is none, and for names that it does not know."""
    return Found(resolve_user(spec, user), os.path.realpath(spec.rootfs or "/"), _default_mounts(spec))


class Trace(NamedTuple):
    """When what `look` and `check` look at was changed last: as long as that is the same, so is what they find."""

    #: Of the root, /etc, passwd and group: device, inode and time in nanoseconds; None for what is not there.
    files: tuple[tuple[int, int, int] | None, ...]
    #: When it was looked at, in nanoseconds since the epoch.
    seen: int


def trace(root: str) -> Trace:
    """Of a root directory. Raises OSError when there is none."""
    seen, status = time.time_ns(), os.stat(root)
    found = [(status.st_dev, status.st_ino, status.st_ctime_ns)]
    return Trace((*found, *(_changed(f"{root}/{name}") for name in ("etc", "etc/passwd", "etc/group"))), seen)


def _changed(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def tells_all(made: Trace, root: str, mounts: Sequence[Mount]) -> bool:
    """Whether such a trace changes with whatever may change: no symbolic link leads elsewhere, and what is changed
    again has another time, by whatever clock files are stamped."""
    plain = {"etc": stat.S_ISDIR, "etc/passwd": stat.S_ISREG, "etc/group": stat.S_ISREG}
    plain.update((mount.destination.split("/")[1], stat.S_ISDIR) for mount in mounts)
    try:
        return (
            os.path.realpath(root) == root
            and all(is_kind(mode) for name, is_kind in plain.items() if (mode := _mode(f"{root}/{name}")))
            and all(made.seen - file[2] > _grain(file[2]) for file in made.files if file is not None)
        )
    except OSError:
        return False


def _grain(time: int) -> int:
    return _TICK if time % 1_000_000_000 else _SECONDS


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def resolve_user(spec: ContainerSpec, wanted: str | None) -> users.User:
    """Ids for the user. Raises `SpecError` for names the root does not know."""
    if spec.rootfs is not None:
        _check_directory(spec.rootfs)
    return users.resolve(wanted, spec.rootfs or "/", spec.additional_gids)


def _default_mounts(spec: ContainerSpec) -> tuple[Mount, ...]:
    """Docker's default mounts. /sys is left out where the rootfs has no place for it: less is not less safe."""
    if not spec.default_mounts:
        return ()
    if spec.rootfs is None:
        return (*defaults.MOUNTS, *filesystems.HOST_ROOT_MOUNTS)
    if spec.ephemeral or os.path.isdir(spec.rootfs + "/sys"):
        return tuple(defaults.MOUNTS)
    return tuple(mount for mount in defaults.MOUNTS if not (mount.destination + "/").startswith("/sys/"))


def _check_directory(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        reason = {FileNotFoundError: "does not exist", PermissionError: "cannot be looked into"}
        problem = reason.get(type(error), f"cannot be used: {error.strerror}")
        raise SpecError("rootfs", path, problem, "give a directory that holds a root file system") from None
    if not stat.S_ISDIR(mode):
        raise SpecError("rootfs", path, "is not a directory", "unpack it, and give the directory")


def check(spec: ContainerSpec, own: Sequence[Mount]) -> None:
    """Raise `SpecError` for mounts that cannot be: no source, no place, a destination that leads out."""
    given = {mount.destination for mount in spec.mounts}
    if spec.rootfs is not None and not spec.ephemeral:
        _check_places(spec.rootfs, [mount.destination for mount in own if mount.destination not in given])
    covered = {mount.destination for mount in own}
    for index, mount in enumerate(spec.mounts):
        field = f"mounts[{index}]"
        if mount.type == "bind" and not os.path.lexists(mount.source or ""):
            raise SpecError(f"{field}.source", mount.source, "does not exist", "make it first, or correct the path")
        if not _lies_on_one_of(covered, mount.destination):  # else what the rootfs has there is not seen
            _check_destination(spec, mount, f"{field}.destination")
        covered.add(mount.destination)


def _lies_on_one_of(places: Set[str], destination: str) -> bool:
    steps = destination.split("/")
    return any("/".join(steps[:count]) in places for count in range(2, len(steps) + 1))


def _check_places(root: str, destinations: Sequence[str]) -> None:
    """A rootfs must have the directories of the default mounts: the driver writes nothing into it unasked."""
    top = {"/" + destination.split("/")[1] for destination in destinations}
    missing = sorted(path for path in top if not os.path.isdir(root + path))
    if missing:
        commands = " ".join(root + path for path in missing)
        raise SpecError(
            "rootfs", root, f"has no directory {' and no '.join(missing)}", f"mkdir {commands}, or set ephemeral=True"
        )


def check_device(device: Device, field: str) -> None:
    """Raise `SpecError` for a device that the host does not have as it is: in a user namespace no node can be made, and
    the host's own takes its place."""
    remedy = f"make it on the host as {device.path} first, or leave the user namespace out"
    try:
        node = os.stat(device.path)
    except OSError as error:
        problem = f"is not there on the host, whose nodes a user namespace binds ({error.strerror})"
        raise SpecError(f"{field}.path", device.path, problem, remedy) from None
    kinds = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
    numbers = (device.major, device.minor) if device.type != "p" else (0, 0)
    if stat.S_IFMT(node.st_mode) != kinds[device.type] or (
        device.type != "p" and (os.major(node.st_rdev), os.minor(node.st_rdev)) != numbers
    ):
        raise SpecError(f"{field}.path", device.path, "is another device on the host", remedy)
    for name, actual in (("file_mode", stat.S_IMODE(node.st_mode)), ("uid", node.st_uid), ("gid", node.st_gid)):
        if getattr(device, name) not in (None, actual):
            problem = f"cannot be set in a user namespace: the host's node has {actual}"
            raise SpecError(f"{field}.{name}", getattr(device, name), problem, "leave it unset")


def _check_destination(spec: ContainerSpec, mount: Mount, field: str) -> None:
    root = spec.rootfs or "/"
    found = _walk(root, mount.destination, field)
    if not found and spec.rootfs is None and not spec.ephemeral:
        raise SpecError(
            field,
            mount.destination,
            "does not exist on the host, whose root the container sees read-only",
            "mount below /tmp or /run, make the directory on the host, or set ephemeral=True",
        )


def _walk(root: str, destination: str, field: str) -> bool:
    """Follow the destination inside the root; whether it exists. Raises `SpecError` where a link leads out."""
    pending = [part for part in destination.split("/") if part][::-1]
    inside: list[str] = []
    links = 0
    # So many of the pending parts come after all links: if one of those is missing, it can be made.
    own = len(pending) + 1
    while pending:
        part = pending.pop()
        if part == "..":
            if not inside:
                raise _leads_out(field, destination, "climbs above the rootfs")
            inside.pop()
            continue
        path = "/".join([root.rstrip("/"), *inside, part])
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            if len(pending) >= own:
                raise _leads_out(field, destination, "is a symbolic link to what the rootfs does not have") from None
            return False
        except NotADirectoryError:
            raise SpecError(
                field, destination, f"lies below {path}, which is not a directory", "choose another"
            ) from None
        except PermissionError:
            return True  # the kernel will tell
        if not stat.S_ISLNK(mode):
            inside.append(part)
            continue
        links += 1
        own = min(own, len(pending))
        if links > _MAX_LINKS:
            raise _leads_out(field, destination, "is a loop of symbolic links")
        target = os.readlink(path)
        if target.startswith("/"):
            if not pending:
                raise _leads_out(field, destination, f"is a symbolic link out of the rootfs, to {target}")
            inside.clear()
        pending.extend([step for step in target.split("/") if step not in ("", ".")][::-1])
        if inside[:1] == ["proc"] or target.startswith("/proc/"):
            raise _leads_out(field, destination, f"leads through {target}")
    return True


def _leads_out(field: str, destination: str, problem: str) -> SpecError:
    return SpecError(field, destination, problem, "name the real directory inside the rootfs")
