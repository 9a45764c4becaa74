"""What a container gets when its spec does not say otherwise. A driver may give less, never more.

Sources, all in Docker's terms: capabilities, mounts, masked and read-only paths from moby's ``oci/defaults.go`` and
``oci/caps`` (the paths as of Docker 28; the per-processor ``thermal_throttle`` directories that it masks besides are
left out, since they differ from host to host); devices and links from the OCI runtime specification, "Default
Devices" and "Dev symbolic links"; the size of /dev/shm and PATH from dockerd.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from execdrivers.spec import Device, Mount
from execdrivers.spec._kernel import CAPABILITIES as ALL_CAPABILITIES

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec

__all__ = [
    "ALL_CAPABILITIES",
    "CAPABILITIES",
    "DEVICES",
    "DEV_LINKS",
    "MASKED_PATHS",
    "MOUNTS",
    "NAMESPACES",
    "PATH",
    "READONLY_PATHS",
    "UNPRIVILEGED_ID",
    "capability_mask",
    "environment",
    "mounts",
]

#: Bounding, permitted and effective set; inheritable and ambient are empty. The mask is 00000000a80425fb.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
)

#: Kinds of namespaces that are private.
NAMESPACES = ("pid", "mount", "uts", "ipc", "network", "cgroup")

#: Hidden: they tell of the host or act on it. Those a kernel does not have are passed over.
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

#: In the order in which they are mounted.
MOUNTS = (
    Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount(
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    Mount("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=67108864")),
    Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)

#: Nodes in /dev; numbers from the kernel's Documentation/admin-guide/devices.txt.
DEVICES = (
    Device("/dev/null", "c", 1, 3, 0o666, 0, 0),
    Device("/dev/zero", "c", 1, 5, 0o666, 0, 0),
    Device("/dev/full", "c", 1, 7, 0o666, 0, 0),
    Device("/dev/random", "c", 1, 8, 0o666, 0, 0),
    Device("/dev/urandom", "c", 1, 9, 0o666, 0, 0),
    Device("/dev/tty", "c", 5, 0, 0o666, 0, 0),
)

#: Symbolic links in /dev → target.
DEV_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/ptmx": "pts/ptmx",
    "/dev/core": "/proc/kcore",
}

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Uid and gid of a command that runs in the host's own root filesystem: nobody's.
UNPRIVILEGED_ID = 65534


def capability_mask(names: Iterable[str]) -> int:
    """The bits of capget(2), and of /proc/PID/status, for some capabilities."""
    return sum(1 << ALL_CAPABILITIES[name] for name in set(names))


def mounts(spec: ContainerSpec) -> tuple[Mount, ...]:
    """All mounts of a container in order: the defaults, a spec's own in the place of the one it replaces, the rest."""
    if not spec.default_mounts:
        return spec.mounts
    own = {mount.destination: mount for mount in spec.mounts}
    merged = tuple(own.pop(mount.destination, mount) for mount in MOUNTS)
    return merged + tuple(own.values())


def environment(spec: ContainerSpec, home: str, hostname: str) -> dict[str, str]:
    """The process's environment: the spec's, and what it lacks of PATH, HOSTNAME, HOME, and TERM with a terminal.

    ``home`` and ``hostname`` are left out where empty.
    """
    env = dict(spec.env)
    if spec.default_env:
        defaults = {"PATH": PATH, "HOSTNAME": hostname, "HOME": home, "TERM": "xterm" if spec.tty else ""}
        for name, value in defaults.items():
            if value:
                env.setdefault(name, value)
    return env
