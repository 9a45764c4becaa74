"""What is compared. Each module here has one or a few scenarios that belong together; `ALL` lists them in the order of
the report."""

from __future__ import annotations

from benchmarks.scenario import Scenario
from benchmarks.scenarios import exec, growth, memory, overhead, phases, start, startup, stats, streams, together

__all__ = ["ALL"]

ALL: tuple[Scenario, ...] = (
    *start.SCENARIOS,
    *phases.SCENARIOS,
    *overhead.SCENARIOS,
    *together.SCENARIOS,
    *exec.SCENARIOS,
    *growth.SCENARIOS,
    *streams.SCENARIOS,
    *memory.SCENARIOS,
    *startup.SCENARIOS,
    *stats.SCENARIOS,
)
