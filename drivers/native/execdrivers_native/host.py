"""What the native driver needs to know of the host. Looked up once, changes nothing."""

from __future__ import annotations

import os

import attrs

from execdrivers import apparmor, cgroups, kernel
from execdrivers.cgroups import Layout
from execdrivers.driver import Problem

__all__ = ["MINIMUM_KERNEL", "NEEDS_ROOT", "Host", "look"]

#: mount_setattr(2) came with 5.12; clone3, openat2, close_range and the mount descriptors are older.
MINIMUM_KERNEL = (5, 12)

NEEDS_ROOT = Problem("it takes privilege on this host", "run as root")

_CAP_SETUID, _CAP_SYS_ADMIN = 7, 21


@attrs.frozen
class Host:
    """Facts of the host and of the calling process."""

    kernel: tuple[int, int]
    release: str
    uid: int
    gid: int
    capabilities: int  # effective, as a mask
    bounding: int
    user_namespaces: bool
    cgroups: Layout
    #: All that the kernel knows, as a mask: what the first process of a new user namespace has.
    known_capabilities: int = (1 << 41) - 1
    time_namespaces: bool = True
    #: What AppArmor confines us by, "" without it, and the profile of a container whose spec names none.
    apparmor_label: str = ""
    apparmor_default: str = ""

    @property
    def privileged(self) -> bool:
        """Able to make namespaces without a user namespace."""
        needed = 1 << _CAP_SETUID | 1 << _CAP_SYS_ADMIN
        return self.capabilities & needed == needed

    def cgroup_features(self) -> dict[str, Problem | None]:
        """The features that take cgroups → why they cannot be had; None where they can."""
        layout = self.cgroups
        freezer = layout.problem("freezer" if "freezer" in layout.v1 else "")
        limits = {feature: _or_by_rlimits(feature, lacking) for feature, lacking in cgroups.features(layout).items()}
        some = None if None in limits.values() else limits["cgroup.memory"]
        # Without a pid namespace its processes are found, and held still to be killed, by their cgroup.
        host_pid = freezer if self.privileged else NEEDS_ROOT
        more = {"cgroup.path": some, "cgroup.devices": cgroups.device_rules_problem(layout), "update": some}
        return {**limits, **more, "pause": freezer, "namespace.host.pid": host_pid}


#: What setrlimit(2) can do of it where no cgroup can be had. It is for the caller to choose: a limit of each process is
#: not one of the container, and must not pass for one.
_RLIMITS = {
    "cgroup.memory": "each process: rlimits={'as': …}",
    "cgroup.pids": "the processes of its user: rlimits={'nproc': …}",
    "cgroup.cpu": "each process to so many seconds: rlimits={'cpu': …}",
}


def _or_by_rlimits(feature: str, lacking: Problem | None) -> Problem | None:
    if lacking is None or feature not in _RLIMITS:
        return lacking
    return Problem(lacking.reason, f"{lacking.remedy}; or limit {_RLIMITS[feature]}")


def look() -> Host:
    """The facts now."""
    release = os.uname().release
    status = kernel.status()
    return Host(
        kernel=kernel.version(release),
        release=release,
        uid=os.geteuid(),
        gid=os.getegid(),
        capabilities=int(status["CapEff"], 16),
        bounding=int(status["CapBnd"], 16),
        user_namespaces=kernel.read("/proc/sys/user/max_user_namespaces", "0") != "0"
        and kernel.read("/proc/sys/kernel/unprivileged_userns_clone", "1") != "0",
        cgroups=cgroups.look(),
        known_capabilities=(2 << int(kernel.read("/proc/sys/kernel/cap_last_cap", "40"))) - 1,
        apparmor_label=apparmor.label(),
        apparmor_default=apparmor.default(),
        time_namespaces=os.path.exists("/proc/self/ns/time"),
    )
