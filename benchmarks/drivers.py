"""Our drivers as an importer calls them: what `benchmarks.inprocess` runs, and which of them can take part."""

from __future__ import annotations

import time
from collections.abc import Iterator

import execdrivers
from execdrivers.registry import default_registry

__all__ = ["lacking", "run"]

#: Turns for nothing, in which modules are imported and the host is looked at.
_WARM_UP = 3


def lacking(driver: str) -> str:
    """Why it cannot run here, and what would help; "" where it can."""
    problems = default_registry().probe(driver).problems
    return "; ".join(f"{problem.reason} ({problem.remedy})" for problem in problems)


def run(count: int, *, driver: str, rootfs: str) -> Iterator[float]:
    """Seconds from the call of ``execdrivers.run`` to its return, for each of ``count`` containers."""
    for turn in range(-_WARM_UP, count):
        before = time.perf_counter()
        execdrivers.run(["/bin/true"], rootfs=rootfs, driver=driver, check=True)
        after = time.perf_counter()
        if turn >= 0:
            yield after - before
