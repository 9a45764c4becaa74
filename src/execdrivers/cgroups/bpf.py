"""Device rules as a program that the kernel runs at each open and mknod: the form that cgroup v2 has them in.

Sources: Linux Documentation/bpf/standardization/instruction-set.rst; include/uapi/linux/bpf.h on
BPF_PROG_TYPE_CGROUP_DEVICE and struct bpf_cgroup_dev_ctx; bpf(2).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from execdrivers.cgroups.devices import Rule

__all__ = ["Instruction", "assemble", "attach", "program", "supported"]


class Instruction(NamedTuple):
    """One instruction: code, destination and source register, offset (of memory, or of a jump), constant."""

    code: int
    to: int = 0
    source: int = 0
    offset: int = 0
    constant: int = 0


_LOAD_WORD, _COPY, _SET, _AND, _SHIFT_RIGHT, _EXIT = 0x61, 0xBF, 0xB7, 0x57, 0x77, 0x95
_JUMP, _JUMP_UNLESS_EQUAL, _JUMP_IF_ANY = 0x05, 0x55, 0x45
#: r0 is the answer, r1 points at the question: u32 access << 16 | type, u32 major, u32 minor.
_ANSWER, _QUESTION, _ASKED, _TYPE, _MAJOR, _MINOR = range(6)
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}


def program(rules: Sequence[Rule]) -> tuple[Instruction, ...]:
    """From the last rule to the first: each takes its share out of what is asked for, or denies it."""
    code = [
        Instruction(_LOAD_WORD, _ASKED, _QUESTION, 0),
        Instruction(_LOAD_WORD, _MAJOR, _QUESTION, 4),
        Instruction(_LOAD_WORD, _MINOR, _QUESTION, 8),
        Instruction(_COPY, _TYPE, _ASKED),
        Instruction(_AND, _TYPE, constant=0xFFFF),
        Instruction(_SHIFT_RIGHT, _ASKED, constant=16),
    ]
    for rule in reversed(rules):
        code.extend(_rule(rule))
        if rule.is_all:
            break  # the kernel takes no program with instructions that are never reached
    else:
        code.extend(_answer(False))
    return tuple(code)


def _rule(rule: Rule) -> Iterator[Instruction]:
    body = list(_decision(rule))
    given = (
        (_TYPE, _TYPES.get(rule.type)),
        (_MAJOR, rule.major),
        (_MINOR, rule.minor),
    )
    conditions = [(register, value) for register, value in given if value is not None]
    for done, (register, value) in enumerate(conditions, 1):
        beyond = len(conditions) - done + len(body)
        yield Instruction(_JUMP_UNLESS_EQUAL, register, offset=beyond, constant=value)
    yield from body


def _decision(rule: Rule) -> Iterator[Instruction]:
    bits = sum(_ACCESS[letter] for letter in rule.access)
    if bits == 7:
        yield from _answer(rule.allow)
    elif rule.allow:
        yield Instruction(_AND, _ASKED, constant=~bits)
        yield Instruction(_JUMP_UNLESS_EQUAL, _ASKED, offset=2, constant=0)
        yield from _answer(True)
    else:
        yield Instruction(_JUMP_IF_ANY, _ASKED, offset=1, constant=bits)
        yield Instruction(_JUMP, offset=2)
        yield from _answer(False)


def _answer(allow: bool) -> Iterator[Instruction]:
    yield Instruction(_SET, _ANSWER, constant=int(allow))
    yield Instruction(_EXIT)


def assemble(code: Sequence[Instruction]) -> bytes:
    """In the kernel's binary form, for machines of little-endian order."""
    return b"".join(struct.pack("<BBhi", i.code, i.source << 4 | i.to, i.offset, i.constant) for i in code)


def attach(directory: str, rules: Sequence[Rule]) -> None:
    """Have a cgroup of v2 run the program, in the place of the one that it had. It goes with the cgroup.

    Raises OSError.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        loaded = _load(rules)
        try:
            _checked(_lib().ed_device_program_attach(fd, loaded), directory)
        finally:
            os.close(loaded)
    finally:
        os.close(fd)


@lru_cache(maxsize=1)
def supported() -> bool:
    """Whether this program may load one; found out by loading one."""
    try:
        os.close(_load(()))
    except OSError:
        return False
    return True


def _load(rules: Sequence[Rule]) -> int:
    code = assemble(program(rules))
    return _checked(_lib().ed_device_program_load(code, len(code) // 8), "device rules")


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result), what)
    return result


def _lib() -> Any:
    # The launcher's package needs this one.
    from execdrivers.launcher._launcher import lib

    return lib
