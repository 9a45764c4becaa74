"""Differences between drivers that are as they should be, each with its reason. All others fail the tests."""

from __future__ import annotations

import os
import re

import attrs

__all__ = ["ABSENT", "EXPLAINED", "Explained", "features_behind"]

_PROC = "mount.proc"
_NAMESPACES = {"mnt": "mount", "net": "network"}

#: Observation → the feature without which it may be anything; a regular expression for the whole of its name.
ABSENT: dict[str, str] = {
    r"(host/)?capabilities/.*|status/Cap.*|host/CapBnd|try nice -5|securebits": "capabilities",
    r"((status|host)/NoNewPrivs|no_new_privs)": "no-new-privileges",
    r"seccomp|(status|host)/Seccomp.*": "seccomp",
    r"dev(/.*)?|try (open|write|statfs|stat) /dev.*": "mount.tmpfs",
    r"apparmor|oom_score_adj|proc|processes|cgroup/.*|status/.*|namespace/.*|fd/.*|try \w+ /proc.*": _PROC,
    r"mounts|mount/.*": "namespace.mount",
    # What mknod(2) makes is dead where everything is mounted nodev.
    r"try open /tmp/.*": "namespace.mount",
    r"hostname|domainname|env/HOSTNAME": "namespace.uts",
    r"interfaces": "namespace.network",
    r"pid|ppid|try kill 1 0": "namespace.pid",
    r"host/pids": "pids",
    r"host/root": "namespace.mount",
}


def features_behind(observation: str) -> set[str]:
    """The features without which it may differ."""
    found = {feature for pattern, feature in ABSENT.items() if re.fullmatch(pattern, observation)}
    kind = re.fullmatch(r"(?:host/)?namespace/(\w+)", observation)
    return found | ({f"namespace.{_NAMESPACES.get(kind[1], kind[1])}"} if kind else set())


@attrs.frozen
class Explained:
    """Where a driver may differ: all three are regular expressions that have to match the whole."""

    driver: str
    spec: str
    observation: str
    reason: str
    #: Whether it can be seen on this host.
    here: bool = True

    def concerns(self, driver: str) -> bool:
        """Whether it is about that driver."""
        return re.fullmatch(self.driver, driver) is not None

    def matches(self, driver: str, spec: str, observation: str) -> bool:
        """Whether it explains that difference."""
        return all(
            re.fullmatch(pattern, text)
            for pattern, text in ((self.driver, driver), (self.spec, spec), (self.observation, observation))
        )


_DEVICE_CGROUP = (
    "the runtime keeps devices away by the device cgroup, which every container of it has, where native mounts all "
    "but its devices nodev: what mknod(2) makes is as dead, and the standard devices can be made again"
)

EXPLAINED = (
    Explained(
        "chroot",
        ".*",
        "groups|host/Groups",
        "setgroups(2) never with an empty list, since some releases of Python would then keep the caller's "
        "(CVE-2023-6507): the user's own group stands in it, which it has anyway",
    ),
    Explained(
        "chroot", "killed-pid1", "exit/.*", "without a pid namespace it is no pid 1, and its own SIGKILL kills it"
    ),
    Explained("oci", ".*", "mount/.*/nodev", _DEVICE_CGROUP),
    Explained("oci", ".*", "try open /(tmp|mnt/bound)/(null|kmsg|disk|loop)", _DEVICE_CGROUP),
    Explained(
        "oci",
        ".*",
        "dev|dev/core",
        "runc makes the link to /proc/kcore where the kernel has that file",
        here=not os.path.exists("/proc/kcore"),
    ),
    Explained(
        "oci|lxc",
        "cgroup-host|all-host",
        "cgroup/.*",
        "a runtime and LXC make a cgroup in each hierarchy, native only where there is a limit to set: with the host's "
        "cgroup namespace its path is seen",
    ),
    Explained(
        "oci",
        "cgroup|privileged",
        "mounts|mount//sys/fs/cgroup/systemd/.*|try list /sys/fs/cgroup",
        "a runtime shows hierarchies without controllers too",
        here=os.path.exists("/sys/fs/cgroup/systemd"),
    ),
    Explained(
        "oci",
        "cgroup",
        "mount//sys/fs/cgroup/.*options",
        "stricter: of cgroup v1 a runtime mounts each hierarchy nosuid and noexec, asked or not",
        here=not os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
    ),
    Explained(
        "oci",
        ".*",
        "try open /proc/(keys|timer_list)",
        "a hidden file is the container's /dev/null, which anybody may open, and on native the host's, which here root "
        "alone may: both read as empty",
        here=os.stat("/dev/null").st_mode & 0o777 != 0o666,
    ),
    Explained(
        "oci", "bind-file", "left/ROOTFS/mnt/one", "the file that runc makes to mount on has mode 755, native's 644"
    ),
    Explained(
        "oci",
        "tmpfs-bare",
        "try stat /data",
        "without a mode= of the spec runc gives a tmpfs the mode of the directory that it covers, the kernel 1777",
    ),
    Explained(
        "oci",
        "masked",
        "try (chmod|chown) /etc/passwd .*",
        "a hidden file is the container's /dev/null, which root there may change, and on native the host's, read-only",
    ),
    Explained(
        "oci",
        "tmpfs",
        "refused(/.*)?",
        "runc before 1.2 gives a tmpfs the mode of the directory that it covers: the driver refuses another",
    ),
    Explained(
        "oci", "mounts-(none|only-these)", "refused", "no runtime starts without /proc and /dev/null in the container"
    ),
)
