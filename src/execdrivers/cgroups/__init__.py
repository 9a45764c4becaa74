"""A container's cgroups. For drivers.

v1 has one hierarchy per controller: a launcher writes itself into each (``tasks``, which for a single thread spares the
kernel's global lock that ``cgroup.procs`` takes). On v2 a process can be born in its cgroup (``CLONE_INTO_CGROUP``). A
hybrid host has both.

layout.py knows where cgroups are, offered.py what of a spec can be had there. As data: convert.py turns limits into
values of files, path.py a ``cgroups_path`` into a place, limits.py both into the directories that a container needs.
devices.py knows what device rules come to, bpf.py makes them the program that they are on v2.
directories.py makes, reads and removes cgroups.
"""

from __future__ import annotations

from execdrivers.cgroups.convert import values
from execdrivers.cgroups.directories import (
    create,
    extend,
    freeze,
    kill,
    move,
    oom_kills,
    processes,
    remove,
    restrict,
    thaw,
)
from execdrivers.cgroups.layout import Layout, look, parent, problems
from execdrivers.cgroups.limits import CgroupDir, find, plan
from execdrivers.cgroups.offered import COMMON, check, device_rules_problem, features

__all__ = [
    "COMMON",
    "CgroupDir",
    "Layout",
    "check",
    "create",
    "device_rules_problem",
    "extend",
    "features",
    "find",
    "freeze",
    "kill",
    "look",
    "move",
    "oom_kills",
    "parent",
    "plan",
    "problems",
    "processes",
    "remove",
    "restrict",
    "thaw",
    "values",
]
