"""What concerns the process: resource limits, scheduling, the user, the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from execdrivers.errors import SpecError
from execdrivers.spec._convert import (
    MAX_ID,
    FrozenDict,
    Value,
    between,
    each,
    each_value,
    fail,
    field,
    integer,
    items,
    name,
    nearest,
    number_text,
    one_of,
    optional,
    text,
    texts,
)
from execdrivers.spec._kernel import RLIMITS
from execdrivers.units import normalize_ids

__all__ = ["CpuAffinity", "IoPriority", "Rlimit", "Scheduler"]

#: RLIM_INFINITY as the kernel has it; stored as -1.
_INFINITY = 2**64 - 1

UNLIMITED = -1


def _limit(value: int | str) -> int:
    if isinstance(value, str):
        stripped = value.strip().lower()
        if stripped in ("unlimited", "infinity", "-1"):
            return UNLIMITED
        if not (stripped.isascii() and stripped.isdigit() and len(stripped) <= 20):
            fail(value, "is not a limit", "use a number or 'unlimited'")
        value = int(stripped)
    value = integer(value)
    if not -1 <= value <= _INFINITY:
        fail(value, "is not a possible limit", "use 0 or more, or -1 (unlimited)")
    return UNLIMITED if value == _INFINITY else value


@attrs.frozen(eq=False, repr=False)
class Rlimit(Value):
    """Soft and hard limit of getrlimit(2), in the resource's own unit; -1 or "unlimited" is infinity."""

    soft: int = field(converter=_limit)
    hard: int = field(converter=_limit)

    def _check(self) -> None:
        if self.hard != UNLIMITED and (self.soft == UNLIMITED or self.soft > self.hard):
            raise SpecError("soft", self.soft, f"is above the hard limit {self.hard}", "raise hard or lower soft")


def _rlimit(value: Any) -> Rlimit:
    if isinstance(value, Rlimit):
        return value
    if isinstance(value, Mapping):
        return Rlimit.from_dict(value)
    if isinstance(value, str):
        soft, colon, hard = value.partition(":")
        return Rlimit(soft, hard if colon else soft)
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            fail(value, "is not a pair", "use [soft, hard]")
        return Rlimit(*value)
    return Rlimit(value, value)


def rlimit_name(value: str) -> str:
    """OCI's name of a resource limit: ``nofile`` → ``RLIMIT_NOFILE``."""
    result = text(value).upper()
    result = result if result.startswith("RLIMIT_") else f"RLIMIT_{result}"
    if result not in RLIMITS:
        fail(value, "is not a resource limit", nearest(result, RLIMITS))
    return result


def rlimits(value: Mapping[str, Any]) -> Mapping[str, Rlimit]:
    """Name (``nofile``, ``RLIMIT_NOFILE``) → limit (number, "soft:hard", [soft, hard], mapping or `Rlimit`)."""
    return each_value(rlimit_name, _rlimit, value)


_POLICIES = ("OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE")
_FLAGS = ("RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX")


def _policy(value: str) -> str:
    result = text(value).upper()
    return result if result.startswith("SCHED_") else f"SCHED_{result}"


def _flag(value: str) -> str:
    result = text(value).upper()
    result = result if result.startswith("SCHED_FLAG_") else f"SCHED_FLAG_{result}"
    known = [f"SCHED_FLAG_{item}" for item in _FLAGS]
    if result not in known:
        fail(value, "is not a scheduling flag", nearest(result, known))
    return result


def _flags(value: Iterable[str]) -> tuple[str, ...]:
    return each(_flag, value)


@attrs.frozen(eq=False, repr=False)
class Scheduler(Value):
    """sched_setattr(2) in OCI's terms; runtime, deadline and period in nanoseconds, for SCHED_DEADLINE only."""

    policy: str = field(converter=_policy, validator=one_of(*(f"SCHED_{item}" for item in _POLICIES)))
    nice: int = field(default=0, converter=integer, validator=between(-20, 19))
    priority: int = field(default=0, converter=integer, validator=between(0, 99))
    flags: tuple[str, ...] = field(default=(), converter=_flags)
    runtime: int = field(default=0, converter=integer, validator=between(0, 2**63 - 1, unit="ns"))
    deadline: int = field(default=0, converter=integer, validator=between(0, 2**63 - 1, unit="ns"))
    period: int = field(default=0, converter=integer, validator=between(0, 2**63 - 1, unit="ns"))

    def _check(self) -> None:
        realtime = self.policy in ("SCHED_FIFO", "SCHED_RR")
        if realtime and not self.priority:
            raise SpecError("priority", self.priority, f"is too small for {self.policy}", "use 1 to 99")
        if self.priority and not realtime:
            raise SpecError("priority", self.priority, f"has no meaning for {self.policy}", "use nice=")
        if self.policy != "SCHED_DEADLINE" and (self.runtime or self.deadline or self.period):
            raise SpecError("policy", self.policy, "takes no runtime, deadline or period", "use SCHED_DEADLINE")


