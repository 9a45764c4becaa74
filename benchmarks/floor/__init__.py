"""The C floors of a start and of an exec: builds them, and times rounds of them."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from benchmarks.equals import default_filter

__all__ = ["build", "build_exec", "executions", "rounds", "together"]

_HERE = Path(__file__).resolve().parent
_WARNINGS = ["-Wall", "-Wextra", "-Werror"]
_FREESTANDING = (
    "-std=gnu11 -D_GNU_SOURCE -Os -ffreestanding -fno-stack-protector -fno-pic -no-pie -static -nostdlib "
    "-fno-asynchronous-unwind-tables -Wl,--build-id=none -Wl,-z,noseparate-code -s"
).split()

#: A program, and the launcher that it executes.
Built = tuple[Path, Path]


def build(directory: Path) -> Built:
    """Compile the floor of a start into ``directory``."""
    return _build("floor.c", "launcher.c", directory)


def build_exec(directory: Path) -> Built:
    """Compile the floor of an exec into ``directory``."""
    return _build("exec.c", "exec_launcher.c", directory)


def _build(program: str, launcher: str, directory: Path) -> Built:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    name = program.removesuffix(".c")
    built = directory / name, directory / f"{name}-launcher"
    subprocess.run([compiler, "-std=gnu11", "-O2", *_WARNINGS, _HERE / program, "-o", built[0]], check=True)
    (directory / "filter.h").write_text(_filter())
    freestanding = [*_FREESTANDING, *_WARNINGS, f"-I{directory}"]
    subprocess.run([compiler, *freestanding, _HERE / launcher, "-o", built[1]], check=True)
    return built


def _filter() -> str:
    """The default filter of system calls, as C."""
    program = ",".join(map(str, default_filter()))
    return f"static const unsigned char filter[] __attribute__((aligned(8))) = {{{program}}};\n"


def rounds(built: Built, count: int, rootfs: str, command: list[str]) -> list[float]:
    """Seconds that each of ``count`` containers took from start to exit."""
    return _times([*built, str(count), rootfs, *command], None)


def together(built: Built, workers: int, each: int, rootfs: str, command: list[str]) -> float:
    """Seconds per container as so many processes start ``each`` containers, one after the other."""
    [whole] = _times([*built, f"{workers}x{each}", rootfs, *command], None)
    return whole / (workers * each)


def executions(built: Built, count: int, pid: int, command: list[str], environment: Mapping[str, str]) -> list[float]:
    """Seconds that each of ``count`` processes took from start to exit, in the container of first process ``pid``."""
    return _times([*built, str(count), str(pid), *command], environment)


def _times(command: list[Path | str], environment: Mapping[str, str] | None) -> list[float]:
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return [int(line) / 1e9 for line in out.stdout.split()]
