"""A container's cgroups. For drivers.

v1 has one hierarchy per controller: a launcher writes itself into each (``tasks``, which for a single thread spares the
kernel's global lock that ``cgroup.procs`` takes). On v2 a process can be born in its cgroup (``CLONE_INTO_CGROUP``). A
hybrid host has both.

layout.py knows where cgroups are, limits.py which directories with which values a container needs (data),
directories.py makes, reads and removes them.
"""

from __future__ import annotations

from execdrivers.cgroups.directories import create, extend, freeze, kill, move, oom_kills, processes, remove, thaw
from execdrivers.cgroups.layout import Layout, features, look, parent, problems
from execdrivers.cgroups.limits import CgroupDir, find, plan, values

__all__ = [
    "CgroupDir",
    "Layout",
    "create",
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
    "thaw",
    "values",
]
