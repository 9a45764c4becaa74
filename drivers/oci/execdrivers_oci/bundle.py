"""Compiles a spec into an OCI bundle's ``config.json`` and the launcher's part of the work. Pure but for looks at the
rootfs.

The process that the runtime makes is not the command but the core's launcher, which then executes the command: runtimes
report a command that is missing or has no interpreter in words of their own, on the container's stderr, or, once
started, as an exit of the command; add HOME to its environment; and make its working directory in the rootfs.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import cgroups, defaults, seccomp, users
from execdrivers.errors import SpecError
from execdrivers.launcher import (
    LAUNCHER_PATH,
    Operation,
    capability_sets,
    check_capabilities,
    landlock_guarantee,
    operation,
    process_operations,
)
from execdrivers.spec import Capabilities, CapabilitySets, ContainerSpec, DeviceRule, Resources, Rlimit
from execdrivers_oci import mounts

if TYPE_CHECKING:
    from execdrivers.cgroups import Layout

__all__ = ["Bundle", "cgroup_of", "compile", "resources"]

#: What the launcher does of the standard end of a plan; the rest the runtime has done.
_OWN = frozenset({"rlimit", "umask", "chdir", "landlock", "ready", "exec"})
#: Options in ``driver_options["oci"]``.
_OPTIONS = {"runtime": str, "timeout": (int, float)}


@attrs.frozen
class Bundle:
    """All that a launch needs. ``cgroup`` is a path below each hierarchy's root."""

    config: Mapping[str, Any]
    operations: tuple[Operation, ...]
    cgroup: str
    own_pids: bool
    guarantees: Mapping[str, Any]


def compile(spec: ContainerSpec, id: str, layout: Layout, bounding: int, cgroup: str = "") -> Bundle:
    """The bundle for a spec, for a caller with these capabilities in its bounding set.

    ``cgroup``: the path that it gets, where `cgroup_of` will not do.

    Raises `SpecError` for what does not fit the rootfs, the runtimes or the host.
    """
    _check_options(spec)
    mounts.check_rootfs(spec)
    user = users.resolve(spec.user, spec.rootfs, spec.additional_gids)
    capabilities = _capabilities(spec, user, bounding)
    namespaces = {kind: spec.namespaces.get(kind, "private") for kind in defaults.NAMESPACES}
    cgroup = cgroup or cgroup_of(spec, id)
    own_uts = namespaces["uts"] == "private"
    merged = mounts.compile(spec, nodev="CAP_SYS_ADMIN" not in capabilities.bounding)
    filled = spec.replace(
        rootfs=os.path.realpath(spec.rootfs or "/"),  # runc takes no symbolic link
        user=f"{user.uid}:{user.gid}",
        additional_gids=user.groups,
        env={},  # the launcher needs none
        default_env=False,
        cwd="/",
        rlimits={name: limit for name, limit in spec.rlimits.items() if _raises(name, limit)},
        capabilities=Capabilities(**attrs.asdict(capabilities, recurse=False)),
        default_mounts=False,
        mounts=merged,
        # Else a runtime takes all of the host's mounts out of their groups before it binds any.
        rootfs_propagation="shared" if mounts.shares(merged) else None,
        hostname=spec.hostname or (id[:63] if own_uts else None),
        domainname=None,
        resources=_resources(spec.resources, layout),
        cgroups_path="/" + cgroup,
        init=False,
        driver_options={},
    )
    config = filled.to_oci()
    config["process"]["args"] = [LAUNCHER_PATH]
    for mount in filled.mounts:
        if mount.type == "cgroup" and "ro" in mount.parse_options().set:
            # Of cgroup v1 runc leaves the directory that holds the hierarchies writable.
            config["linux"].setdefault("readonlyPaths", []).append(mount.destination)
    if spec.domainname:  # OCI's own property for it came with 1.1, and with runc 1.2
        config["linux"].setdefault("sysctl", {})["kernel.domainname"] = spec.domainname
    environment = defaults.environment(spec, user.home, spec.hostname or id)
    own = [kind for kind, value in namespaces.items() if value == "private"]
    if spec.network == "host":
        own.remove("network")
    return Bundle(
        config=config,
        operations=tuple(_operations(spec, user, environment)),
        cgroup=cgroup,
        own_pids="pid" in own,
        guarantees={
            "namespaces": sorted(own),
            "user": f"{user.uid}:{user.gid}",
            "rootless": False,
            "capabilities": sorted(capabilities.bounding),
            "no_new_privileges": spec.no_new_privileges is not False,
            "readonly_root": bool(spec.readonly),
            "seccomp": seccomp.origin(spec),
            "apparmor": config["process"].get("apparmorProfile"),
            "landlock": landlock_guarantee(spec.landlock),
            "cgroups": _limits(spec, id, layout, cgroup),
        },
    )


