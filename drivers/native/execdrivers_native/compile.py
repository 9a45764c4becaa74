"""Compiles a spec, and what is known of the host, into the operations that the launcher executes.

Pure: the same spec, id, host and container root give the same plan, and nothing is changed. What only a look at the
file system can tell (does the rootfs exist, who is "www-data") is asked of rootfs.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import cgroups, defaults
from execdrivers.driver import Plan, Step
from execdrivers.errors import SpecError
from execdrivers.features import required
from execdrivers.launcher import (
    Operation,
    capability_sets,
    filesystems,
    landlock_guarantee,
    operation,
    process_operations,
)
from execdrivers.launcher.operations import NAMESPACE_FLAGS
from execdrivers.spec import Mount
from execdrivers_native import rootfs
from execdrivers_native.host import Host

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec, Resources
    from execdrivers.users import User

__all__ = ["NativePlan", "compile", "compile_exec"]

#: Order in which namespaces are listed; "time" and "user" are not made unless asked for or needed.
_DEFAULT_NAMESPACES = ("pid", "mount", "uts", "ipc", "network", "cgroup")
#: Type of mount → the namespace that it shows, and where the host has its own.
_SHOWS = {"sysfs": ("network", "/sys"), "mqueue": ("ipc", "/dev/mqueue")}
#: Who runs when no rootfs is given and no user: nobody, as every distribution numbers it.
_NOBODY = "65534:65534"


@attrs.frozen
class NativePlan:
    """All that a launch needs: cgroups made by the caller, the clone, and the launcher's operations."""

    cgroups: tuple[cgroups.CgroupDir, ...]
    namespaces: tuple[str, ...]
    operations: tuple[Operation, ...]
    guarantees: Mapping[str, Any]

    @property
    def clone_flags(self) -> int:
        """CLONE_NEW* of the clone itself."""
        return sum(NAMESPACE_FLAGS[name] for name in self.namespaces)

    def plan(self) -> Plan:
        """As people see it."""
        clone: dict[str, Any] = {"namespaces": list(self.namespaces)}
        unified = [cgroup.path for cgroup in self.cgroups if cgroup.version == 2]
        if unified:
            clone["cgroup"] = unified[0]
        steps = [cgroup.step() for cgroup in self.cgroups]
        steps.append(Step("clone", clone))
        steps.extend(item.step() for item in self.operations)
        return Plan(driver="native", steps=tuple(steps))


def compile(spec: ContainerSpec, id: str, host: Host) -> NativePlan:
    """The plan for a spec. Raises `SpecError` for what does not fit the rootfs or the host."""
    return _Compiler(spec, id, host).compile()


def compile_exec(
    spec: ContainerSpec, id: str, host: Host, namespaces: Sequence[str], own: str
) -> tuple[Operation, ...]:
    """The operations of one more process, which joins the container's own namespaces.

    ``spec`` is that of the container with the process's part as asked for. The users are those that the rootfs has now;
    ``own`` is the container's, "uid:gid". Raises `SpecError`.
    """
    rootless = "user" in namespaces
    user = rootfs.resolve_user(spec, _wanted_user(spec, host), rootless=rootless)
    if rootless and f"{user.uid}:{user.gid}" != own:
        problem = f"is another than the container's ({own}), and without privilege no other can be had"
        raise SpecError("user", spec.user, problem, "run as root, or leave it unset")
    initial = spec.cpu_affinity.initial if spec.cpu_affinity else None
    return (
        *_oom_score(spec),
        *([operation("affinity", initial)] if initial else []),
        operation("join", tuple(namespaces)),
        operation("channel"),
        operation("session"),
        operation("keyring"),
        *_process(spec, user, id, host, rootless=rootless, first=False),
    )


def _oom_score(spec: ContainerSpec) -> Iterator[Operation]:
    if spec.oom_score_adj is not None:
        yield operation("write", "/proc/self/oom_score_adj", str(spec.oom_score_adj))


def _wanted_user(spec: ContainerSpec, host: Host) -> str | None:
    if spec.user is None and spec.rootfs is None:
        return _NOBODY if host.privileged else f"{host.uid}:{host.gid}"
    return spec.user


