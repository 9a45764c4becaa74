"""Memory that runs short, told while the container runs."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from execdrivers import ContainerSpec, Engine, Event, cgroups

pytestmark = pytest.mark.needs("root", "busybox")

#: More than the container may have, given back at once where that cannot be.
_EAT = "tail /dev/zero 2>/dev/null"


def memory() -> dict[str, Any]:
    """Limits under which it runs short before it runs out: v2 slows it down from 16 MiB on."""
    layout = cgroups.look()
    version = layout.version("memory")
    if problem := layout.problem("memory"):
        pytest.skip(f"needs cgroups with memory: {problem}")
    swap = {"memory_swap": "64M"} if layout.swap else {}
    return {"memory": "64M", **swap, **({"unified": {"memory.high": "16M"}} if version == 2 else {})}


@pytest.fixture
def told(engine: Engine, rootfs: Path) -> list[Event]:
    """What is told of one that eats, and lives on for a while."""
    spec = ContainerSpec.build(["sh", "-c", f"{_EAT} & sleep 3; kill $!; exit 3"], rootfs=rootfs, **memory())
    with engine.create(spec, driver="native", name="hungry") as container:
        container.start()
        container.wait(60)
    return list(engine.events(containers="hungry", follow=False))


def test_pressure_is_told_while_it_runs_and_not_too_often(told: list[Event]) -> None:
    types = [event.type for event in told]
    times = [event.time for event in told if event.type == "memory_pressure"]
    assert 1 <= len(times) <= 8, types
    assert types.index("started") < types.index("memory_pressure") < types.index("exited")
    assert all(later - earlier > 0.9 for earlier, later in pairwise(times))


def test_the_last_count_is_that_of_the_exit(told: list[Event]) -> None:
    counts = [event.oom_kills for event in told if event.type == "oom"]
    (ended,) = (event.exit for event in told if event.type == "exited")
    assert ended is not None
    assert [0, *counts][-1] == ended.oom_kills
    assert counts == sorted(set(counts), key=lambda count: count or 0)


def test_nobody_is_told_of_what_has_enough(engine: Engine, rootfs: Path) -> None:
    began = time.time()
    spec = ContainerSpec.build(["sleep", "0.2"], rootfs=rootfs, **memory())
    with engine.create(spec, driver="native", name="sated") as container:
        container.start()
        container.wait(60)
    found = engine.events(since=began, containers="sated", follow=False)
    assert [event.type for event in found] == ["created", "started", "exited", "deleted"]
