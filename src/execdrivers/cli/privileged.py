"""``--privileged``: docker's preset, spelled out in the spec's own fields.

Afterwards hardly anything holds the container back: it is for containers one trusts as oneself.
"""

from __future__ import annotations

from typing import Any

from execdrivers.cli.mounts import host_devices

__all__ = ["privileged"]

#: These file systems hold no programs and no devices.
_NO_FILES = ("nosuid", "noexec", "nodev")


def privileged() -> dict[str, Any]:
    """Fields of `ContainerSpec`, to be overridden by what the caller says beside ``--privileged``."""
    return {
        "capabilities": {"add": ["ALL"]},
        "no_new_privileges": False,
        "seccomp": "unconfined",
        "apparmor_profile": "unconfined",
        "masked_paths": [],
        "readonly_paths": [],
        "mounts": [
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_NO_FILES, "rw"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*_NO_FILES, "rw"]},
        ],
        "devices": host_devices(),
        "resources": {"devices": []},  # No restriction.
    }
