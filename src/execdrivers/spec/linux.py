"""Namespaces, id mappings, clocks, sysctls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal

import attrs

from execdrivers.errors import SpecError
from execdrivers.spec._convert import (
    UINT32,
    Value,
    between,
    each,
    each_value,
    fail,
    field,
    instance,
    integer,
    name,
    nearest,
    number_text,
    text,
)
from execdrivers.spec._kernel import NAMESPACES

__all__ = ["IdMapping", "TimeOffset"]


@attrs.frozen(eq=False, repr=False)
class IdMapping(Value):
    """``size`` ids from ``container_id`` on are, on the host, those from ``host_id`` on."""

    container_id: int = field(converter=integer, validator=between(0, UINT32 - 1))
    host_id: int = field(converter=integer, validator=between(0, UINT32 - 1))
    size: int = field(converter=integer, validator=between(1, UINT32))

    def _check(self) -> None:
        if max(self.container_id, self.host_id) + self.size > UINT32:
            raise SpecError("size", self.size, "leads beyond the greatest id", f"ids end at {UINT32 - 1}")


def id_mappings(value: Iterable[IdMapping | Mapping[str, Any]]) -> tuple[IdMapping, ...]:
    """Mappings that overlap neither in the container nor on the host."""
    result: tuple[IdMapping, ...] = each(instance(IdMapping), value)
    for side in ("container_id", "host_id"):
        order = sorted(range(len(result)), key=lambda index: int(getattr(result[index], side)))
        for before, after in pairwise(order):
            if getattr(result[before], side) + result[before].size > getattr(result[after], side):
                start = getattr(result[after], side)
                raise SpecError(f"[{after}].{side}", start, f"overlaps with item {before}", "make the ranges disjoint")
    return result


@attrs.frozen(eq=False, repr=False)
class TimeOffset(Value):
    """Seconds and nanoseconds that a clock is ahead (negative: behind) in the container."""

    secs: int = field(default=0, converter=integer, validator=between(-(2**63), 2**63 - 1))
    nanosecs: int = field(default=0, converter=integer, validator=between(0, 999_999_999))


def _clock(value: str) -> str:
    if value not in ("monotonic", "boottime"):
        fail(value, "is not a clock of time_namespaces(7)", nearest(value, ("monotonic", "boottime")))
    return value


def time_offsets(value: Mapping[str, Any]) -> Mapping[str, TimeOffset]:
    """Clock (monotonic, boottime) → `TimeOffset`."""
    return each_value(_clock, instance(TimeOffset), value)


_ALIASES = {"mnt": "mount", "net": "network"}


def _kind(value: str) -> str:
    result = _ALIASES.get(value, value)
    if result not in NAMESPACES:
        fail(value, "is not a kind of namespace", nearest(result, NAMESPACES))
    return result


def _namespace(value: str) -> str:
    value = text(value)
    if value not in ("private", "host") and not value.startswith("/"):
        fail(value, "is not a namespace", "use 'private', 'host', or the absolute path of one to join")
    return value


def namespaces(value: Mapping[str, str]) -> Mapping[str, str]:
    """Kind → "private", "host" or a path."""
    return each_value(_kind, _namespace, value)


_SYSCTL = re.compile(r"[A-Za-z0-9_./:@-]+", re.ASCII)
#: Sysctls of the IPC namespace, ipc_namespaces(7) and mq_overview(7).
_IPC_SYSCTLS = re.compile(r"kernel\.(sem|msg(max|mnb|mni)|shm(all|max|mni|_rmid_forced))|fs\.mqueue\.\w+", re.ASCII)


def _sysctl(value: str) -> str:
    result = value = text(value)
    # As sysctl(8): whichever of the two comes first separates, so that an interface may be called eth0.1.
    if re.match(r"[^./]*/", result):
        result = result.translate(str.maketrans("./", "/."))
    parts = [part.replace("/", ".") for part in result.split(".")]
    if not _SYSCTL.fullmatch(result) or len(parts) < 2 or {"", ".", ".."} & set(parts):
        fail(value, "is not the name of a sysctl", "write it as net.ipv4.ip_forward")
    return result


def _sysctl_value(value: str | int) -> str:
    value = number_text(value)
    if not value.replace("\t", "").isprintable():
        fail(value, "contains a control character", "give one line")
    return value


def sysctls(value: Mapping[str, str | int]) -> Mapping[str, str]:
    """Dotted name → value as written to /proc/sys."""
    return each_value(_sysctl, _sysctl_value, value)


def sysctl_namespace(sysctl: str) -> Literal["network", "ipc"] | None:
    """The kind of namespace that holds the sysctl; None: no namespace the container may have does."""
    if sysctl.startswith("net."):
        return "network"
    return "ipc" if _IPC_SYSCTLS.fullmatch(sysctl) else None


def host_name(value: str) -> str:
    """A host or domain name: 64 characters (uname(2)), labels of 63 (RFC 1035), nothing unprintable."""
    value = name(value)
    if len(value) > 64:
        fail(value, f"has {len(value)} characters", "use at most 64")
    if not value.isascii() or set(value) & set(" /"):
        fail(value, "is not a host name", "use letters, digits, '-' and '.'")
    if not all(1 <= len(label) <= 63 for label in value.split(".")):
        fail(value, "has a label that is empty or longer than 63 characters", "shorten what stands between the dots")
    return value
