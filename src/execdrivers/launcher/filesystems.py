"""Mounts and device nodes of a spec as operations: for launchers that make a container's file system, or a part of it.

The functions are pure and their results kept: most containers of a program have the same mounts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from functools import lru_cache

from execdrivers import defaults
from execdrivers.cgroups import CgroupDir
from execdrivers.launcher.operations import MOUNT_ATTRIBUTES, Operation, operation
from execdrivers.launcher.trees import Tree
from execdrivers.spec import ContainerSpec, Device, Mount

__all__ = [
    "HOST_ROOT_MOUNTS",
    "cgroup_mounts",
    "cleared",
    "device",
    "hidden_paths",
    "mount",
    "mounts",
    "standard_devices",
    "tree",
]

#: Private places over the host's root when no rootfs is given.
HOST_ROOT_MOUNTS = (
    Mount(destination="/tmp", type="tmpfs", source="tmpfs", options=("nosuid", "nodev", "mode=1777")),
    Mount(destination="/run", type="tmpfs", source="tmpfs", options=("nosuid", "nodev", "mode=755")),
)

_ATIME = frozenset({"relatime", "noatime", "strictatime"})
_NODE_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def mounts(spec: ContainerSpec) -> tuple[Mount, ...]:
    """The default mounts and the spec's. Those at /sys are left out where the rootfs has no place for them."""
    merged = defaults.mounts(spec)
    if not spec.default_mounts or spec.ephemeral or os.path.isdir(f"{spec.rootfs}/sys"):
        return merged
    given = {mount.destination for mount in spec.mounts}
    return tuple(m for m in merged if m.destination in given or not (m.destination + "/").startswith("/sys/"))


@lru_cache(maxsize=512)
def mount(given: Mount, *, nodev: bool, rootless: bool) -> tuple[Operation, ...]:
    """Any mount but one of cgroups. With ``nodev`` it gets that attribute even unasked."""
    options = given.parse_options()
    attributes = _attributes(given, nodev=nodev)
    clear = cleared(options.set, options.clear)
    propagation = (options.propagation or "").removeprefix("r")
    if given.type == "bind":
        below = set(options.recursive_set)
        if nodev and options.recursive_bind and "nodev" in attributes and "nodev" not in options.recursive_clear:
            below.add("nodev")  # a node made in a mount further down is to be as dead
        recursive = (tuple(sorted(below)), cleared(options.recursive_set, options.recursive_clear))
        whole = int(options.recursive_bind or rootless)
        return (operation("bind", given.source, given.destination, whole, attributes, clear, *recursive, propagation),)
    if options.tmpcopyup:
        named = any(option.startswith(("mode=", "uid=", "gid=")) for option in options.data)
        made = operation(
            "copy_up", given.source or "tmpfs", given.destination, attributes, int(not named), options.data
        )
    else:
        made = operation("mount", given.type, given.source or given.type, given.destination, attributes, options.data)
    if not propagation:
        return (made,)
    return made, operation("set_attributes", given.destination, 0, (), (), propagation)


def cleared(set: frozenset[str], clear: frozenset[str]) -> tuple[str, ...]:
    """The attributes to be cleared: with a mode of access times goes the old one, as mount_setattr(2) demands."""
    return tuple(name for name in MOUNT_ATTRIBUTES if name in clear or (name in _ATIME and name in set))


def tree(given: Mount, *, nodev: bool) -> tuple[Tree, tuple[Operation, ...]]:
    """A bind mount for the caller to take hold of, and what is still to be done once it is attached."""
    bind, *rest = mount(given, nodev=nodev, rootless=False)
    source, _, recursive, set, clear, recursive_set, recursive_clear, propagation = bind.args
    return Tree(
        source=source,
        recursive=bool(recursive),
        set=set,
        clear=clear,
        recursive_set=recursive_set,
        recursive_clear=recursive_clear,
        propagation=propagation,
    ), tuple(rest)


def _attributes(given: Mount, *, nodev: bool) -> tuple[str, ...]:
    options = given.parse_options()
    attributes = tuple(name for name in MOUNT_ATTRIBUTES if name in options.set)
    # /dev becomes nodev once it has its nodes; in a devpts nobody can make any.
    exempt = given.destination == "/dev" or given.type == "devpts" or "nodev" in options.clear
    return (*attributes, "nodev") if nodev and not exempt and "nodev" not in attributes else attributes


def cgroup_mounts(given: Mount, own: Sequence[CgroupDir], *, v1: bool, nodev: bool) -> list[Operation]:
    """The container's own cgroups and no others, whatever its cgroup namespace is: as runc, by bind mounts."""
    attributes = _attributes(given, nodev=nodev)

    def bind(cgroup: CgroupDir, destination: str) -> Operation:
        return operation("bind", cgroup.path, destination, 0, attributes, (), (), (), "")

    if not v1:
        return [bind(cgroup, given.destination) for cgroup in own]
    writable = tuple(name for name in attributes if name != "ro")
    result = [operation("mount", "tmpfs", "cgroup", given.destination, writable, ("mode=755",))]
    for cgroup in own:
        if cgroup.version == 1:
            name = cgroup.mount_point.rsplit("/", 1)[-1]
            result.append(bind(cgroup, f"{given.destination}/{name}"))
            aliases = (controller for controller in cgroup.controllers if controller != name)
            result.extend(operation("symlink", name, f"{given.destination}/{alias}") for alias in aliases)
    if "ro" in attributes:
        result.append(operation("set_attributes", given.destination, 0, ("ro",), (), ""))
    return result


def standard_devices(spec: ContainerSpec, *, rootless: bool) -> tuple[Operation, ...]:
    """What every container finds in /dev: OCI runtime spec, config-linux, default devices.

    Those whose place a device of the spec's takes are left out.
    """
    return _standard_devices(frozenset(node.path for node in spec.devices), rootless)


@lru_cache(maxsize=64)
def _standard_devices(taken: frozenset[str], rootless: bool) -> tuple[Operation, ...]:
    nodes = [device(node, rootless=rootless) for node in defaults.DEVICES if node.path not in taken]
    links = [operation("symlink", target, path) for path, target in defaults.DEV_LINKS.items() if path not in taken]
    return (*nodes, *links)


def device(node: Device, *, rootless: bool) -> Operation:
    """One device node."""
    if rootless:
        # A user namespace may not make nodes; the host's own, by path, is what it may use.
        return operation("bind", node.path, node.path, 0, ("nosuid", "noexec"), (), (), (), "")
    mode = _NODE_TYPES[node.type] | (node.file_mode if node.file_mode is not None else 0o666)
    return operation("device", node.path, mode, node.major or 0, node.minor or 0, node.uid or 0, node.gid or 0)


def hidden_paths(spec: ContainerSpec) -> tuple[Operation, ...]:
    """Paths that read as empty, and paths that cannot be written to: the spec's, else the default ones."""
    masked = defaults.MASKED_PATHS if spec.masked_paths is None else spec.masked_paths
    return _hidden(masked, defaults.READONLY_PATHS if spec.readonly_paths is None else spec.readonly_paths)


@lru_cache(maxsize=64)
def _hidden(masked: tuple[str, ...], readonly: tuple[str, ...]) -> tuple[Operation, ...]:
    return (*(operation("mask", path) for path in masked), *(operation("readonly", path) for path in readonly))
