"""Builds the launcher as a program of the C library, on a made-up kernel, with sanitizers; and its first inputs.

All that the package's own build makes the launcher of is taken, and every operation that there is.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from execdrivers.launcher import Operation, encode
from execdrivers.launcher import operations as vocabulary

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
CORPUS = HERE / "corpus"

_FLAGS = [
    "-std=gnu11", "-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-DEXECDRIVERS_SIMULATED",
    "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
]  # fmt: skip


def build(program: Path, compiler: str = "gcc") -> None:
    """With gcc a program that runs files, with clang libFuzzer's; both under ASan and UBSan."""
    package = runpy.run_path(str(SOURCE / "build_launcher.py"), run_name="launcher")
    sanitizers = "address,undefined,fuzzer" if "clang" in compiler else "address,undefined"
    common = [compiler, *_FLAGS, f"-fsanitize={sanitizers}", f"-I{package['SOURCES']}"]
    objects = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in package["LAUNCHER"]:
            objects.append(str(Path(scratch, name).with_suffix(".o")))
            subprocess.run(
                [*common, "-ffreestanding", "-c", str(package["SOURCES"] / name), "-o", objects[-1]], check=True
            )
        subprocess.run([*common, *map(str, HERE.glob("*.c")), *objects, "-o", str(program)], check=True)


def run(program: Path, inputs: list[Path]) -> subprocess.CompletedProcess[str]:
    """Run each file; the exit status tells of a finding, standard error names the file and what was found."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run([program, *inputs], env=environment, capture_output=True, text=True, errors="replace")


def _candidates() -> Iterator[Any]:
    words = [key for table in vars(vocabulary).values() if isinstance(table, dict) for key in table]
    texts = [word for word in words if isinstance(word, str)]
    yield from (1, 0, 0xFFFFFFFF, "/a/b", "0-2", "", ("/bin/a", "b=c"), (), (1, 2))
    yield from texts
    yield from ((text,) for text in texts)


def _values(kind: str) -> tuple[Any, Any]:
    """Two values that an argument of that kind can have, the second one small or empty."""
    accepted = []
    for value in _candidates():
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError, struct.error):
            vocabulary._CODEC[kind](value)
            accepted.append(value)
    return accepted[0], next((value for value in accepted if not value), accepted[-1])


def every_operation() -> Iterator[bytes]:
    """A plan of each operation of the vocabulary, followed by an execution, with arguments of two sorts."""
    execute = Operation("exec", (0, ("/bin/a", "/bin/b"), ("a",), ("X=1",)))
    known = {kind: _values(kind) for kind in vocabulary._CODEC}
    for name, (_, fields) in vocabulary._SCHEMA.items():
        kinds = [field.split(":")[1] for field in fields.split()]
        for sort in (0, 1):
            yield encode([Operation(name, tuple(known[kind][sort] for kind in kinds)), execute])


def scripts(calls: int) -> Iterator[bytes]:
    """For the kernel: all goes well; each call fails, or goes well in another way."""
    yield b""
    for skip in range(calls):
        for what in (1, 2, 11, 12, 17, 22, 28, 200):
            yield bytes([skip, what]) + (b"\xff" + bytes(range(64)) if what == 200 else b"")
