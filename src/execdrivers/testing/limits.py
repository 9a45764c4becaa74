"""Limits by cgroups: the values in the kernel's files, and that they are enforced and told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from execdrivers import ContainerTimeout, LaunchError, SpecError
from execdrivers.container import Container
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestLimits"]

_MIB = 1 << 20


def shares_to_weight(shares: int) -> int:
    """cpu.weight for cpu.shares, as OCI runtimes convert it: 2..262144 to 1..10000."""
    return 1 + ((shares - 2) * 9999) // 262142


class TestLimits(Kit):
    """Found by /proc/PID/cgroup of the first process, so wherever the driver put it."""

    def file(self, container: Container, controller: str, v1: str, v2: str) -> str:
        """What the file of the container's cgroup says. Skips where this host's version of cgroups has none."""
        value = host.cgroup_file(self.first_process(container), controller, v1, v2)
        if value is None:
            host.lacking(f"{v1 or v2} of the controller {controller}")
        assert value is not None
        return value

    # --- memory

    @needs("cgroup.memory")
    def test_memory_limit(self) -> None:
        container = self.start_ready(memory="64M")
        assert self.file(container, "memory", "memory.limit_in_bytes", "memory.max") == str(64 * _MIB)

    @needs("cgroup.memory")
    def test_out_of_memory_is_told(self) -> None:
        done = self.run(f"eat {256 * _MIB}", "say survived", memory="32M", **self.no_swap("32M"))
        assert (done.exit.reason, done.returncode, done.exit.status) == ("oom", -9, 137)
        assert done.exit.oom_kills >= 1
        assert b"survived" not in done.stdout

    @needs("cgroup.memory")
    def test_out_of_memory_of_a_child_is_told(self) -> None:
        done = self.run(f"feed {256 * _MIB}", "exit 5", memory="32M", **self.no_swap("32M"))
        assert b"child signal 9" in done.stdout
        assert (done.exit.reason, done.exit.code) == ("oom", 5)
        assert done.exit.oom_kills >= 1

    @needs("cgroup.memory")
    def test_memory_within_the_limit(self) -> None:
        done = self.run(f"eat {8 * _MIB}", "exit 7", memory="64M")
        assert (done.exit.reason, done.exit.code, done.exit.oom_kills) == ("exited", 7, 0)

    @needs("cgroup.memory")
    def test_sigkill_is_not_out_of_memory(self) -> None:
        container = self.start_ready(memory="64M")
        container.kill()
        assert container.wait(20).reason == "signaled"

    @needs("cgroup.memory")
    def test_output_before_memory_ran_out_is_kept(self) -> None:
        done = self.run("say before", f"eat {256 * _MIB}", memory="32M", **self.no_swap("32M"))
        assert done.stdout.startswith(b"before\n")

    @needs("cgroup.memory", "cgroup.swap")
    def test_memory_and_swap(self) -> None:
        container = self.start_ready(memory="64M", memory_swap="96M")
        version = host.controllers().get("memory")
        value = self.file(container, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
        assert value == str((96 if version == 1 else 32) * _MIB)

    @needs("cgroup.memory-reservation")
    def test_memory_reservation(self) -> None:
        container = self.start_ready(memory_reservation="24M")
        assert self.file(container, "memory", "memory.soft_limit_in_bytes", "memory.low") == str(24 * _MIB)

    @needs("cgroup.memory-swappiness")
    def test_memory_swappiness(self) -> None:
        container = self.start_ready(memory_swappiness=13)
        assert self.file(container, "memory", "memory.swappiness", "") == "13"

    @needs("cgroup.memory", "cgroup.oom-kill-disable")
    def test_oom_kill_disable(self) -> None:
        container = self.start_ready(memory="64M", oom_kill_disable=True)
        assert "oom_kill_disable 1" in self.file(container, "memory", "memory.oom_control", "")

    def no_swap(self, memory: str) -> dict[str, Any]:
        """So that memory runs out soon, where swap can be limited."""
        return {"memory_swap": memory} if "cgroup.swap" in self.features else {}

    # --- processor

    @needs("cgroup.cpu")
    def test_cpus(self) -> None:
        self._assert_quota(self.start_ready(cpus=0.5), 50_000, 100_000)

    @needs("cgroup.cpu")
    def test_quota_and_period(self) -> None:
        self._assert_quota(self.start_ready(cpu_quota=15_000, cpu_period=30_000), 15_000, 30_000)

    def _assert_quota(self, container: Container, quota: int, period: int) -> None:
        if host.controllers().get("cpu") == 1:
            assert self.file(container, "cpu", "cpu.cfs_quota_us", "") == str(quota)
            assert self.file(container, "cpu", "cpu.cfs_period_us", "") == str(period)
        else:
            assert self.file(container, "cpu", "", "cpu.max") == f"{quota} {period}"

    @needs("cgroup.cpu")
    def test_processor_time_is_limited(self) -> None:
        """0.15 seconds of computing at a fifth of a processor take at least half a second."""
        elapsed = float(self.output("burn 0.15", cpus=0.2))
        assert elapsed > 0.4

    @needs("cgroup.cpu-shares")
    def test_shares(self) -> None:
        container = self.start_ready(cpu_shares=512)
        version = host.controllers().get("cpu")
        value = self.file(container, "cpu", "cpu.shares", "cpu.weight")
        # Runtimes of 2025 and later convert along a curve instead of a line.
        assert value in {"512"} if version == 1 else {str(shares_to_weight(512)), "59"}

    @needs("cgroup.cpu", "cgroup.cpu-burst")
    def test_burst(self) -> None:
        container = self.start_ready(cpus=0.5, cpu_burst=20_000)
        assert self.file(container, "cpu", "cpu.cfs_burst_us", "cpu.max.burst") == "20000"

    @needs("cgroup.cpu-idle")
    def test_idle(self) -> None:
        container = self.start_ready(cpu_idle=True)
        assert self.file(container, "cpu", "cpu.idle", "cpu.idle") == "1"

    @needs("cgroup.cpu-realtime")
    def test_realtime(self) -> None:
        if "cgroup.cpu-realtime" in self.features and not os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
            host.lacking("a kernel with real-time group scheduling")
        container = self.start_ready(cpu_rt_runtime=1000, cpu_rt_period=1_000_000)
        assert self.file(container, "cpu", "cpu.rt_runtime_us", "") == "1000"

    @needs("cgroup.cpuset")
    def test_cpuset(self) -> None:
        processor = str(min(os.sched_getaffinity(0)))
        container = self.start_ready(cpuset_cpus=processor)
        assert host.status(self.first_process(container))["Cpus_allowed_list"] == processor
        assert self.file(container, "cpuset", "cpuset.cpus", "cpuset.cpus") == processor

    @needs("cgroup.cpuset")
    def test_cpuset_memory_nodes(self) -> None:
        container = self.start_ready(cpuset_mems="0")
        assert host.status(self.first_process(container))["Mems_allowed_list"] == "0"

    # --- processes

    @needs("cgroup.pids")
    def test_pids_limit(self) -> None:
        container = self.start_ready(pids=17)
        assert self.file(container, "pids", "pids.max", "pids.max") == "17"

    @needs("cgroup.pids")
    def test_forks_beyond_the_limit_fail(self) -> None:
        attempt = self.attempt("fork", "50", pids=20)
        assert attempt.errno == "EAGAIN"
        assert 1 <= int(attempt.result or 0) <= 19

    @needs("cgroup.pids")
    def test_threads_beyond_the_limit_fail(self) -> None:
        attempt = self.attempt("threads", "50", pids=20)
        assert attempt.errno == "EAGAIN" and 1 <= int(attempt.result or 0) <= 19

    @needs("cgroup.pids")
    def test_a_bomb_within_the_limit_ends_at_the_timeout(self) -> None:
        with pytest.raises(ContainerTimeout):
            self.run("spread 20 session", "fork 1000", "sleep", pids=30, timeout=0.2)

    # --- devices of blocks, huge pages, networks

    @needs("cgroup.block-io")
    def test_block_io_throttle(self) -> None:
        block = sorted(Path("/sys/block").iterdir())
        if not block:
            host.lacking("a block device")
        number = (block[0] / "dev").read_text().strip()
        major, minor = map(int, number.split(":"))
        throttle = [{"major": major, "minor": minor, "rate": 1 << 20}]
        container = self.start_ready(block_io={"throttle_read_bps_device": throttle})
        value = self.file(container, "blkio" if "blkio" in host.controllers() else "io",
                          "blkio.throttle.read_bps_device", "io.max")  # fmt: skip
        assert number in value and str(1 << 20) in value

    @needs("cgroup.hugetlb")
    def test_huge_pages(self) -> None:
        sizes = [int(path.name.split("-")[1][:-2]) for path in Path("/sys/kernel/mm/hugepages").glob("hugepages-*")]
        if not sizes and "cgroup.hugetlb" in self.features:
            host.lacking("huge pages")
        size = min(sizes, default=2048)
        name = f"{size >> 20}GB" if size >= 1 << 20 else f"{size >> 10}MB" if size >= 1024 else f"{size}KB"
        container = self.start_ready(hugepage_limits={name: size * 1024 * 4})
        value = self.file(container, "hugetlb", f"hugetlb.{name}.limit_in_bytes", f"hugetlb.{name}.max")
        assert value == str(size * 1024 * 4)

    @needs("cgroup.rdma")
    def test_rdma(self) -> None:
        devices = os.listdir("/sys/class/infiniband") if os.path.exists("/sys/class/infiniband") else []
        if not devices and "cgroup.rdma" in self.features:
            host.lacking("an RDMA device")
        name = (devices or ["mlx5_0"])[0]
        container = self.start_ready(rdma={name: {"hca_handles": 3}})
        assert "hca_handle=3" in self.file(container, "rdma", "rdma.max", "rdma.max")

    @needs("cgroup.net-cls")
    def test_network_class(self) -> None:
        container = self.start_ready(network_class_id=0x100001)
        assert self.file(container, "net_cls", "net_cls.classid", "") == str(0x100001)

    @needs("cgroup.net-prio")
    def test_network_priority(self) -> None:
        container = self.start_ready(network_priorities={"lo": 5})
        assert "lo 5" in self.file(container, "net_prio", "net_prio.ifpriomap", "")

    @needs("cgroup.unified")
    def test_unified(self) -> None:
        if host.controllers().get("memory") == 2:
            container = self.start_ready(unified={"memory.high": str(48 * _MIB)})
            assert self.file(container, "memory", "", "memory.high") == str(48 * _MIB)
        else:
            container = self.start_ready(unified={"cgroup.max.descendants": "7"})
            own = host.cgroup_paths(self.first_process(container))[""]
            assert (own / "cgroup.max.descendants").read_text() == "7\n"

    @needs("cgroup.unified")
    def test_unified_of_no_controller_is_refused(self) -> None:
        with pytest.raises((SpecError, LaunchError)):
            self.start_ready(unified={"nothing.max": "1"})

    # --- where

    @needs("cgroup.path")
    def test_path(self) -> None:
        parent = os.environ.get("EXECDRIVERS_CGROUP_PARENT") or "execdrivers"
        options = {"pids": 9} if "cgroup.pids" in self.features else {}
        container = self.start_ready(cgroups_path=f"/{parent}/{self.id}-own", **options)
        paths = host.cgroup_paths(self.first_process(container))
        assert any(f"{self.id}-own" in str(path) for path in paths.values())

    @needs("cgroup.memory", "cgroup.pids", "cgroup.cpu")
    def test_all_processes_are_in_the_cgroup(self) -> None:
        container = self.start_ready("spread 3 session", "say spread", "sleep", memory="64M", pids=20, cpus=1)
        assert host.read_line(container.stdout) == "spread"
        pids = host.descendants(self.first_process(container))
        assert len(pids) == 4
        for controller in ("memory", "pids", "cpu"):
            key = controller if host.controllers()[controller] == 1 else ""
            assert len({host.cgroup_paths(pid)[key] for pid in pids}) == 1

    @needs("cgroup.memory")
    def test_the_cgroup_goes_with_the_container(self) -> None:
        container = self.start_ready(memory="64M")
        key = "memory" if host.controllers()["memory"] == 1 else ""
        path = host.cgroup_paths(self.first_process(container))[key]
        assert path.exists()
        container.delete(force=True)
        host.until(lambda: not path.exists(), "the cgroup is gone")

    @needs("cgroup.memory")
    def test_other_containers_are_not_limited(self) -> None:
        limited, other = self.start_ready(memory="64M"), self.start_ready()
        values = [
            host.cgroup_file(self.first_process(c), "memory", "memory.limit_in_bytes", "memory.max")
            for c in (limited, other)
        ]
        assert values[0] == str(64 * _MIB) != values[1]

    @needs("cgroup.memory")
    def test_the_caller_is_not_limited(self) -> None:
        before = Path("/proc/self/cgroup").read_text()
        self.start_ready(memory="64M")
        assert Path("/proc/self/cgroup").read_text() == before

    def test_unlimited_asks_for_nothing(self) -> None:
        assert self.run("exit 0", memory=-1).returncode == 0
