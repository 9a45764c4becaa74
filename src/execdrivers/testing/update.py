"""Changing the limits of a running container."""

from __future__ import annotations

from typing import Any

import pytest

from execdrivers import InvalidState, OperationError, Resources, SpecError, UnsupportedFeature
from execdrivers.features import required
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Kit

__all__ = ["TestUpdate"]

_MIB = 1 << 20


class TestUpdate(Kit):
    """`Container.update`, by the kernel's files."""

    def limit(self, container: Any, controller: str, v1: str, v2: str) -> str | None:
        """The value in force."""
        return host.cgroup_file(self.first_process(container), controller, v1, v2)

    @needs("update", "cgroup.memory")
    def test_memory(self) -> None:
        container = self.start_ready(memory="64M")
        for size in (32, 96):
            container.update(memory=f"{size}M")
            assert self.limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(size * _MIB)

    @needs("update", "cgroup.memory", "cgroup.swap")
    def test_memory_and_swap(self) -> None:
        container = self.start_ready(memory="64M", memory_swap="64M")
        container.update(memory="96M", memory_swap="128M")
        assert self.limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(96 * _MIB)
        swap = self.limit(container, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
        assert swap == str((128 if host.controllers()["memory"] == 1 else 32) * _MIB)

    @needs("update", "cgroup.memory", "cgroup.swap")
    def test_memory_and_swap_downwards(self) -> None:
        container = self.start_ready(memory="96M", memory_swap="128M")
        container.update(memory="48M", memory_swap="48M")
        assert self.limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(48 * _MIB)

    @needs("update", "cgroup.pids")
    def test_pids(self) -> None:
        # runc's own threads count until it has executed the command: some ten on a busy machine.
        container = self.start("line", "fork 40", pids=20)
        container.update(pids=28)
        assert self.limit(container, "pids", "pids.max", "pids.max") == "28"
        out, _ = container.communicate(b"\n", timeout=TIMEOUT)
        assert out is not None and b'"errno":11' in out and b'"result":"27"' in out

    @needs("update", "cgroup.cpu")
    def test_cpu(self) -> None:
        container = self.start_ready(cpus=0.5)
        container.update(cpus=1.5)
        if host.controllers()["cpu"] == 1:
            assert self.limit(container, "cpu", "cpu.cfs_quota_us", "") == "150000"
        else:
            assert self.limit(container, "cpu", "", "cpu.max") == "150000 100000"

    @needs("update", "cgroup.cpu-shares")
    def test_shares(self) -> None:
        container = self.start_ready(cpu_shares=512)
        before = self.limit(container, "cpu", "cpu.shares", "cpu.weight")
        container.update(cpu_shares=2048)
        assert int(self.limit(container, "cpu", "cpu.shares", "cpu.weight") or 0) > int(before or 0)

    @needs("update", "cgroup.cpuset")
    def test_cpuset(self) -> None:
        import os

        processors = sorted(os.sched_getaffinity(0))
        if len(processors) < 2 and "update" in self.features:
            host.lacking("two processors")
        container = self.start_ready(cpuset_cpus=str(processors[0]))
        container.update(cpuset_cpus=str(processors[-1]))
        assert host.status(self.first_process(container))["Cpus_allowed_list"] == str(processors[-1])

    @needs("update", "cgroup.memory", "cgroup.pids")
    def test_what_is_not_given_stays(self) -> None:
        container = self.start_ready(memory="64M", pids=20)
        container.update(pids=30)
        assert self.limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(64 * _MIB)
        assert self.limit(container, "pids", "pids.max", "pids.max") == "30"

    @needs("update", "cgroup.memory", "cgroup.pids")
    def test_to_no_limit(self) -> None:
        container = self.start_ready(memory="64M", pids=20)
        container.update(memory=-1, pids=-1)
        assert self.limit(container, "pids", "pids.max", "pids.max") == "max"
        limit = self.limit(container, "memory", "memory.limit_in_bytes", "memory.max") or ""
        assert limit == "max" or int(limit) > 1 << 60

    @needs("update", "cgroup.memory", "recover")
    def test_by_another_program(self) -> None:
        container = self.start_ready(memory="64M", name=self.id)

        def other() -> None:
            with self.new_engine() as engine:
                engine.get(self.id).update(memory="48M")

        host.in_child(other)
        assert self.limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(48 * _MIB)
        container.update(memory="80M")
        assert self.limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(80 * _MIB)

    @needs("update", "pids", "cgroup.pids", "recover")
    def test_a_limit_that_another_program_has_added(self) -> None:
        """Whoever holds it sees what was made for it, and nothing is left of that at its end."""
        container = self.start_ready("spread 2", "say spread", "sleep", name=self.id)
        assert host.read_line(container.stdout) == "spread"

        def other() -> None:
            with self.new_engine() as engine:
                engine.get(self.id).update(pids=20)

        host.in_child(other)
        assert self.limit(container, "pids", "pids.max", "pids.max") == "20"
        assert sorted(container.pids()) == sorted(host.descendants(self.first_process(container)))

    @needs("update", "cgroup.memory")
    def test_as_a_whole(self) -> None:
        container = self.start_ready(memory="64M")
        container.update(Resources(memory="80M"))
        assert self.limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(80 * _MIB)

    @needs("update", "cgroup.memory")
    def test_the_new_limit_is_enforced(self) -> None:
        limited = ["memory", "memory_swap"] if "cgroup.swap" in self.features else ["memory"]
        container = self.start("line", f"eat {128 * _MIB}", **dict.fromkeys(limited, "256M"))
        limits: dict[str, Any] = dict.fromkeys(limited, "32M")
        container.update(Resources(**limits))
        container.communicate(b"\n", timeout=TIMEOUT)
        assert container.exit is not None and container.exit.reason == "oom"

    @needs("update", "cgroup.memory")
    def test_it_is_in_the_record(self) -> None:
        container = self.start_ready(memory="64M", name=self.id)
        container.update(memory="48M")
        with self.new_engine() as other:
            assert other.get(self.id).spec.resources.memory == 48 * _MIB
        assert [event.type for event in self.events][-1] == "updated"

    @needs("update", "cgroup.pids")
    def test_a_limit_that_was_not_there(self) -> None:
        container = self.start_ready(memory="64M") if "cgroup.memory" in self.features else self.start_ready(pids=20)
        try:
            container.update(pids=22)
        except OperationError:
            pass  # a driver may have made no cgroup for it, and says so
        else:
            assert self.limit(container, "pids", "pids.max", "pids.max") == "22"

    @needs("update", "cgroup.pids")
    def test_nonsense_is_refused(self) -> None:
        container = self.start_ready(pids=20)
        with pytest.raises(SpecError):
            container.update(pids=0)
        with pytest.raises(SpecError):
            container.update()
        assert self.limit(container, "pids", "pids.max", "pids.max") == "20"

    @needs("update")
    def test_what_the_driver_lacks_is_refused(self) -> None:
        candidates: dict[str, dict[str, Any]] = {
            "cgroup.rdma": {"rdma": {"x": {"hca_handles": 1}}},
            "cgroup.cpu-realtime": {"cpu_rt_runtime": 1000},
            "cgroup.memory-swappiness": {"memory_swappiness": 5},
            "cgroup.hugetlb": {"hugepage_limits": {"2MB": "2M"}},
        }
        container = self.start_ready(**({"pids": 9} if "cgroup.pids" in self.features else {}))
        if "update" not in self.features:
            container.update(pids=22)
        for feature, limits in candidates.items():
            if feature not in self.features and feature in required(self.spec("say x", **limits)):
                with pytest.raises(UnsupportedFeature) as caught:
                    container.update(**limits)
                assert caught.value.feature == feature

    @needs("update", "cgroup.pids")
    def test_before_the_start_and_after_the_end_is_refused(self) -> None:
        container = self.create("exit 0", pids=9)
        with pytest.raises(InvalidState):
            container.update(pids=22)
        container.start()
        container.wait(TIMEOUT)
        with pytest.raises(InvalidState):
            container.update(pids=22)
