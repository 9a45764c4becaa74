"""What is to be done for a spec, as data: cgroups, bwrap's arguments, and the plan of the launcher that it executes.

bwrap makes the namespaces, the root and /proc. The other mounts are the launcher's: it resolves paths inside the root,
where no link of a hostile rootfs leads out. What it is to bind, bwrap lays below /proc/driver for it. So is /dev,
for bwrap's consists of the host's own nodes, whose mode a container's root could change.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from execdrivers import cgroups, defaults, users
from execdrivers.driver import Plan, Step
from execdrivers.errors import SpecError
from execdrivers.launcher import (
    LAUNCHER_PATH,
    Operation,
    bounding_set,
    capability_sets,
    check_capabilities,
    filesystems,
    joining_capabilities,
    operation,
    process_operations,
)
from execdrivers.spec import ContainerSpec, Mount

__all__ = ["Recipe", "joining", "make"]

#: Kind of namespace that may be the host's → what makes bwrap make one. The launcher makes the cgroup namespace.
_NAMESPACES = {"uts": "--unshare-uts", "ipc": "--unshare-ipc", "network": "--unshare-net", "cgroup": ""}
#: Where sources wait to be bound: every procfs has the directory, and nothing in it is needed.
_SOURCES = "/proc/driver"
#: The launcher's descriptors from here on open the cgroups; those before are its own.
_CGROUP_FD = 6


@attrs.frozen(kw_only=True)
class Recipe:
    """All that a container takes."""

    cgroups: tuple[cgroups.CgroupDir, ...]
    arguments: tuple[str, ...]
    operations: tuple[Operation, ...]
    guarantees: Mapping[str, Any]

    def plan(self) -> Plan:
        """As people see it."""
        made = [cgroup.step() for cgroup in self.cgroups]
        run = Step("run", {"args": list(self.arguments)})
        return Plan(driver="bubblewrap", steps=(*made, run, *(item.step() for item in self.operations)))


def make(spec: ContainerSpec, id: str, layout: cgroups.Layout, *, cgroup: str = "", accounting: bool = False) -> Recipe:
    """The recipe for a spec; nothing is changed by it. ``cgroup``: another name than the id for the cgroups.

    ``accounting`` is as in `CreateRequest`.

    Raises `SpecError` for what does not fit the rootfs or the host.
    """
    for key, value in spec.driver_options.get("bubblewrap", {}).items():
        raise SpecError(f'driver_options["bubblewrap"]["{key}"]', value, "is no option of this driver", "it has none")
    mounts = _mounts(spec)
    sources = {mount: f"{_SOURCES}/{n}" for n, mount in enumerate(mounts) if mount.type == "bind"}
    user = users.resolve(spec.user, spec.rootfs, spec.additional_gids)
    asked = {**spec.namespaces, **({"network": spec.network} if spec.network else {})}
    private = [kind for kind in _NAMESPACES if asked.get(kind) != "host"]
    made = cgroups.plan(spec.resources, cgroup or id, layout, track=True, accounting=accounting)

    def arguments() -> Iterator[str]:
        yield from (shutil.which("bwrap") or "bwrap", "--as-pid-1", "--unshare-pid")
        yield from filter(None, map(_NAMESPACES.__getitem__, private))
        if "uts" in private:
            yield from ("--hostname", spec.hostname or id[:63])
        yield from ("--bind", spec.rootfs, "/") if spec.rootfs else ("--ro-bind", "/", "/")
        yield from ("--proc", "/proc", "--tmpfs", _SOURCES)
        for mount, place in sources.items():
            yield from ("--bind", mount.source or "", place)
        yield from ("--", LAUNCHER_PATH)

    def operations() -> Iterator[Operation]:
        for number, _ in enumerate(made, _CGROUP_FD):
            yield operation("write", f"/proc/self/fd/{number}", "0")
        if "cgroup" in private:  # now, for it shows what lies below where the process is
            yield operation("unshare", ("cgroup",))
        yield operation("channel")
        if not spec.tty:
            yield operation("stdio")
        yield operation("session")
        yield operation("propagation", "private")
        for mount in mounts:
            at_hand = attrs.evolve(mount, source=sources[mount]) if mount in sources else mount
            yield from filesystems.mount(at_hand, nodev=True, rootless=False)
            if mount.destination == "/dev" and mount.type == "tmpfs":
                yield from filesystems.standard_devices(spec, rootless=False)
        for node in spec.devices:
            yield filesystems.device(node, rootless=False)
        yield operation("set_attributes", "/dev", 0, ("nodev",), (), "")  # what mknod(2) makes there is dead
        yield operation("unmount", _SOURCES)
        yield from filesystems.hidden_paths(spec)
        if spec.readonly and spec.rootfs:
            yield operation("set_attributes", "/", 0, ("ro",), (), "")
        yield from _process(spec, user, id)

    return Recipe(
        cgroups=made,
        arguments=tuple(arguments()),
        operations=tuple(operations()),
        guarantees={
            "namespaces": sorted(["pid", "mount", *private]),
            "user": f"{user.uid}:{user.gid}",
            "capabilities": sorted(capability_sets(spec.capabilities, root=user.uid == 0).bounding),
            "no_new_privileges": True,  # bwrap sees to that
            "cgroups": {f"{item.path}/{file}": value for item in made for file, value in item.values},
        },
    )


def joining(spec: ContainerSpec, id: str, namespaces: Sequence[str]) -> tuple[Operation, ...]:
    """The plan of one more process, for a launcher that is started outside."""
    user = users.resolve(spec.user, spec.rootfs, spec.additional_gids)
    process = _process(spec, user, id, first=False)
    joined = operation("join", tuple(namespaces), joining_capabilities(spec, user))
    return (joined, operation("channel"), operation("session"), *process)


def _process(spec: ContainerSpec, user: users.User, id: str, *, first: bool = True) -> Iterator[Operation]:
    environment = defaults.environment(spec, user.home if spec.rootfs else "/tmp", spec.hostname or id)
    available = bounding_set()
    check_capabilities(spec.capabilities, available)
    return process_operations(spec, user, environment, available=available, first=first)


def _mounts(spec: ContainerSpec) -> list[Mount]:
    """Those that the launcher makes. Raises `SpecError` for one that cannot be."""
    for path in ("/", "/proc", "/dev") if spec.rootfs else ():  # nothing is written unasked, nor where links lead
        if not os.path.isdir(f"{spec.rootfs}{path}") or (path != "/" and os.path.islink(f"{spec.rootfs}{path}")):
            raise SpecError("rootfs", spec.rootfs, f"has no directory {path}", f"mkdir {spec.rootfs}{path}")
    for index, mount in enumerate(spec.mounts):
        if mount.type == "bind" and not os.path.lexists(mount.source or ""):
            problem = "does not exist"
            raise SpecError(f"mounts[{index}].source", mount.source, problem, "make it first, or correct the path")
    mounts = [mount for mount in defaults.mounts(spec) if mount.destination != "/proc" or mount in spec.mounts]
    if spec.rootfs is None:
        given = {mount.destination for mount in mounts}
        return [*(mount for mount in filesystems.HOST_ROOT_MOUNTS if mount.destination not in given), *mounts]
    if not os.path.isdir(f"{spec.rootfs}/sys"):  # less is not less safe, and nothing is written unasked
        mounts = [mount for mount in mounts if mount.type != "sysfs" or mount in spec.mounts]
    return mounts
