"""Subordinate ids: the ranges that /etc/subuid and /etc/subgid grant a user, subuid(5) and subgid(5)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from execdrivers import kernel

__all__ = ["Range", "free_range", "granted", "tool", "tool_problem", "user_name"]

_FILES = {"uid": "/etc/subuid", "gid": "/etc/subgid"}
#: The first of the ids that systemd sets apart for containers (its documentation, "Users, Groups, UIDs and GIDs").
_FIRST_FREE = 0x80000
_STEP = 65536


class Range(NamedTuple):
    """``size`` ids from ``start`` on."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """One past the last."""
        return self.start + self.size


def granted(kind: str, user: str | int) -> tuple[Range, ...]:
    """The ranges of ``kind`` "uid" or "gid" that a user has, by name or by number, in the order of the file."""
    names = {str(user)}
    if isinstance(user, int):
        names.add(user_name(user))
    return tuple(range_ for owner, range_ in _entries(kind) if owner in names)


def free_range(size: int = _STEP) -> Range:
    """Ids for containers of a machine that has granted none: the same each time, and nobody else's by those files.

    They begin where systemd sees the ids of containers.
    """
    taken = [range_ for kind in _FILES for _, range_ in _entries(kind)]
    start = _FIRST_FREE
    while any(start < other.end and other.start < start + size for other in taken):
        start += _STEP
    return Range(start, size)


def user_name(uid: int) -> str:
    """The name of a user; the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _entries(kind: str) -> Sequence[tuple[str, Range]]:
    try:
        with open(_FILES[kind], encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal() and int(fields[2]):
            entries.append((fields[0], Range(int(fields[1]), int(fields[2]))))
    return entries


def tool(kind: str) -> str | None:
    """The path of newuidmap(1) or newgidmap(1), which give a user namespace these ids; None: not installed."""
    for directory in (*os.environ.get("PATH", os.defpath).split(":"), "/usr/bin"):
        path = f"{directory}/new{kind}map"
        if directory.startswith("/") and os.access(path, os.X_OK):
            return path
    return None


def tool_problem(kind: str, ranges: Sequence[Range]) -> tuple[str, str] | None:
    """Why the tool cannot give these ids, which are granted, and what would fix it; None: it can."""
    path = tool(kind)
    if path is None:
        return f"new{kind}map is not installed", "install uidmap (shadow-utils)"
    if _no_new_privileges():
        return f"no_new_privs is set, which keeps new{kind}map from its rights", "start the calling program without it"
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return f"{path} lies on a file system that is mounted nosuid", "mount it without"
    if not os.stat(path).st_mode & stat.S_ISUID and "security.capability" not in os.listxattr(path):
        return f"{path} has no rights of its own", f"as root: chmod u+s {path}"
    if not all(any(own.start <= r.start and r.end <= own.end for own in _own(kind)) for r in ranges):
        reason = f"the calling program's own user namespace does not have the ids that /etc/sub{kind} grants"
        return reason, f"grant ids of /proc/self/{kind}_map"
    return None


def _no_new_privileges() -> bool:
    return kernel.status()["NoNewPrivs"] == "1"


def _own(kind: str) -> list[Range]:
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        return [Range(int(inside), int(size)) for inside, _, size in map(str.split, file)]
