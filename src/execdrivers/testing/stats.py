"""What a container uses, compared with what its program has done and with the files of its cgroups."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, PIPE, ContainerTimeout, InvalidState, Stats, cpu_percent
from execdrivers.container import Container
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Kit, args_of

__all__ = ["TestStats"]

_MIB = 1 << 20
#: Seconds: what starting a program takes, on a busy machine, and the kernel's clock tick.
_START, _TICK = 0.3, 0.01


class TestStats(Kit):
    """`Container.stats`, also with ``accounting``: then all is counted by cgroups, and told after the end."""

    def reached(self, *commands: str, **options: Any) -> Container:
        """A container that has done these, and sleeps."""
        container = self.start(*commands, "say done", "sleep", **options)
        while host.read_line(container.stdout) != "done":
            pass
        return container

    def file(self, container: Container, controller: str, v1: str, v2: str) -> int:
        """The number in a file of its cgroup."""
        text = host.cgroup_file(self.first_process(container), controller, v1, v2)
        assert text is not None
        return int(text)

    # --- each kind

    @needs("stats")
    @pytest.mark.parametrize("accounting", [False, True])
    def test_processor_time(self, accounting: bool) -> None:
        start = self.reached(accounting=accounting).stats().cpu.usage / 1e9  # what a tool in it has taken, too
        cpu = self.reached("burn 0.4", accounting=accounting).stats().cpu
        assert 0.4 - 2 * _TICK <= cpu.usage / 1e9 < start + 0.4 + _START
        assert cpu.user is not None and cpu.system is not None
        assert abs(cpu.user + cpu.system - cpu.usage) / 1e9 < 0.15
        assert cpu.per_cpu is None or sum(cpu.per_cpu) == pytest.approx(cpu.usage, rel=0.01)

    @needs("stats", "exec")
    def test_processor_time_of_what_was_executed_in_it(self) -> None:
        container = self.reached(accounting=True)
        before = container.stats().cpu
        with container.exec(args_of("burn 0.2"), stdout=PIPE) as process:
            process.wait(TIMEOUT)
        after = container.stats().cpu
        if after.source == "cgroup":  # else it is gone with the process
            assert 0.2 <= (after.usage - before.usage) / 1e9 < 0.2 + _START + 2 * before.usage / 1e9

    @needs("stats")
    def test_rate(self) -> None:
        container = self.start_ready("burn 60", accounting=True)

        def used() -> float:
            fields = host.fields(self.first_process(container))
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        before, began, first = container.stats(), time.monotonic(), used()
        time.sleep(0.5)
        after, ended, last = container.stats(), time.monotonic(), used()
        percent = 100 * (last - first) / (ended - began)
        assert cpu_percent(before, after) == pytest.approx(percent, abs=12)
        assert 0.4 < after.monotonic - before.monotonic < ended - began + 0.1
        assert abs(after.time - time.time()) < 5

    @needs("stats", "cgroup.cpu", "update")
    def test_throttling(self) -> None:
        container = self.start_ready("line", "burn 0.3", "say done", "sleep")
        container.update(cpus=0.1)  # less than it gets of the busiest machine
        stdin: Any = container.stdin
        stdin.write(b"\n")
        stdin.flush()
        for _ in range(3):
            host.read_line(container.stdout)
        cpu = container.stats().cpu
        assert cpu.periods is not None and cpu.throttled_periods is not None and cpu.throttled_time is not None
        assert 0 < cpu.throttled_periods <= cpu.periods
        assert cpu.throttled_time > 0.1 * 1e9

    @needs("stats")
    @pytest.mark.parametrize("accounting", [False, True])
    def test_memory(self, accounting: bool) -> None:
        memory = self.reached(f"eat {32 * _MIB}", accounting=accounting).stats().memory
        # The kernel counts a process's pages, and charges a cgroup, by the bunch.
        assert 31 * _MIB <= memory.usage < 40 * _MIB
        assert memory.anon is not None and 31 * _MIB <= memory.anon <= memory.usage
        assert memory.working_set <= memory.usage

    @needs("stats")
    def test_memory_of_many_processes(self) -> None:
        memory = self.reached(f"eat {8 * _MIB}", "chorus 3", accounting=True).stats().memory
        if memory.source == "cgroup":  # where pages that they share count once
            assert 8 * _MIB <= memory.usage < 16 * _MIB

    @needs("stats", "cgroup.memory")
    def test_peak_outlives_the_memory(self) -> None:
        memory = self.reached(f"feed {48 * _MIB}", memory="128M").stats().memory
        if memory.peak is None:
            host.lacking("memory.peak, which cgroup v2 has since Linux 5.19")
        assert memory.peak is not None and 48 * _MIB <= memory.peak < 64 * _MIB
        assert memory.usage < 16 * _MIB

    @needs("stats", "cgroup.memory")
    def test_memory_as_the_kernel_has_it(self) -> None:
        container = self.reached(f"eat {16 * _MIB}", memory="64M")
        memory = container.stats().memory
        assert memory.source == "cgroup"
        usage = self.file(container, "memory", "memory.usage_in_bytes", "memory.current")
        assert memory.usage == pytest.approx(usage, abs=_MIB)
        assert memory.limit == self.file(container, "memory", "memory.limit_in_bytes", "memory.max") == 64 * _MIB
        assert (memory.oom_kills, memory.swap) == (0, 0)

    @needs("stats", "cgroup.memory", "update")
    def test_limits_are_those_of_now(self) -> None:
        container = self.reached(memory="64M")
        container.update(memory="48M")
        assert container.stats().memory.limit == 48 * _MIB
        container.update(memory=-1)
        assert container.stats().memory.limit is None

    @needs("stats", "cgroup.memory")
    def test_want_of_memory_is_counted_while_it_runs(self) -> None:
        limits = {"memory": "32M", **({"memory_swap": "32M"} if "cgroup.swap" in self.features else {})}
        memory = self.reached(f"feed {128 * _MIB}", **limits).stats().memory
        assert memory.oom_kills == 1 and memory.failcnt != 0

    @needs("stats")
    @pytest.mark.parametrize("accounting", [False, True])
    def test_processes_and_threads(self, accounting: bool) -> None:
        pids = self.reached("chorus 3", "threads 4", accounting=accounting).stats().pids
        assert (pids.current, pids.limit) == (8, None)

    @needs("stats", "cgroup.pids")
    def test_limit_of_processes(self) -> None:
        assert self.reached(pids=17).stats().pids.limit == 17

    @needs("stats")
    def test_block_io(self) -> None:
        rootfs = self.own_rootfs()
        disk = _disk_of(rootfs)
        if disk is None and "stats" in self.features:
            host.lacking("the directory for temporary files on a block device")
        limits: dict[str, Any] = {}
        if disk is not None and "cgroup.block-io" in self.features:
            # So high that it slows nothing: with cgroup v1 what has no throttle is not counted since Linux 6.10.
            throttle = [{"major": disk[0], "minor": disk[1], "rate": 1 << 40}]
            limits = {"block_io": {"throttle_write_bps_device": throttle}}
        container = self.reached(f"fill /data/x {8 * _MIB} sync", accounting=True, rootfs=rootfs, **limits)
        found = container.stats()
        if found.blkio is None:
            assert found.memory.source == "processes" or not {"blkio", "io"} & host.controllers().keys()
            host.lacking("a cgroup that counts block I/O")
        assert found.blkio is not None
        wrote = next(device for device in found.blkio if (device.major, device.minor) == disk)
        assert 8 * _MIB <= wrote.write_bytes < 12 * _MIB
        assert 1 <= wrote.write_operations <= wrote.write_bytes // 512

    @needs("stats", "namespace.network")
    def test_network(self) -> None:
        network = self.reached("send 20 100").stats().network
        assert network is not None
        loopback = next(interface for interface in network if interface.name == "lo")
        assert loopback.rx_packets == loopback.tx_packets == 20
        assert loopback.rx_bytes == loopback.tx_bytes == 20 * (100 + 8 + 20)
        assert loopback.rx_errors == loopback.tx_dropped == 0

    @needs("stats", "network.host")
    def test_the_hosts_network_is_not_the_containers(self) -> None:
        assert self.reached(network="host").stats().network is None

    @needs("stats")
    def test_pressure_where_the_kernel_tells(self) -> None:
        container = self.reached(accounting=True)
        pressure = container.stats().pressure
        place = host.cgroup_paths(self.first_process(container)).get("")
        if place is None or not (place / "cpu.pressure").exists():
            assert pressure is None or place is not None
            host.lacking("pressure of cgroups (v2, CONFIG_PSI)")
        if pressure is None:
            assert container.stats().cpu.source == "processes", "it has a cgroup"
            host.lacking("a cgroup for this user")
        assert pressure is not None and pressure.cpu is not None and pressure.memory is not None
        assert 0 <= pressure.cpu.some.avg10 <= 100 and pressure.memory.some.total >= 0

    @needs("stats")
    def test_what_is_not_known_is_none(self) -> None:
        found = self.reached().stats()
        if found.memory.source == "processes":
            assert found.memory.peak is found.memory.limit is found.memory.oom_kills is None
        if found.cpu.source == "processes":
            assert found.cpu.throttled_time is None
        assert Stats.from_dict(json.loads(json.dumps(found.to_dict()))) == found

    # --- when, and by whom

    @needs("stats")
    def test_between_creation_and_end(self) -> None:
        container = self.create("line")
        if container.pid is not None:
            assert container.stats().cpu.usage >= 0
        container.start()
        assert container.stats().pids.current == 1
        container.communicate(b"\n", timeout=TIMEOUT)
        with pytest.raises(InvalidState) as caught:
            container.stats()
        assert "accounting" in caught.value.remedy
        container.delete()
        with pytest.raises(InvalidState):
            container.stats()

    @needs("stats", "pause")
    def test_when_paused_it_uses_nothing(self) -> None:
        container = self.start_ready("burn 60", accounting=True)
        container.pause()
        before = container.stats()
        time.sleep(0.05)
        after = container.stats()
        assert after.cpu.usage - before.cpu.usage < 0.02 * 1e9 and after.monotonic > before.monotonic
        container.resume()

    @needs("stats", "recover")
    def test_by_another_program(self) -> None:
        self.start_ready(f"eat {16 * _MIB}", "sleep", name=self.id, accounting=True)

        def other() -> None:
            with self.new_engine() as engine:
                container = engine.get(self.id)
                host.until(lambda: container.stats().memory.usage >= 16 * _MIB, "it has eaten")
                assert container.stats().pids.current == 1

        host.in_child(other)

    @needs("stats")
    def test_samples_do_not_go_back(self) -> None:
        container = self.start_ready("relay", "sleep", accounting=True)
        samples = [container.stats() for _ in range(30)]
        if samples[0].cpu.source == "cgroup":
            usage = [sample.cpu.usage for sample in samples]
            assert usage == sorted(usage)
        times = [sample.monotonic for sample in samples]
        assert times == sorted(times)

    @needs("stats")
    def test_until_the_very_end(self) -> None:
        """While it ends a sample is whole, or there is none."""
        for _ in range(5):
            container = self.start("burn 0.05", "exit 0", accounting=True)
            seen = 0
            while True:
                try:
                    found = container.stats()
                except InvalidState:
                    break
                if found.cpu.source == "cgroup":
                    assert found.memory.source == found.pids.source == "cgroup" and found.cpu.usage >= seen
                    seen = found.cpu.usage
                if self.state_of(container) == "stopped":
                    break
            container.delete(force=True)

    # --- in all

    @needs("stats")
    def test_in_all(self) -> None:
        done = self.run("burn 0.3", f"feed {40 * _MIB}", "exit 3", accounting=True)
        assert done.exit.code == 3
        self._assert_counted(done.stats, processor=0.3, peak=40 * _MIB)

    @needs("stats")
    def test_in_all_at_a_timeout(self) -> None:
        with pytest.raises(ContainerTimeout) as caught:
            self.run("burn 60", accounting=True, timeout=0.5)
        found = caught.value.stats
        if found is not None:
            assert found.cpu.source == "cgroup" and 0 < found.cpu.usage < 2e9

    @needs("stats", "cgroup.memory")
    def test_in_all_when_memory_ran_out(self) -> None:
        limits = {"memory": "32M", **({"memory_swap": "32M"} if "cgroup.swap" in self.features else {})}
        done = self.run(f"eat {128 * _MIB}", accounting=True, **limits)
        assert done.exit.reason == "oom" and done.stats is not None
        memory = done.stats.memory
        assert memory.oom_kills == done.exit.oom_kills
        assert memory.peak is None or 30 * _MIB < memory.peak <= 32 * _MIB

    @needs("stats")
    def test_in_all_is_kept_with_the_record(self) -> None:
        container = self.start("burn 0.2", "exit 0", name=self.id, accounting=True)
        container.communicate(timeout=TIMEOUT)
        found = container.stats() if self._counts(container) else None
        self._assert_counted(found, processor=0.2)
        if found is not None:
            with self.new_engine() as other:
                assert other.get(self.id).stats() == found

    @needs("stats", "recover")
    def test_in_all_when_its_maker_is_gone(self) -> None:
        """Another program sees the end of one that was let go of, and counts."""

        def make() -> object:
            engine = self.new_engine()
            container = engine.create(
                self.spec("burn 0.2", "sleep"), driver=self.name, name=self.id,
                stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, accounting=True,
            )  # fmt: skip
            container.start()
            container.detach()
            return engine, container

        host.in_child(make, killed=True)
        container = self.engine.get(self.id)
        self.orphans.append(container)
        host.until(lambda: container.stats().cpu.usage > 0.15e9, "it has computed")
        container.kill()
        container.wait(TIMEOUT)
        self._assert_counted(container.stats() if self._counts(container) else None, processor=0.15)

    # --- detached

    def detached(self, *commands: str, **fields: Any) -> Container:
        """A container that runs on without this program, and with nothing limited."""
        container = self.engine.create(self.spec(*commands, **fields), driver=self.name, name=self.id, detach=True)
        self.orphans.append(container)
        container.start()
        return container

    @needs("stats", "detach")
    def test_of_a_detached_container(self) -> None:
        maker = self.detached(f"eat {16 * _MIB}", "burn 0.2", "chorus 2", "sleep")
        if os.geteuid() != 0 and maker.stats().cpu.source != "cgroup":
            host.lacking("cgroups for this user")

        def other() -> None:
            with self.new_engine() as engine:
                container = engine.get(self.id)
                host.until(lambda: container.stats().pids.current == 3, "all run")
                found = container.stats()
                self._assert_counted(found, processor=0.2, peak=16 * _MIB)

        host.in_child(other)

    @needs("stats", "detach")
    def test_of_a_detached_container_in_all(self) -> None:
        """Told by whoever looks, after an end that its maker has not waited for."""

        def make() -> None:
            self.detached("burn 0.3", "exit 4")

        host.in_child(make, killed=True)
        container = self.engine.get(self.id)
        self.orphans.append(container)
        assert container.wait(TIMEOUT).code == 4
        self._assert_counted(container.stats() if self._counts(container) else None, processor=0.3)

    @needs("update", "detach", "pids", "cgroup.pids")
    def test_limits_and_processes_of_a_detached_container(self) -> None:
        self.detached("ignore 10", "chorus 2", "sleep")

        def other() -> None:
            with self.new_engine() as engine:
                container = engine.get(self.id)
                host.until(lambda: len(container.pids()) == 3, "all run")
                container.update(pids=30)
                assert host.cgroup_file(self.first_process(container), "pids", "pids.max", "pids.max") == "30"
                assert set(container.pids()) == host.descendants(self.first_process(container))
                container.signal("USR1", all=True)
                assert sorted(container.pids()) == sorted(host.descendants(self.first_process(container)))

        host.in_child(other)

    def test_without_accounting_there_is_none(self) -> None:
        assert self.run("exit 0").stats is None

    def _counts(self, container: Container) -> bool:
        try:
            container.stats()
        except InvalidState:
            return False
        return True

    def _assert_counted(self, found: Stats | None, *, processor: float, peak: int = 0) -> None:
        if found is None:
            if os.geteuid() == 0:
                raise AssertionError("root can have cgroups, and nothing was counted")
            host.lacking("cgroups for this user")
        assert found is not None and found.cpu.source == found.memory.source == "cgroup"
        idle = self.run("exit 0", accounting=True).stats  # what a tool takes, in the container's cgroups
        assert idle is not None
        # And memory takes time to touch.
        assert processor <= found.cpu.usage / 1e9 < processor + 4 * _START + 2 * idle.cpu.usage / 1e9
        assert found.memory.peak is None or peak <= found.memory.peak < peak + 24 * _MIB


def _disk_of(path: Path) -> tuple[int, int] | None:
    """Major and minor number of the whole disk that a file is on; None where it is on none."""
    number = os.stat(path).st_dev
    disk = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not disk.exists():
        return None
    if (disk / "partition").exists():
        disk = disk.resolve().parent
    major, minor = (disk / "dev").read_text().split(":")
    return int(major), int(minor)
