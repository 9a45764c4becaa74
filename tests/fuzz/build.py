"""Builds the launcher as a program that runs on a made-up kernel (kernel.h), with sanitizers.

All that the package's own build makes the launcher of is taken.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
#: Inputs that libFuzzer has found worth keeping; `make fuzz` adds to them.
CORPUS = HERE / "corpus.zip"

_FLAGS = [
    "-std=gnu11", "-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-DEXECDRIVERS_SIMULATED",
    "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
]  # fmt: skip


def build(program: Path, compiler: str = "gcc", source: Path = SOURCE) -> None:
    """With gcc a program that runs files, with clang libFuzzer's; both under ASan and UBSan."""
    package = runpy.run_path(str(source / "build_launcher.py"), run_name="launcher")
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


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Its exit status tells of a finding; standard error ends with the input at hand and what was found."""
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, errors="replace")
