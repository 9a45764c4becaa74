"""A shortened program answers as the one that it was made of."""

from __future__ import annotations

import random
import struct
from itertools import pairwise

import pytest

from execdrivers import defaults
from execdrivers.seccomp import _library as library
from execdrivers.seccomp import compiler
from execdrivers.seccomp.profile import default
from execdrivers.seccomp.shorten import shorten

from . import bpf

_LD, _AND, _JA, _JEQ, _JGT, _JGE, _JSET, _RET, _ST, _LDM = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06, 0x02, 0x60
_WORDS = (0, 1, 2, 3, 4, 5, 9, 10, 11, 99, 0x40000000, 0xC000003E, 0x40000003, 0xFFFFFFFF)


def _agree(before: bytes, after: bytes, choose: random.Random, numbers: list[int], architectures: list[int]) -> None:
    old, new = bpf.Program(before), bpf.Program(after)
    for architecture in architectures:
        for number in numbers:
            args = [choose.choice((*_WORDS, choose.getrandbits(64))) for _ in range(6)]
            assert old(number, args, architecture) == new(number, args, architecture), (architecture, number, args)


def _random_program(choose: random.Random) -> bytes:
    """Any that the kernel would take: it begins with a load, jumps forward, and ends by returning."""
    length = choose.randint(2, 60)
    code = [(_LD, 0, 0, choose.choice((0, 4)))]
    while len(code) < length - 1:
        left = length - len(code) - 2
        kind = choose.choice((_LD, _LD, _JEQ, _JEQ, _JEQ, _JGT, _JGE, _JSET, _JA, _AND, _ST, _LDM, _RET))
        if kind in (_JEQ, _JGT, _JGE, _JSET):
            code.append((kind, choose.randint(0, left), choose.randint(0, left), choose.choice(_WORDS)))
        elif kind == _JA:
            code.append((kind, 0, 0, choose.randint(0, left)))
        else:
            word = {_LD: 4 * choose.randint(0, 15), _ST: 1, _LDM: 1}.get(kind, choose.choice(_WORDS))
            code.append((kind, 0, 0, word if kind != _LD or choose.random() < 0.3 else choose.choice((0, 4))))
    code.append((_RET, 0, 0, 7))
    return b"".join(struct.pack("=HBBI", *each) for each in code)


@pytest.mark.parametrize("seed", range(40))
def test_any_program(seed: int) -> None:
    choose = random.Random(seed)
    near = sorted({word + by & 0xFFFFFFFF for word in _WORDS for by in (-1, 0, 1)})
    for _ in range(25):
        program = _random_program(choose)
        shorter = shorten(program)
        assert len(shorter) <= len(program)
        _agree(program, shorter, choose, near, near)


@pytest.mark.parametrize("capabilities", [(), defaults.CAPABILITIES, defaults.ALL_CAPABILITIES])
def test_the_default(capabilities: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    profile = default(tuple(sorted(capabilities)))
    monkeypatch.setattr(compiler, "shorten", lambda program: program)
    whole = compiler.compile_program(profile)
    shorter = shorten(whole)
    assert len(shorter) < len(whole) / 3
    numbers = [*range(1000), *range(0x40000000, 0x40000400), 0x3FFFFFFF, 0x80000000, 0xFFFFFFFF]
    architectures = [library.architecture(name) for name in ("x86_64", "x86", "x32", "aarch64", "arm")]
    for seed in range(3):
        _agree(whole, shorter, random.Random(seed), numbers, [*architectures, 0, 0xFFFFFFFF])


def test_far_jumps() -> None:
    """More ranges than a conditional jump reaches over, each with an answer of its own, and one shared far away."""
    numbers = list(range(0, 3000, 2))
    code = [struct.pack("=HBBI", _LD, 0, 0, 0)]
    for number in numbers:
        code.append(struct.pack("=HBBI", _JEQ, 0, 1, number))
        code.append(struct.pack("=HBBI", _RET, 0, 0, 0x50000 | number if number % 3 else 0x7FFF0000))
    code += [struct.pack("=HBBI", _RET, 0, 0, 0)]
    program = b"".join(code)
    shorter = shorten(program)
    for low, high in pairwise(numbers):
        for number in (low, low + 1, high):
            assert bpf.Program(program)(number) == bpf.Program(shorter)(number)
