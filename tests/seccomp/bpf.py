"""What a BPF program answers to a system call: an interpreter of the instructions that seccomp programs are made of.

Source: the kernel's Documentation/networking/filter.rst and seccomp(2). It shares nothing with the compiler.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

X86_64, X86, AARCH64, X32_BIT = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000000

KILL_PROCESS, KILL_THREAD, TRAP, NOTIFY = 0x80000000, 0, 0x30000, 0x7FC00000
LOG, ALLOW = 0x7FFC0000, 0x7FFF0000


def errno(number: int) -> int:
    return 0x50000 | number


def trace(number: int) -> int:
    return 0x7FF00000 | number


class Program:
    """A program, to be asked."""

    def __init__(self, code: bytes) -> None:
        assert len(code) % 8 == 0 and 0 < len(code) // 8 <= 4096
        self.instructions = list(struct.iter_unpack("=HBBI", code))

    def __call__(self, number: int, args: Sequence[int] = (), arch: int = X86_64) -> int:
        """SECCOMP_RET_* with its data."""
        words = [word & (1 << 64) - 1 for word in (*args, *[0] * (6 - len(args)))]
        data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *words)
        accumulator, at = 0, 0
        memory = [0] * 16
        while True:
            code, true, false, k = self.instructions[at]
            at += 1
            if code == 0x20:  # ld [k]
                (accumulator,) = struct.unpack_from("=I", data, k)
            elif code == 0x00:  # ld #k
                accumulator = k
            elif code == 0x06:  # ret
                return int(k)
            elif code == 0x05:  # ja
                at += k
            elif code == 0x54:  # and
                accumulator &= k
            elif code == 0x02:  # st
                memory[k] = accumulator
            elif code == 0x60:  # ld M[k]
                accumulator = memory[k]
            else:
                taken = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: accumulator & k}
                at += true if taken[code] else false
