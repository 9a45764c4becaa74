"""Subordinate ids: the ranges that /etc/subuid and /etc/subgid grant a user, subuid(5) and subgid(5)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Range", "free_range", "granted", "tool", "user_name"]

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
