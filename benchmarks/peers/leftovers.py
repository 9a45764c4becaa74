"""Where tools leave what they would leave behind: cgroups, files, mounts. All of it goes with the run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import tempfile
from pathlib import Path

from benchmarks.scenario import Place
from execdrivers import cgroups

__all__ = ["cgroup_parent", "short_directory", "unmount_below"]

_MNT_DETACH = 2


def cgroup_parent(place: Place) -> str:
    """A cgroup for the peers' own, as a path below each hierarchy's root; removed with the place."""
    name = f"{cgroups.parent()}/peers-{os.getpid()}"
    place.stack.callback(_remove, name)
    return name


def _remove(name: str) -> None:
    for point in cgroups.look().mount_points():
        for path, _, _ in os.walk(f"{point}/{name}", topdown=False):
            os.rmdir(path)
        with contextlib.suppress(OSError):  # not empty: others have theirs there
            os.rmdir(os.path.dirname(f"{point}/{name}"))


def short_directory(place: Place) -> Path:
    """A directory for what takes no long paths: sockets, and podman. What is mounted there goes with it."""
    directory = tempfile.TemporaryDirectory(dir="/tmp", prefix="bench-")
    place.stack.callback(directory.cleanup)
    place.stack.callback(unmount_below, Path(directory.name))
    return Path(directory.name)


def unmount_below(directory: Path) -> None:
    """Unmount all that is mounted there, the last first. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    for point in reversed(_mount_points()):
        if point.startswith(f"{directory}/") and libc.umount2(os.fsencode(point), _MNT_DETACH):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), point)


def _mount_points() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4]) for line in lines]
