"""The C floor: builds it, and times rounds of it."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

from execdrivers import ContainerSpec, defaults, seccomp

__all__ = ["build", "rounds"]

_HERE = Path(__file__).resolve().parent
_FREESTANDING = (
    "-std=gnu11 -D_GNU_SOURCE -Os -ffreestanding -fno-stack-protector -fno-pic -no-pie -static -nostdlib "
    "-fno-asynchronous-unwind-tables -Wl,--build-id=none -Wl,-z,noseparate-code -s"
).split()


def build(directory: Path) -> tuple[Path, Path]:
    """Compile the floor into ``directory``: the program and its launcher."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    program, launcher = directory / "floor", directory / "floor-launcher"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, "-std=gnu11", "-O2", *warnings, _HERE / "floor.c", "-o", program], check=True)
    (directory / "filter.h").write_text(_filter())
    freestanding = [*_FREESTANDING, *warnings, f"-I{directory}"]
    subprocess.run([compiler, *freestanding, _HERE / "launcher.c", "-o", launcher], check=True)
    return program, launcher


def _filter() -> str:
    """The default filter of system calls, as C."""
    compiled = seccomp.compile(ContainerSpec(["true"]), defaults.CAPABILITIES)
    assert compiled is not None
    program = ",".join(map(str, compiled.program))
    return f"static const unsigned char filter[] __attribute__((aligned(8))) = {{{program}}};\n"


def rounds(built: tuple[Path, Path], count: int, rootfs: str, command: list[str]) -> list[float]:
    """Seconds that each of ``count`` containers took from start to exit."""
    out = subprocess.run([*built, str(count), rootfs, *command], check=True, capture_output=True, text=True)
    return [int(line) / 1e9 for line in out.stdout.split()]
