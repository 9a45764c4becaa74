"""What a sample costs, and where native counts."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers import Container, ContainerSpec, Engine, cgroups
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root", "busybox")


def seconds(call: Callable[[], object]) -> float:
    """Of the median of many calls."""
    times = []
    for _ in range(100):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def ten_reads() -> None:
    for _ in range(10):
        fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 4096)
        os.close(fd)


def started(engine: Engine, rootfs: Path, **options: bool) -> Container:
    container = engine.create(ContainerSpec.build(["sleep", "60"], rootfs=rootfs), driver="native", **options)
    container.start()
    return container


def test_a_sample_costs_little(engine: Engine, rootfs: Path) -> None:
    """Some 150 µs where 10 reads take 30; a driver's tool takes milliseconds."""
    with started(engine, rootfs, accounting=True) as container:
        container.stats()
        assert seconds(container.stats) < 15 * seconds(ten_reads)


def test_accounting_leaves_the_limits_alone(engine: Engine, rootfs: Path) -> None:
    layout = cgroups.look()
    with started(engine, rootfs, accounting=True) as container:
        assert container.pid is not None
        found = container.stats()
        assert {found.cpu.source, found.memory.source, found.pids.source} == {"cgroup"}
        assert found.memory.limit is found.pids.limit is None
        places = host.cgroup_paths(container.pid)
        named = [name for name in ("memory", "pids", "cpuacct") if name in layout.v1] or [""]
        assert all(places[name].name == container.id for name in named)
        container.update(pids=30)
        assert container.stats().pids.limit == 30
    assert not any(path.exists() for path in places.values() if path.name == container.id)


def test_without_it_there_is_no_cgroup(engine: Engine, rootfs: Path) -> None:
    with started(engine, rootfs) as container:
        assert container.pid is not None
        assert container.stats().memory.source == "processes"
        assert not any(path.name == container.id for path in host.cgroup_paths(container.pid).values())


def test_a_pause_does_not_forget_what_was_counted(engine: Engine, rootfs: Path) -> None:
    spec = ContainerSpec.build(
        ["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 60"], rootfs=rootfs
    )
    with engine.create(spec, driver="native", accounting=True) as container:
        container.start()
        host.until(lambda: container.stats().cpu.usage > 50_000_000, "it has computed")
        before = container.stats()
        container.pause()
        paused = container.stats()
        container.resume()
        assert paused.cpu.source == "cgroup" and paused.cpu.usage >= before.cpu.usage
        assert paused.memory.peak == before.memory.peak


def test_a_paused_one_whose_freezer_is_there_from_the_start_is_killed(engine: Engine, rootfs: Path) -> None:
    with started(engine, rootfs, accounting=True) as container:
        container.pause()
        container.kill()
        assert container.wait(20).signal == signal.SIGKILL
