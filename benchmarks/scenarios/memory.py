"""The memory that a live container costs outside of itself."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.inprocess import in_process
from benchmarks.sampling import Contender
from benchmarks.scenario import Limit, Place, Scenario

__all__ = ["SCENARIOS"]


def _contenders(place: Place) -> Sequence[Contender]:
    root = str(place.scratch / "memory")
    containers = 10 if place.quick else 200
    return [
        Contender(
            name="native, in the library",
            measure=in_process("benchmarks.weight:held", rootfs=place.rootfs, root=root, containers=containers),
            batch=1,
        ),
        Contender(
            name="native, monitor",
            measure=in_process("benchmarks.weight:monitors", rootfs=place.rootfs, root=root),
            batch=5,
        ),
    ]


SCENARIOS = (
    Scenario(
        name="memory",
        title="Private memory for each live container",
        about="What would be free without it (private pages, as /proc/PID/smaps_rollup has them): of a program, for "
        "each of 200 more containers that it holds; of the process that watches over a detached one.",
        unit="B",
        contenders=_contenders,
        rounds=5,
        limits=(
            Limit(title="in the library", of="native, in the library", at_most=20 * 1024),
            Limit(title="a monitor", of="native, monitor", at_most=300 * 1024),
        ),
    ),
)