def cgroup_of(spec: ContainerSpec, id: str) -> str:
    """The container's cgroup, as a path below each hierarchy's root."""
    return spec.cgroups_path.strip("/") if spec.cgroups_path else f"{cgroups.parent()}/{id}"


def _operations(spec: ContainerSpec, user: users.User, environment: Mapping[str, str]) -> Iterator[Operation]:
    yield operation("channel")
    if not spec.tty:
        yield operation("stdio")  # so that the runtime's own words are not in the container's stderr
    yield from (item for item in process_operations(spec, user, environment) if item.name in _OWN)


def _check_options(spec: ContainerSpec) -> None:
    for key, value in spec.driver_options.get("oci", {}).items():
        field = f'driver_options["oci"]["{key}"]'
        if key not in _OPTIONS:
            raise SpecError(field, value, "is not an option of this driver", f"known are {', '.join(_OPTIONS)}")
        if not isinstance(value, _OPTIONS[key]) or isinstance(value, bool):  # type: ignore[arg-type]
            raise SpecError(
                field, value, "has the wrong type", "give a name or path" if key == "runtime" else "seconds"
            )
        if key == "timeout" and not 0 < value < 1e6:
            raise SpecError(field, value, "is not a number of seconds", "use 30, for instance")


# --- the process and its limits -----------------------------------------------------------------------------------


def _capabilities(spec: ContainerSpec, user: users.User, bounding: int) -> CapabilitySets:
    """Those that the caller has to give."""
    check_capabilities(spec.capabilities, bounding)
    available = {name for name, number in defaults.ALL_CAPABILITIES.items() if bounding >> number & 1}
    sets = capability_sets(spec.capabilities, root=user.uid == 0)
    return CapabilitySets(**{name: available.intersection(names) for name, names in attrs.asdict(sets).items()})


def _raises(name: str, limit: Rlimit) -> bool:
    """Whether it takes the runtime's privilege; else the launcher sets it, for a runtime may not survive it."""
    number = getattr(resource, name, None)
    if number is None:
        return True
    hard = resource.getrlimit(number)[1]
    return hard != resource.RLIM_INFINITY and not 0 <= limit.hard <= hard


def resources(limits: Resources, layout: Layout) -> dict[str, Any]:
    """Limits in OCI's form, for ``update``: those that are given."""
    filled = _resources(limits, layout)
    spec = ContainerSpec(["-"], rootfs="/", user="0:0", additional_gids=(), default_env=False, resources=filled)
    written: dict[str, Any] = spec.to_oci()["linux"]["resources"]
    del written["devices"]
    return written


def _resources(limits: Resources, layout: Layout) -> Resources:
    """What a runtime would make of silence is said: memory is without swap, so that its limit is the whole truth, and
    no rules for devices are no restriction."""
    if limits.memory is not None and limits.memory_swap is None and layout.swap:
        limits = attrs.evolve(limits, memory_swap=limits.memory)
    return attrs.evolve(limits, devices=(DeviceRule(True),)) if limits.devices == () else limits


def _limits(spec: ContainerSpec, id: str, layout: Layout, cgroup: str) -> dict[str, str]:
    planned = cgroups.plan(spec.resources, id, layout)
    return {f"{c.mount_point}/{cgroup}/{name}": value for c in planned for name, value in c.values}
