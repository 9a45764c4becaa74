"""Looks at the container's root before anything is done: what cannot work is refused, and links are followed here.

LXC mounts on no path that has a symbolic link in it, so a destination is given to it as the real path inside the root;
one that is swapped for a link meanwhile makes the start fail.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from execdrivers.errors import SpecError

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec, Mount

__all__ = ["Place", "check", "make", "place"]

_MAX_LINKS = 40  # as the kernel's own limit
_NAME_IT = "name the real directory inside the rootfs"


@attrs.frozen
class Place:
    """Where a mount goes: a path from the container's root, and whether something is there to mount on."""

    path: str
    exists: bool
    #: Where it is missing on the host: the directory that holds it, the root or one that is bound, and the rest of it.
    missing: tuple[str, str] | None = None


def check(spec: ContainerSpec) -> None:
    """Raise `SpecError` unless the rootfs is a directory with places for the default mounts."""
    root = spec.rootfs or ""
    problem = ""
    try:
        if not stat.S_ISDIR(os.stat(root).st_mode):
            problem = "is not a directory"
    except OSError as error:
        problem = f"cannot be used: {error.strerror}"
    if problem:
        raise SpecError("rootfs", root, problem, "give a directory that holds a root file system")
    if spec.default_mounts and not spec.ephemeral:
        # LXC would make them; nothing is written into the rootfs unasked.
        given = {mount.destination for mount in spec.mounts}
        missing = [path for path in ("/proc", "/dev") if path not in given and not os.path.isdir(root + path)]
        if missing:
            made = " ".join(root + path for path in missing)
            problem = f"has no directory {' and no '.join(missing)}"
            raise SpecError("rootfs", root, problem, f"mkdir {made}, or set ephemeral=True")


def place(root: str, destination: str, field: str, covered: Mapping[str, Mount]) -> Place:
    """Where ``destination`` really is. ``covered``: what is mounted already, and where.

    Raises `SpecError` when nothing can be mounted there.
    """
    if destination == "/":
        raise SpecError(field, destination, "is the root itself", "choose a directory in it")
    pending = [part for part in destination.split("/") if part][::-1]
    inside: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            inside = inside[:-1]
            continue
        here = "/" + "/".join([*inside, part])
        top, mount = _mounted_at(here, covered)
        whole = "/".join([here, *pending[::-1]])
        if mount is not None and mount.type != "bind" and whole != top:
            return _on_new_mount(whole, top, mount, field, destination)
        if here == top:
            inside.append(part)
            continue
        base = root if mount is None else mount.source or ""
        real = base + here[len(top) :]
        try:
            mode = os.lstat(real).st_mode
        except FileNotFoundError:
            if ".." in pending:
                raise SpecError(field, destination, f"leads through {here}, which is not there", _NAME_IT) from None
            return Place(whole, exists=False, missing=(base, whole[len(top) :]))
        except NotADirectoryError:
            problem = f"lies below {os.path.dirname(here)}, which is not a directory"
            raise SpecError(field, destination, problem, "choose another") from None
        if stat.S_ISLNK(mode):
            links += 1
            if links > _MAX_LINKS:
                raise SpecError(field, destination, "is a loop of symbolic links", _NAME_IT)
            target = os.readlink(real)
            inside = [] if target.startswith("/") else inside
            pending.extend([step for step in target.split("/") if step not in ("", ".")][::-1])
        else:
            inside.append(part)
    return Place("/" + "/".join(inside), exists=True)


def _on_new_mount(path: str, top: str, mount: Mount, field: str, destination: str) -> Place:
    """A place on a file system that is not there yet, and so cannot be looked into."""
    inside = path[len(top) :].strip("/").split("/")
    process = mount.type == "proc" and (inside[0] in ("self", "thread-self") or inside[0].isdigit())
    if process or ".." in inside or mount.type == "overlay":
        # LXC would make it through whatever links are there, out of the root as well.
        raise SpecError(field, destination, f"leads through the {mount.type} at {top}", _NAME_IT)
    return Place(path, exists=mount.type != "tmpfs")  # a new tmpfs is empty; nothing can be made in the others


def make(top: str, path: str, *, directory: bool) -> None:
    """Make what is missing of a place, below ``top``, through no symbolic link. Raises OSError.

    LXC would do so too (``create=dir``), but follow links that lead anywhere on the host.
    """
    at = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *above, last = [part for part in path.split("/") if part]
        for part in above if not directory else (*above, last):
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=at)
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        if not directory:
            flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            os.close(os.open(last, flags, 0o644, dir_fd=at))
    finally:
        os.close(at)


def _mounted_at(path: str, covered: Mapping[str, Mount]) -> tuple[str, Mount | None]:
    """The last mount that the path lies on, and where that is."""
    for top in reversed(list(covered)):
        if (path + "/").startswith(top + "/"):
            return top, covered[top]
    return "", None
