"""What a runtime enforces on this host, and why it does not the rest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from execdrivers import cgroups
from execdrivers.driver import Problem
from execdrivers.launcher import landlock_features

if TYPE_CHECKING:
    from execdrivers.cgroups import Layout
    from execdrivers_oci.runtime import Runtime

__all__ = ["features"]

#: What every runtime of the OCI specification 1.0 enforces.
_ALWAYS = frozenset(
    """
    rootfs rootfs.readonly
    mount.bind mount.tmpfs mount.proc mount.sysfs mount.devpts mount.mqueue mount.cgroup mount.overlay
    mount.propagation mount.recursive mount.replace-defaults devices masked-paths readonly-paths
    namespace.pid namespace.mount namespace.uts namespace.ipc namespace.network namespace.cgroup
    namespace.host.pid namespace.host.uts namespace.host.ipc namespace.host.network namespace.host.cgroup
    namespace.host.user namespace.host.time namespace.join
    hostname domainname network.none network.host sysctl
    user groups other-users cwd umask tty rlimits capabilities no-new-privileges oom-score-adj
    cgroup.path hooks init exec pause update pids stats events recover detach signal kill-all
    """.split()
)


def features(runtime: Runtime, layout: Layout) -> tuple[frozenset[str], dict[str, Problem]]:
    """Enforced here, and, for what the driver knows and cannot do here, the reasons."""
    enforced = set(_ALWAYS)
    missing: dict[str, Problem] = {}

    def decide(feature: str, reason: str, remedy: str) -> None:
        if reason:
            missing[feature] = Problem(reason, remedy)
        else:
            enforced.add(feature)

    for feature, problem in {**cgroups.features(layout, cgroups.COMMON), **landlock_features()}.items():
        decide(feature, problem.reason if problem else "", problem.remedy if problem else "")
    # On v2 it is a BPF program, and no controller.
    lacking = layout.v1 and "devices" not in layout.v1
    decide("cgroup.devices", "no cgroup hierarchy has the controller devices" if lacking else "", "mount it")
    decide("cgroup.unified", "it is for cgroup v2 alone" if layout.v1 else "", "boot with cgroup v2 alone")
    built = f"{runtime} was built without"
    decide("seccomp", "" if runtime.seccomp else f"{built} seccomp", "install one built with it")
    missing["seccomp.notify"] = Problem(
        "a runtime hands a listener to an agent, not to its caller",
        "name the agent's socket as the profile's listenerPath",
    )
    if not _apparmor_enabled():
        decide("apparmor", "AppArmor is not enabled on this host", "boot with apparmor=1 security=apparmor")
    else:
        decide("apparmor", "" if runtime.apparmor else f"{built} AppArmor", "install one built with it")
    return frozenset(enforced), missing


def _apparmor_enabled() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as file:
            return file.read(1) == "Y" and os.path.exists("/proc/self/attr/apparmor")
    except OSError:
        return False