def _process(
    spec: ContainerSpec, user: User, id: str, host: Host, *, rootless: bool, first: bool = True
) -> Iterator[Operation]:
    # The host's home directories are not writable here; /tmp is the container's own.
    home = "/tmp" if spec.rootfs is None else user.home
    environment = defaults.environment(spec, home, spec.hostname or id)
    # In a user namespace of one id setgroups(2) is denied, and the ids are mapped as wanted already.
    return process_operations(spec, user, environment, available=host.bounding, set_groups=not rootless, first=first)


class _Compiler:
    """One compilation: what several parts of the plan need to know, and the parts in the order of the plan."""

    def __init__(self, spec: ContainerSpec, id: str, host: Host) -> None:
        self.spec = spec
        self.id = id
        self.host = host
        self.rootless = not host.privileged
        self.user = self._user()
        self.namespaces = self._namespaces()
        self.capabilities = capability_sets(spec.capabilities, root=self.user.uid == 0)
        #: Devices made by an allowed mknod(2) stay dead, unless the container may remount as it likes anyway.
        self.nodev = "CAP_SYS_ADMIN" not in self.capabilities.bounding
        self.mounts = self._mounts()
        cgroups.check(spec.resources, host.cgroups)
        self.cgroups = cgroups.plan(
            self._limits(),
            id,
            host.cgroups,
            path=spec.cgroups_path,
            track="pid" not in self.namespaces,
            show=any(mount.type == "cgroup" for mount in self.mounts),
        )

    def compile(self) -> NativePlan:
        # On v1 the process moves itself, and only then may the cgroup namespace be made, rooted where it is.
        moves = any(cgroup.version == 1 for cgroup in self.cgroups)
        late = ("cgroup",) if moves and "cgroup" in self.namespaces else ()
        operations = [
            *self._identity_maps(),
            *self._join_cgroups(),
            *([operation("unshare", late)] if late else []),
            operation("session"),
            operation("keyring"),
            *self._names(),
            *self._sysctls(),
            *self._root(),
            *self._file_systems(),
            *self._hidden_paths(),
            operation("pivot"),
            *_process(self.spec, self.user, self.id, self.host, rootless=self.rootless),
        ]
        return NativePlan(
            cgroups=self.cgroups,
            namespaces=tuple(name for name in self.namespaces if name not in late),
            operations=tuple(operations),
            guarantees=self._guarantees(),
        )

    # --- who and where

    def _user(self) -> User:
        return rootfs.resolve_user(self.spec, _wanted_user(self.spec, self.host), rootless=self.rootless)

    def _namespaces(self) -> tuple[str, ...]:
        asked = dict(self.spec.namespaces)
        if self.spec.network == "host":
            asked["network"] = "host"
        kinds = [name for name in _DEFAULT_NAMESPACES if asked.get(name, "private") != "host"]
        return (*(("user",) if self.rootless else ()), *kinds)

    # --- the process's surroundings

    def _limits(self) -> Resources | None:
        """What is unlimited takes no cgroup, which without privilege perhaps none could make."""
        limited = any(feature.startswith("cgroup.") for feature in required(self.spec))
        return self.spec.resources if limited or not self.rootless else None

    def _identity_maps(self) -> Iterator[Operation]:
        if not self.rootless:
            return
        # One id each, which needs no privilege: user_namespaces(7).
        yield operation("write", "/proc/self/setgroups", "deny")
        yield operation("write", "/proc/self/uid_map", f"{self.user.uid} {self.host.uid} 1")
        yield operation("write", "/proc/self/gid_map", f"{self.user.gid} {self.host.gid} 1")

    def _join_cgroups(self) -> Iterator[Operation]:
        for cgroup in self.cgroups:
            if cgroup.version == 1:
                yield operation("write", f"{cgroup.path}/tasks", "0")

    def _names(self) -> Iterator[Operation]:
        if "uts" in self.namespaces:
            yield operation("hostname", self.spec.hostname or self.id[:63])
            if self.spec.domainname:
                yield operation("domainname", self.spec.domainname)
        if "network" in self.namespaces:
            yield operation("loopback")

    def _sysctls(self) -> Iterator[Operation]:
        # /proc/sys shows the writer's own namespaces, so the host's /proc, which nobody can have swapped, will do.
        for name, value in self.spec.sysctls.items():
            yield operation("write", "/proc/sys/" + name.replace(".", "/"), value)
        yield from _oom_score(self.spec)

    # --- the file system

    def _root(self) -> Iterator[Operation]:
        spec = self.spec
        yield operation("propagation", "private")
        nodev = ("nodev",) if self.nodev else ()
        path = rootfs.real_path(spec)
        if spec.ephemeral:
            size = (f"size={spec.ephemeral_size}",) if spec.ephemeral_size else ()
            yield operation("root_overlay", path, nodev, int(self.rootless), ("mode=700", *size))
        elif spec.rootfs is None:
            yield operation("root", "/", 1, ("ro", "nosuid", *nodev))
        else:
            # A user namespace may not take a tree apart whose mounts another one locked together: take it whole.
            yield operation("root", path, int(self.rootless), nodev)

    def _mounts(self) -> tuple[Mount, ...]:
        """The defaults, each replaced by the spec's mount at its destination, then the spec's others."""
        spec = self.spec
        own: list[Mount] = []
        if spec.default_mounts:
            own.extend(rootfs.default_mounts(spec))
            if spec.rootfs is None:
                own.extend(filesystems.HOST_ROOT_MOUNTS)
        rootfs.check(spec, own)
        given = {mount.destination: mount for mount in spec.mounts}
        merged = [given.pop(mount.destination, mount) for mount in own]
        return tuple(filter(None, map(self._at_hand, (*merged, *given.values()))))

    def _at_hand(self, mount: Mount) -> Mount | None:
        """To mount what shows a namespace takes rights in that namespace; without them it is the host's own mount."""
        kind, source = _SHOWS.get(mount.type, ("", ""))
        if not self.rootless or not kind or kind in self.namespaces:
            return mount
        if not os.path.isdir(source):
            return None
        attributes = sorted(mount.parse_options().set)
        return Mount(destination=mount.destination, type="bind", source=source, options=("rbind", *attributes))

    def _file_systems(self) -> Iterator[Operation]:
        for mount in self.mounts:
            if mount.type == "cgroup":
                v1 = bool(self.host.cgroups.v1)
                yield from filesystems.cgroup_mounts(mount, self.cgroups, v1=v1, nodev=self.nodev)
            else:
                yield from filesystems.mount(mount, nodev=self.nodev, rootless=self.rootless)
            if self._is_dev(mount):
                yield from filesystems.standard_devices(rootless=self.rootless)
        for device in self.spec.devices:
            yield filesystems.device(device, rootless=self.rootless)
        if self.nodev and any(map(self._is_dev, self.mounts)):
            yield operation("set_attributes", "/dev", 0, ("nodev",), (), "")

    @staticmethod
    def _is_dev(mount: Mount) -> bool:
        return mount.destination == "/dev" and mount.type == "tmpfs"

    def _hidden_paths(self) -> Iterator[Operation]:
        spec = self.spec
        yield from filesystems.hidden_paths(spec)
        if spec.readonly and spec.rootfs is not None:
            yield operation("set_attributes", "/", 0, ("ro",), (), "")

    # --- the process itself

    def _guarantees(self) -> Mapping[str, Any]:
        spec = self.spec
        caps = self.capabilities
        return {
            "namespaces": sorted(self.namespaces),
            "user": f"{self.user.uid}:{self.user.gid}",
            "rootless": self.rootless,
            "capabilities": sorted(caps.bounding),
            "no_new_privileges": spec.no_new_privileges is not False,
            "readonly_root": bool(spec.readonly) or (spec.rootfs is None and not spec.ephemeral),
            "seccomp": None,
            "apparmor": None,
            "landlock": landlock_guarantee(spec.landlock),
            "cgroups": {f"{c.path}/{name}": value for c in self.cgroups for name, value in c.written().items()},
        }
