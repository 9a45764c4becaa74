"""Private memory: what would be free without them, of a program that holds containers, of monitors, of other processes.

As the kernel counts it in /proc/PID/smaps_rollup: Private_Clean and Private_Dirty.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path

from benchmarks import inside
from execdrivers import Container, Engine

__all__ = ["held", "monitors", "private"]

#: Containers before it counts: what the first ones import and allocate is not theirs.
_BEFORE = 20


def private(pid: int | str) -> int:
    """Bytes of a process's private memory."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def held(count: int, *, rootfs: str, containers: int) -> list[float]:
    """Of this program, bytes for each of so many containers that it holds. ``count`` measurements, each of new ones."""
    inside.allow_descriptors(containers * count)
    with Engine() as engine:
        kept = _sleeping(engine, rootfs, _BEFORE)
        samples = []
        for _ in range(count):
            before = _own()
            kept += _sleeping(engine, rootfs, containers)
            samples.append((_own() - before) / containers)
    return samples


def monitors(count: int, *, rootfs: str) -> list[float]:
    """Bytes of each of ``count`` detached containers' monitors."""
    with Engine() as engine:
        containers = [inside.sleeping(engine, rootfs, detach=True) for _ in range(count)]
        try:
            return [float(private(_monitor(Path(engine.root), container))) for container in containers]
        finally:
            for container in containers:
                container.delete(force=True)


def _monitor(root: Path, container: Container) -> int:
    """Its pid, as the container's record has it."""
    record = json.loads((root / container.name / "state.json").read_text())
    return int(record["monitor"][0])


def _sleeping(engine: Engine, rootfs: str, count: int) -> list[Container]:
    return [inside.sleeping(engine, rootfs) for _ in range(count)]


def _own() -> int:
    gc.collect()
    return private("self")
