"""What the kernel tells of itself and of this program, in /proc and /sys. For drivers."""

from __future__ import annotations

import os

__all__ = ["capabilities", "read", "status", "version"]


def read(path: str, default: str = "") -> str:
    """A file of the kernel's, without the end of its line; ``default`` where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return default


def status() -> dict[str, str]:
    """Key → value of /proc/self/status: proc_pid_status(5)."""
    with open("/proc/self/status", encoding="utf-8", errors="surrogateescape") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def capabilities(which: str = "CapEff") -> int:
    """The mask of one of this program's sets of capabilities, which are named as in `status`: CapEff, CapBnd …"""
    return int(status()[which], 16)


def version(release: str = "") -> tuple[int, int]:
    """Major and minor number of a kernel's release, as "6.1.0-25-amd64"; of this one's if none is given."""
    major, minor = (release or os.uname().release).replace("-", ".").split(".")[:2]
    return int(major), int("".join(char for char in minor if char.isdigit()) or 0)
