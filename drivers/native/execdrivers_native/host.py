"""What the native driver needs to know of the host. Looked up once, changes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs

__all__ = ["MINIMUM_KERNEL", "CgroupLayout", "Host", "look"]

#: mount_setattr(2) came with 5.12; clone3, openat2, close_range and the mount descriptors are older.
MINIMUM_KERNEL = (5, 12)

_CAP_SETUID, _CAP_SYS_ADMIN = 7, 21


@attrs.frozen
class CgroupLayout:
    """Where cgroups are: ``v1`` maps a controller to its hierarchy's mount point, ``v2`` is the unified one's (or "").

    ``v2_controllers`` are those the unified hierarchy's root offers. A hybrid host has both.
    """

    v1: Mapping[str, str]
    v2: str
    v2_controllers: frozenset[str]

    def has(self, controller: str) -> bool:
        """Whether some hierarchy has this controller."""
        return controller in self.v1 or controller in self.v2_controllers


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
    swap_accounting: bool
    cgroups: CgroupLayout

    @property
    def privileged(self) -> bool:
        """Able to make namespaces without a user namespace."""
        needed = 1 << _CAP_SETUID | 1 << _CAP_SYS_ADMIN
        return self.capabilities & needed == needed


def look() -> Host:
    """The facts now."""
    release = os.uname().release
    status = _status()
    cgroups = _cgroups()
    return Host(
        kernel=_version(release),
        release=release,
        uid=os.geteuid(),
        gid=os.getegid(),
        capabilities=int(status["CapEff"], 16),
        bounding=int(status["CapBnd"], 16),
        user_namespaces=_read("/proc/sys/user/max_user_namespaces", "0") != "0"
        and _read("/proc/sys/kernel/unprivileged_userns_clone", "1") != "0",
        swap_accounting=_swap_accounting(cgroups),
        cgroups=cgroups,
    )


def _read(path: str, default: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return default


def _version(release: str) -> tuple[int, int]:
    digits = release.replace("-", ".").split(".")
    return int(digits[0]), int("".join(c for c in digits[1] if c.isdigit()) or 0)


def _status() -> dict[str, str]:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def _cgroups() -> CgroupLayout:
    v1: dict[str, str] = {}
    v2 = ""
    known = {line.split()[0] for line in _read("/proc/cgroups", "").splitlines()[1:]}
    for line in _read("/proc/self/mountinfo", "").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        mount_point = fields.split()[4]
        if kind == "cgroup2":
            v2 = v2 or mount_point
        elif kind == "cgroup":
            for option in options.split(","):
                if option in known:
                    v1.setdefault(option, mount_point)
    controllers = _read(f"{v2}/cgroup.controllers", "").split() if v2 else []
    return CgroupLayout(v1, v2, frozenset(controllers))


def _swap_accounting(cgroups: CgroupLayout) -> bool:
    if "memory" in cgroups.v1:
        return os.path.exists(f"{cgroups.v1['memory']}/memory.memsw.limit_in_bytes")
    # On v2 the root has no memory.swap.max; the kernel has had swap accounting on by default since 5.8.
    return "memory" in cgroups.v2_controllers and "swapaccount=0" not in _read("/proc/cmdline", "")
