"""The root and what is mounted: the defaults with the spec's own, and refusals of what a runtime would do otherwise."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import attrs

from execdrivers.errors import SpecError
from execdrivers.launcher import filesystems

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec, Mount
    from execdrivers_oci.runtime import Runtime

__all__ = ["check", "check_rootfs", "compile"]


def check_rootfs(spec: ContainerSpec) -> None:
    """Raise `SpecError` unless it is a directory with what the default mounts need."""
    root = spec.rootfs or ""
    try:
        os.listdir(root)
    except OSError as error:
        remedy = "give a directory that holds a root file system"
        raise SpecError("rootfs", root, f"cannot be used: {error.strerror}", remedy) from None
    if spec.default_mounts:
        # The runtime would make them in the rootfs; nothing is written there unasked.
        given = {mount.destination for mount in spec.mounts}
        missing = [path for path in ("/proc", "/dev") if path not in given and not os.path.isdir(root + path)]
        if missing:
            made = " ".join(root + path for path in missing)
            raise SpecError("rootfs", root, f"has no directory {' and no '.join(missing)}", f"mkdir {made}")


def compile(spec: ContainerSpec, *, nodev: bool) -> tuple[Mount, ...]:
    """All mounts. With ``nodev`` each gets that option even unasked. Raises `SpecError`."""
    mounts = filesystems.mounts(spec)
    for index, mount in enumerate(spec.mounts):
        if mount.type == "bind" and not os.path.lexists(mount.source or ""):
            field = f"mounts[{index}].source"
            raise SpecError(field, mount.source, "does not exist", "make it first, or correct the path")
    # Runtimes do not come up without these, and make device nodes in the rootfs where nothing is mounted on /dev.
    for place, kind in (("/proc", "proc"), ("/dev", "")):
        if not any(mount.destination == place and mount.type.startswith(kind) for mount in mounts):
            listed = [mount.destination for mount in mounts]
            problem = f"have no {place}, without which no runtime makes a container"
            raise SpecError("mounts", listed, problem, f"add Mount({place!r}, {kind or 'tmpfs'!r}), or default_mounts")
    private = map(_with_propagation, mounts)
    return tuple(_with_nodev(mount) if nodev else mount for mount in private)


def shares(mounts: tuple[Mount, ...]) -> bool:
    """Whether what the container mounts in one of them is to appear on the host."""
    return any((mount.parse_options().propagation or "").endswith("shared") for mount in mounts)


def _with_propagation(mount: Mount) -> Mount:
    """Left to itself runc has a bind mount told of what the host mounts later."""
    if mount.type != "bind" or mount.parse_options().propagation:
        return mount
    return attrs.evolve(mount, options=(*mount.options, "rprivate"))


def _with_nodev(mount: Mount) -> Mount:
    """Devices made by an allowed mknod(2) stay dead. In a devpts nobody can make any."""
    if mount.destination == "/dev" or mount.type == "devpts" or {"nodev", "dev"} & set(mount.options):
        return mount
    return attrs.evolve(mount, options=(*mount.options, "nodev"))


def check(spec: ContainerSpec, runtime: Runtime) -> None:
    """Raise `SpecError` for options that this runtime would pass over in silence."""
    before: list[Mount] = []
    for index, mount in enumerate(spec.mounts):
        field = f"mounts[{index}].options"
        for option in mount.options if mount.type == "bind" else ():
            if not runtime.knows_mount_option(option):
                raise SpecError(field, option, f"has no effect on {runtime}", "leave it out, or use driver 'native'")
        wanted = [option for option in mount.options if option.startswith("mode=")]
        if mount.type == "tmpfs" and wanted and not runtime.keeps_tmpfs_mode:
            mode = _mode_of(spec, mount, before)
            if mode is not None and mode != int(wanted[-1][5:], 8):
                problem = f"is not kept by {runtime}, which takes the mode of the directory below: {mode:o}"
                raise SpecError(field, wanted[-1], problem, "chmod or remove that directory, or install a later one")
        before.append(mount)


def _mode_of(spec: ContainerSpec, mount: Mount, before: list[Mount]) -> int | None:
    """The permissions of the directory that the mount will cover; None: there is none, and it will be made."""
    place = f"{spec.rootfs}{mount.destination}"
    for other in before:
        if mount.destination.startswith(other.destination + "/"):
            if other.type != "bind":
                return None
            place = f"{other.source}{mount.destination.removeprefix(other.destination)}"
    try:
        return stat.S_IMODE(os.stat(place).st_mode)
    except OSError:
        return None