_IO_CLASSES = {
    short: f"IOPRIO_CLASS_{name}"
    for short, name in (
        ("rt", "RT"),
        ("realtime", "RT"),
        ("be", "BE"),
        ("best-effort", "BE"),
        ("idle", "IDLE"),
    )
}


def _io_class(value: str) -> str:
    value = text(value)
    return _IO_CLASSES.get(value.lower(), value)


@attrs.frozen(eq=False, repr=False)
class IoPriority(Value):
    """ioprio_set(2): the class (OCI's name, or ionice(1)'s) and the priority in it, 0 the highest."""

    io_class: str = field(
        converter=_io_class, validator=one_of("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")
    )
    priority: int = field(default=0, converter=integer, validator=between(0, 7))


@attrs.frozen(eq=False, repr=False)
class CpuAffinity(Value):
    """OCI's ``execCPUAffinity``: processors of a command executed in the container, before and after it joins."""

    initial: str | None = field(default=None, converter=optional(normalize_ids))
    final: str | None = field(default=None, converter=optional(normalize_ids))


def args(value: Iterable[str | bytes | os.PathLike[str]]) -> tuple[str, ...]:
    """The command and its arguments; one string is refused, since nothing here splits words or runs a shell."""
    if isinstance(value, (str, bytes)):
        fail(value, "is one string, not a list", 'use shlex.split() or ["sh", "-c", …]')
    result = texts(value)
    if not result:
        fail(value, "is empty", "give the command to run")
    if not result[0]:
        fail(value, "names no command", "give the command as the first item")
    return result


def environment(value: Mapping[str, str] | Iterable[str]) -> Mapping[str, str]:
    """A mapping, or a list of ``NAME=value``, where the last of equal names counts."""
    if not isinstance(value, Mapping):
        return FrozenDict(each(_assignment, value))
    return each_value(_variable, text, value)


def _assignment(value: str) -> tuple[str, str]:
    variable, equals, content = text(value).partition("=")
    if not equals:
        fail(value, "has no '='", f"write {variable + '='!r} for an empty value")
    return _variable(variable), content


def _variable(value: str) -> str:
    value = text(value)
    if not value:
        fail(value, "is an empty name", "name the variable")
    if "=" in value:
        fail(value, "contains '='", "put what follows it into the value")
    return value


def user(value: str | int) -> str:
    """``name``, ``name:group``, ``uid`` or ``uid:gid``, in any mixture."""
    value = name(number_text(value))
    parts = value.split(":")
    if len(parts) > 2:
        fail(value, "has more than one ':'", "write user or user:group")
    for part in parts:
        if not part or part[0] == "-" or set(part) & set(" ,/"):
            fail(value, "is not a user", "write a name, or a uid of 0 or more, and perhaps :group")
        if part.isascii() and part.isdigit() and (len(part) > 10 or int(part) > MAX_ID):
            fail(value, "is too large for a uid or gid", f"use 0 to {MAX_ID}")
    return value


def gids(value: Iterable[int]) -> tuple[int, ...]:
    """Group ids."""
    return each(_gid, value)


def _gid(value: int) -> int:
    between(0, MAX_ID)(None, None, integer(value))
    return value


def umask(value: int | str) -> int:
    """An int, or octal digits."""
    if isinstance(value, str):
        if not value or len(value) > 5 or set(value) - set("01234567"):
            fail(value, "is not an octal number", "write it as 022")
        return int(value, 8)
    return integer(value)


def console_size(value: Iterable[int]) -> tuple[int, int]:
    """Rows and columns."""
    result = each(integer, items(value))
    if len(result) != 2 or not all(1 <= item <= 65535 for item in result):
        fail(value, "is not a terminal size", "use (rows, columns), each 1 to 65535")
    return result[0], result[1]
