"""What concerns a process of a container, the first or a further one, as operations: who it is and what it may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from execdrivers import cgroups, defaults, seccomp
from execdrivers.cgroups import devices
from execdrivers.cgroups.devices import Rule
from execdrivers.launcher import (
    Operation,
    capability_sets,
    joining_capabilities,
    operation,
    process_operations,
)
from execdrivers_native import ids, namespaces, rootfs
from execdrivers_native.host import Host
from execdrivers_native.ids import IdMaps

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec
    from execdrivers.users import User

__all__ = [
    "available",
    "become",
    "compile_exec",
    "confine",
    "exec_device_rules",
    "further_process",
    "inherited_profile",
    "oom_score",
    "process",
    "wanted_user",
]

#: Who runs when no rootfs is given and no user: nobody, as every distribution numbers it.
_NOBODY = "65534:65534"


def compile_exec(spec: ContainerSpec, id: str, host: Host, guarantees: Mapping[str, Any]) -> tuple[Operation, ...]:
    """The operations of one more process, which joins the namespaces of a container with these guarantees.

    ``spec`` is that of the container with the process's part as asked for. The users are those that the rootfs has now.
    Raises `SpecError`.
    """
    return further_process(spec, rootfs.resolve_user(spec, wanted_user(spec, host)), id, host, guarantees)


def further_process(
    spec: ContainerSpec, user: User, id: str, host: Host, guarantees: Mapping[str, Any]
) -> tuple[Operation, ...]:
    """The same for a user who is known."""
    kinds = (*guarantees["namespaces"], *guarantees["joined"])
    identity: tuple[int, int] | None = None
    groups = True
    if "user" in kinds:
        maps = IdMaps.of(guarantees) if "user" in guarantees["namespaces"] else namespaces.maps_of(guarantees["joined"])
        user, groups = ids.fit(spec, user, maps, host)
        identity = maps.root(user, host) if maps else (0, 0)
    initial = spec.cpu_affinity.initial if spec.cpu_affinity else None
    return (
        *oom_score(spec),
        *([operation("affinity", initial)] if initial else []),
        operation("join", kinds, joining_capabilities(spec, user)),
        *confine(_profile_of_more(guarantees, host), spec.selinux_label),
        operation("keyring"),
        *become(identity, groups=groups),
        operation("session"),
        *process(spec, user, id, host, confined="user" in kinds, groups=groups, first=False),
    )


def become(identity: tuple[int, int] | None, *, groups: bool) -> Iterator[Operation]:
    """Root of the user namespace: what it makes is root's, and it has no rights by being root outside."""
    if identity is not None:
        yield operation("identity", *identity, int(groups), ())


def exec_device_rules(spec: ContainerSpec, host: Host, own: Sequence[str]) -> tuple[Rule, ...]:
    """The rules that the container needs before a process joins it that may mount, if no other of it may so far.

    ``own`` are the container's capabilities; of mounts ``nodev`` alone it could rid itself.
    """
    asked = capability_sets(spec.capabilities, root=True).bounding
    if "CAP_SYS_ADMIN" not in asked or "CAP_SYS_ADMIN" in own or not host.privileged:
        return ()
    if spec.resources.devices == () or cgroups.device_rules_problem(host.cgroups):
        return ()
    return devices.rules(spec.resources.devices, devices.nodes(spec.devices))


def oom_score(spec: ContainerSpec) -> Iterator[Operation]:
    """Of the process itself; to lower it takes the host's rights."""
    if spec.oom_score_adj is not None:
        yield operation("write", "/proc/self/oom_score_adj", str(spec.oom_score_adj))


def confine(profile: str, label: str | None) -> Iterator[Operation]:
    """While a procfs can be mounted, whatever becomes of the container's /proc."""
    if profile:
        yield operation("apparmor", profile)
    if label:
        yield operation("selinux", label)


def inherited_profile(host: Host) -> str | None:
    """What AppArmor confines a container by that changes no profile."""
    return host.apparmor_label if host.apparmor_label not in ("", "unconfined") else None


def _profile_of_more(guarantees: Mapping[str, Any], host: Host) -> str:
    """Of one more process: the container's."""
    profile = guarantees["apparmor"]
    return profile if profile and profile != inherited_profile(host) else ""


def wanted_user(spec: ContainerSpec, host: Host) -> str | None:
    """As `execdrivers.users.resolve` takes it: the spec's, else in the host's root nobody, or the caller."""
    if spec.user is None and spec.rootfs is None:
        return _NOBODY if host.privileged else f"{host.uid}:{host.gid}"
    return spec.user


def process(
    spec: ContainerSpec, user: User, id: str, host: Host, *, confined: bool, groups: bool, first: bool = True
) -> Iterator[Operation]:
    """The end of a plan, from the terminal to the command. ``groups``: they can be set."""
    # The host's home directories are not writable here; /tmp is the container's own.
    home = "/tmp" if spec.rootfs is None else user.home
    environment = defaults.environment(spec, home, spec.hostname or id)
    capabilities = capability_sets(spec.capabilities, root=user.uid == 0)
    return process_operations(
        spec,
        user,
        environment,
        available=available(host, confined=confined),
        set_groups=groups,
        first=first,
        seccomp=seccomp.compile(spec, capabilities.bounding),
    )


def available(host: Host, *, confined: bool) -> int:
    """The mask of the capabilities to be given: all there are, in a user namespace of one's own."""
    return host.known_capabilities if confined else host.bounding
