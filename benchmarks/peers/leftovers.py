"""Where tools leave what they would leave behind: cgroups, files, mounts. All of it goes with the run."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from pathlib import Path

from benchmarks.scenario import Place
from execdrivers import cgroups

__all__ = ["cgroup_parent", "data_directory", "state_directory", "unmount_below"]

_MNT_DETACH = 2


def cgroup_parent(place: Place) -> str:
    """A cgroup for the peers' own, as a path below each hierarchy's root; removed with the place.

    In a cpuset of v1 what is made below has processors from the start: LXC sees to that only where it is the first.
    """
    layout, name = cgroups.look(), f"{cgroups.parent()}/peers-{os.getpid()}"
    wanted = []
    for point, controllers in layout.mount_points().items():
        if point == layout.v2:
            wanted.append(cgroups.CgroupDir(point, name, (), 2))
        else:
            values = (("cgroup.clone_children", "1"),) if "cpuset" in controllers else ()
            wanted.append(cgroups.CgroupDir(point, name, tuple(controllers), 1, values))
    place.stack.callback(cgroups.remove, cgroups.create(wanted))
    return name


def state_directory(place: Place) -> Path:
    """A directory in memory, as /run is on most machines, for what tools keep there: their state, sockets, mounts.

    Its path is short, as podman's must be, and those of sockets.
    """
    directory = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="bench-")
    place.stack.callback(directory.cleanup)
    place.stack.callback(unmount_below, Path(directory.name))
    return Path(directory.name)


def data_directory(place: Place, name: str) -> Path:
    """A directory on the disk, for images and the like."""
    directory = place.scratch / name
    directory.mkdir()
    place.stack.callback(unmount_below, directory)
    return directory


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
