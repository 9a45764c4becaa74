"""From a profile to a BPF program. What runc makes of a profile is made of it here, where that enforces it."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from execdrivers.errors import SpecError
from execdrivers.seccomp import _library as library
from execdrivers.seccomp.shorten import shorten
from execdrivers.spec.seccomp import ACTIONS, OPERATORS

__all__ = ["compile_program"]

#: SECCOMP_RET_* of seccomp(2).
_VALUES = {
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_ENOSYS = _VALUES["SCMP_ACT_ERRNO"] | errno.ENOSYS
_MASKED_EQ = "SCMP_CMP_MASKED_EQ"

#: Younger than libseccomp 2.5.4. Since 5.1 a new system call has one number on all architectures; source: the kernel's
#: arch/*/entry/syscalls/syscall*.tbl and include/uapi/asm-generic/unistd.h.
_YOUNGER = {
    name: number
    for number, name in enumerate(
        (
            "cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount "
            "lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat "
            "removexattrat open_tree_attr file_getattr file_setattr"
        ).split(),
        451,
    )
}
if os.uname().machine == "x86_64":
    _YOUNGER |= {"uretprobe": 335, "uprobe": 336}


def compile_program(profile: Mapping[str, Any]) -> bytes:
    """The program: struct sock_filter, one after the other. Raises `SpecError` by the profile's property, and
    `library.LibraryMissing`."""
    rules = tuple(profile.get("syscalls") or ())
    default = _value(profile["defaultAction"], profile.get("defaultErrnoRet"))
    _check_conditions_count(rules, default)
    foreign = tuple(_foreign(profile))
    with library.Context(default) as context:
        # The library knows no number of theirs elsewhere; what is added before another architecture is ours alone.
        _add(context, rules, profile["defaultAction"], default, younger=True)
        for token in foreign:
            context.add_architecture(token)
        _add(context, rules, profile["defaultAction"], default, younger=False)
        program = context.export()
    if profile["defaultAction"] in ACTIONS[: ACTIONS.index("SCMP_ACT_NOTIFY")] and default != _ENOSYS:
        program = b"".join(_unknown_is_enosys(rules, foreign)) + program
    return shorten(program)


def _check_conditions_count(rules: Sequence[Mapping[str, Any]], default: int) -> None:
    """Of a name with a rule without conditions libseccomp heeds no other: one that forbids more would be lost."""
    always: dict[str, str] = {}
    for rule in rules:
        if not rule.get("args") and _value(rule["action"], rule.get("errnoRet")) != default:
            for name in rule["names"]:
                always.setdefault(name, rule["action"])
    for index, rule in enumerate(rules):
        for name in rule["names"] if rule.get("args") else ():
            if name in always and ACTIONS.index(rule["action"]) < ACTIONS.index(always[name]):
                problem = f"would never count for {name}, since another rule says {always[name]} whatever the arguments"
                raise SpecError(
                    f"seccomp.syscalls[{index}].args", rule["args"], problem, "give that one conditions too"
                )


def _value(action: str, number: int | None) -> int:
    data = number if number is not None else errno.EPERM
    return _VALUES[action] | (data if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") else 0)


def _foreign(profile: Mapping[str, Any]) -> Iterator[int]:
    """Tokens of the architectures beside our own."""
    for index, name in enumerate(profile.get("architectures") or ()):
        token = library.architecture(name.removeprefix("SCMP_ARCH_").lower())
        if not token:
            problem = f"is not known to libseccomp {library.version()}"
            raise SpecError(f"seccomp.architectures[{index}]", name, problem, "install a younger one, or leave it out")
        if token != library.architecture():
            yield token


def _add(
    context: library.Context, rules: Sequence[Mapping[str, Any]], default_action: str, default: int, *, younger: bool
) -> None:
    for index, rule in enumerate(rules):
        action = _value(rule["action"], rule.get("errnoRet"))
        if action == default:
            continue  # the library takes none that says what is so anyway
        for place, name in enumerate(rule["names"]):
            number = library.number(name)
            if (number is None) != younger:
                continue
            if number is None:
                number = _YOUNGER.get(name)
            where = f"seccomp.syscalls[{index}]"
            if number is None:
                _check_may_be_left_out(f"{where}.names[{place}]", name, rule["action"], default_action)
                continue
            try:
                for comparisons in _comparisons(rule.get("args") or ()):
                    context.add_rule(action, number, comparisons)
            except OSError as error:
                problem = f"is refused by libseccomp: {error.strerror}"
                raise SpecError(where, {**rule, "names": [name]}, problem, "look at its args and action") from None


def _check_may_be_left_out(field: str, name: str, action: str, default: str) -> None:
    """As runc, a rule about a system call that is not known is passed over; unless more were allowed without it."""
    if ACTIONS.index(action) < ACTIONS.index(default):
        problem = f"is no system call that libseccomp {library.version()} knows, so that {action} cannot be enforced"
        raise SpecError(field, name, problem, "correct the name, or leave it out")


def _comparisons(args: Sequence[Mapping[str, Any]]) -> Iterator[list[library.Comparison]]:
    """All of a rule's conditions must hold; yet where two are about one argument each is a rule of its own, as with
    runc: for libseccomp they would be a contradiction."""
    indices = [item["index"] for item in args]
    every = [
        library.Comparison(
            item["index"],
            OPERATORS.index(item["op"]) + 1,
            item["value"],
            (item.get("valueTwo") or 0) if item["op"] == _MASKED_EQ else 0,
        )
        for item in args
    ]
    if len(set(indices)) < len(indices):
        for comparison in every:
            yield [comparison]
    else:
        yield every


# --- system calls younger than the profile -----------------------------------------------------------------------

_LD, _JEQ, _JGT, _JGE, _RET = 0x20, 0x15, 0x25, 0x35, 0x06
_NR, _ARCH = 0, 4
_X32_BIT = 0x40000000
_AUDIT_ARCH_X86_64 = 0xC000003E


def _statement(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, value)


def _unknown_is_enosys(rules: Sequence[Mapping[str, Any]], foreign: Sequence[int]) -> Iterator[bytes]:
    """Before the program: a system call beyond all that the profile names gets ENOSYS, as on a kernel without it.

    Who wrote the profile did not know of it, and a C library that tries it first falls back on ENOSYS, but not on
    EPERM. runc does so, too.
    """
    names = {name for rule in rules for name in rule["names"]}
    native = library.architecture()
    x32 = library.architecture("x32")
    for token in (native, *foreign):
        numbers = [library.number_on(token, name) for name in names]
        greatest = max((number for number in numbers if number is not None and number >= 0), default=None)
        if token == native:
            younger = [_YOUNGER[name] for name in names & _YOUNGER.keys()]
            greatest = max(filter(None, (greatest, *younger)), default=None)
        if greatest is None:
            continue
        # An x32 program is told from a 64-bit one by a bit of the number.
        checks = [_statement(_JGT, greatest, 0, 1), _statement(_RET, _ENOSYS)]
        if token == x32:
            checks.insert(0, _statement(_JGE, _X32_BIT, 0, 2))
        elif token == _AUDIT_ARCH_X86_64:
            checks.insert(0, _statement(_JGE, _X32_BIT, 2, 0))
        yield _statement(_LD, _ARCH)
        yield _statement(_JEQ, _AUDIT_ARCH_X86_64 if token == x32 else token, 0, len(checks) + 1)
        yield _statement(_LD, _NR)
        yield from checks
