"""The form of a seccomp profile: OCI's linux.seccomp object, or Docker's, which adds conditions to it.

Sources: OCI runtime specification, config-linux.md, "Seccomp"; seccomp(2); the profiles of moby and containers-common.
Whether the names are system calls that libseccomp knows is looked at when the filter is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from execdrivers.errors import SpecError
from execdrivers.spec._convert import fail, freeze, mapping, nearest
from execdrivers.spec._kernel import CAPABILITIES

__all__ = ["ACTIONS", "ARCHITECTURES", "FLAGS", "OPERATORS", "seccomp"]

#: What a filter may answer, the kernel's order of precedence (seccomp(2)): the first of several wins.
ACTIONS = tuple(
    f"SCMP_ACT_{item}"
    for item in ("KILL_PROCESS", "KILL", "KILL_THREAD", "TRAP", "ERRNO", "NOTIFY", "TRACE", "LOG", "ALLOW")
)
OPERATORS = tuple(f"SCMP_CMP_{item}" for item in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
FLAGS = tuple(f"SECCOMP_FILTER_FLAG_{item}" for item in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))
ARCHITECTURES = tuple(
    f"SCMP_ARCH_{item}"
    for item in (
        "X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 "
        "PPC64LE S390 S390X PARISC PARISC64 RISCV64 SH SHEB"
    ).split()
)

_PROFILE = frozenset(
    "defaultAction defaultErrnoRet defaultErrno architectures archMap flags listenerPath listenerMetadata syscalls "
    "comment".split()
)
_RULE = frozenset("names action errnoRet errno args comment includes excludes".split())
_ARGUMENT = frozenset("index value valueTwo op".split())
_CONDITION = frozenset("caps arches minKernel".split())
#: Actions that carry a number.
_WITH_ERRNO = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": 65535}


def seccomp(value: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
    """ "unconfined", or the profile, of which every part has been looked at."""
    if isinstance(value, str):
        if value != "unconfined":
            fail(value, "is not a seccomp profile", "use 'unconfined' or the profile itself as a mapping")
        return value
    profile: Mapping[str, Any] = freeze(mapping(value))
    _keys(profile, _PROFILE)
    _action(profile, "defaultAction", "defaultErrnoRet")
    _names(profile, "architectures", ARCHITECTURES)
    _names(profile, "flags", FLAGS)
    _listener(profile)
    if "archMap" in profile:
        _each(profile, "archMap", _architecture)
        if profile.get("architectures"):
            raise SpecError("architectures", profile["architectures"], "cannot go with archMap", "use one of the two")
    _each(profile, "syscalls", _rule)
    return profile


def _keys(holder: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in holder:
        if key not in known:
            raise SpecError(str(key), holder[key], "is not a property of a profile here", nearest(str(key), known))


def _each(holder: Mapping[str, Any], key: str, check: Callable[[Mapping[str, Any]], None]) -> None:
    for index, item in _items(holder, key):
        where = f"{key}[{index}]"
        if not isinstance(item, Mapping):
            raise SpecError(where, item, "is not a mapping")
        try:
            check(item)
        except SpecError as error:
            raise error.within(where) from None


def _items(holder: Mapping[str, Any], key: str) -> Iterator[tuple[int, Any]]:
    items = holder.get(key)
    if items is not None and not isinstance(items, tuple):
        raise SpecError(key, items, "is not a list")
    return enumerate(items or ())


def _names(holder: Mapping[str, Any], key: str, known: tuple[str, ...] = ()) -> None:
    for index, item in _items(holder, key):
        if not isinstance(item, str):
            raise SpecError(f"{key}[{index}]", item, "is not a string")
        if known and item not in known:
            raise SpecError(f"{key}[{index}]", item, "is not known to seccomp", nearest(item, known))


def _number(holder: Mapping[str, Any], key: str, most: int) -> None:
    value = holder.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most):
        raise SpecError(key, value, f"is not a number from 0 to {most}")


def _action(holder: Mapping[str, Any], key: str, errno: str) -> None:
    action = holder.get(key)
    if action not in ACTIONS:
        raise SpecError(key, action, "is not a seccomp action", nearest(str(action), ACTIONS))
    if holder.get(errno) is not None and action not in _WITH_ERRNO:
        raise SpecError(errno, holder[errno], f"cannot go with {action}", "leave it out, or use SCMP_ACT_ERRNO")
    _number(holder, errno, _WITH_ERRNO.get(action, 0))


def _listener(profile: Mapping[str, Any]) -> None:
    path, data = profile.get("listenerPath"), profile.get("listenerMetadata")
    if path is not None and (not isinstance(path, str) or not path.startswith("/") or "\0" in path):
        raise SpecError("listenerPath", path, "is not an absolute path", "name the agent's socket on the host")
    if data is not None and not isinstance(data, str):
        raise SpecError("listenerMetadata", data, "is not a string")
    if data and not path:
        raise SpecError("listenerMetadata", data, "goes to nobody", "set listenerPath too")


def _architecture(item: Mapping[str, Any]) -> None:
    _keys(item, frozenset({"architecture", "subArchitectures"}))
    if item.get("architecture") not in ARCHITECTURES:
        name = item.get("architecture")
        raise SpecError("architecture", name, "is not known to seccomp", nearest(str(name), ARCHITECTURES))
    _names(item, "subArchitectures", ARCHITECTURES)


def _rule(rule: Mapping[str, Any]) -> None:
    _keys(rule, _RULE)
    names = rule.get("names")
    if not isinstance(names, tuple) or not names or not all(isinstance(item, str) and item for item in names):
        raise SpecError("names", names, "is not a list of system calls")
    _action(rule, "action", "errnoRet")
    _each(rule, "args", _argument)
    for key in ("includes", "excludes"):
        condition = rule.get(key)
        if condition is None:
            continue
        if not isinstance(condition, Mapping):
            raise SpecError(key, condition, "is not a mapping")
        try:
            _condition(condition)
        except SpecError as error:
            raise error.within(key) from None


def _argument(item: Mapping[str, Any]) -> None:
    _keys(item, _ARGUMENT)
    for key, most in (("index", 5), ("value", 2**64 - 1), ("valueTwo", 2**64 - 1)):
        _number(item, key, most)
    if item.get("index") is None or item.get("value") is None:
        key = "index" if item.get("index") is None else "value"
        raise SpecError(key, None, "is missing", "give index, value and op")
    if item.get("op") not in OPERATORS:
        raise SpecError("op", item.get("op"), "is not an operator", nearest(str(item.get("op")), OPERATORS))


def _condition(item: Mapping[str, Any]) -> None:
    _keys(item, _CONDITION)
    _names(item, "caps", tuple(CAPABILITIES))
    _names(item, "arches")
    kernel = item.get("minKernel")
    if kernel is not None and (
        not isinstance(kernel, str) or not all(part.isdigit() for part in kernel.split(".")) or kernel.count(".") != 1
    ):
        raise SpecError("minKernel", kernel, "is not a version", "write it as 4.8")
