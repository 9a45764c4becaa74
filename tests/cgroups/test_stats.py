"""Samples from files as kernels of both versions have written them; real ones are the conformance kit's."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from execdrivers import Resources, Stats, cgroups, cpu_percent, pidfd
from execdrivers.cgroups import CgroupDir, Layout
from execdrivers.cgroups.stats import sample
from execdrivers.stats import DeviceStats, Pressure, Stall

#: Linux 6.18, of a container that has burnt half a second and written four megabytes; parts that are not read cut out.
V1: Mapping[str, Mapping[str, str]] = {
    "cpuacct": {
        "cpuacct.usage": "511003408\n",
        "cpuacct.stat": "user 34\nsystem 16\n",
        "cpuacct.usage_percpu": "1938886 509064522 \n",
    },
    "cpu": {"cpu.stat": "nr_periods 12\nnr_throttled 3\nthrottled_time 130024512\n"},
    "memory": {
        "memory.usage_in_bytes": "25165824\n",
        "memory.max_usage_in_bytes": "26214400\n",
        "memory.limit_in_bytes": "67108864\n",
        "memory.failcnt": "3\n",
        "memory.memsw.failcnt": "4\n",
        "memory.kmem.usage_in_bytes": "516096\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.stat": "cache 1\nrss 2\ntotal_cache 4194304\ntotal_rss 20135936\ntotal_swap 8192\n"
        "total_inactive_file 4190208\n",
    },
    "pids": {"pids.current": "4\n", "pids.max": "20\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive": "254:0 Read 16384\n254:0 Write 4194304\n254:0 Sync 4210688\n"
        "254:0 Async 0\n254:0 Discard 0\n254:0 Total 4210688\nTotal 4210688\n",
        "blkio.throttle.io_serviced_recursive": "254:0 Read 4\n254:0 Write 9\n254:0 Total 13\nTotal 13\n",
    },
    "freezer": {"freezer.state": "THAWED\n"},
}
_STALLS = "some avg10=1.50 avg60=0.75 avg300=0.10 total=33904\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=33730\n"
V2 = {
    "cpu.stat": "usage_usec 511003\nuser_usec 340120\nsystem_usec 170883\nnice_usec 0\ncore_sched.force_idle_usec 0\n"
    "nr_periods 12\nnr_throttled 3\nthrottled_usec 130024\nnr_bursts 0\nburst_usec 0\n",
    "cpu.pressure": _STALLS,
    "memory.pressure": _STALLS,
    "memory.current": "25165824\n",
    "memory.peak": "26214400\n",
    "memory.max": "67108864\n",
    "memory.swap.current": "8192\n",
    "memory.stat": "anon 20135936\nfile 4194304\nkernel 516096\ninactive_file 4190208\n",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n",
    "pids.current": "4\n",
    "pids.max": "max\n",
    "io.stat": "254:0 rbytes=16384 wbytes=4194304 rios=4 wios=9 dbytes=0 dios=0\n7:0 \n",
}
_DISK = DeviceStats(
    major=254, minor=0, read_bytes=16384, write_bytes=4194304, read_operations=4, write_operations=9
)  # fmt: skip


def write(directory: Path, files: Mapping[str, str]) -> None:
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)


def v1(root: Path, *controllers: str) -> list[CgroupDir]:
    for name in controllers or V1:
        write(root / name / "box", V1[name])
    return [CgroupDir(str(root / name), "box", (name,), 1) for name in controllers or V1]


def v2(root: Path, files: Mapping[str, str] = V2) -> list[CgroupDir]:
    write(root / "unified/box", files)
    return [CgroupDir(str(root / "unified"), "box", (), 2)]


def nobody() -> list[int]:
    raise AssertionError("the cgroups tell all")


def test_v1(tmp_path: Path) -> None:
    found = sample(v1(tmp_path), nobody)
    assert abs(found.time - time.time()) < 5 and abs(found.monotonic - time.monotonic()) < 5
    assert attrs.asdict(found.cpu) == {
        "source": "cgroup", "usage": 511003408, "user": 340_000_000, "system": 160_000_000,
        "per_cpu": (1938886, 509064522), "periods": 12, "throttled_periods": 3, "throttled_time": 130024512,
    }  # fmt: skip
    assert attrs.asdict(found.memory) == {
        "source": "cgroup", "usage": 25165824, "peak": 26214400, "limit": 67108864, "swap": 8192, "anon": 20135936,
        "file": 4194304, "inactive_file": 4190208, "kernel": 516096, "oom_kills": 2, "failcnt": 7,
    }  # fmt: skip
    assert found.memory.working_set == 25165824 - 4190208
    assert (found.pids.current, found.pids.limit) == (4, 20)
    assert found.blkio == (_DISK,)
    assert found.network is None and found.pressure is None


def test_v2(tmp_path: Path) -> None:
    found = sample(v2(tmp_path), nobody)
    assert attrs.asdict(found.cpu) == {
        "source": "cgroup", "usage": 511_003_000, "user": 340_120_000, "system": 170_883_000,
        "per_cpu": None, "periods": 12, "throttled_periods": 3, "throttled_time": 130_024_000,
    }  # fmt: skip
    assert attrs.asdict(found.memory) == attrs.asdict(sample(v1(tmp_path), nobody).memory)
    assert (found.pids.current, found.pids.limit) == (4, None)
    assert found.blkio == (_DISK,)
    assert found.pressure is not None and found.pressure.io is None
    assert found.pressure.cpu == Pressure(
        some=Stall(avg10=1.5, avg60=0.75, avg300=0.1, total=33_904_000),
        full=Stall(avg10=0.0, avg60=0.0, avg300=0.0, total=33_730_000),
    )


def test_hybrid_takes_each_from_where_it_is(tmp_path: Path) -> None:
    pressure = {"cpu.stat": V2["cpu.stat"], "cpu.pressure": _STALLS}
    found = sample([*v1(tmp_path, "memory", "pids"), *v2(tmp_path, pressure)], nobody)
    assert (found.cpu.usage, found.memory.usage, found.pids.limit) == (511_003_000, 25165824, 20)
    assert found.blkio is None and found.pressure is not None


def test_what_an_older_kernel_does_not_tell_is_none(tmp_path: Path) -> None:
    old = {name: text for name, text in V2.items() if name != "memory.peak" and "pressure" not in name}
    old["memory.stat"] = "anon 20135936\nfile 4194304\ninactive_file 4190208\n"
    old["cpu.stat"] = "usage_usec 1\nuser_usec 1\nsystem_usec 0\n"
    found = sample(v2(tmp_path, old), nobody)
    assert found.memory.peak is found.memory.kernel is found.pressure is found.cpu.periods is None
    kernel_5_0 = {"cpu.pressure": _STALLS.splitlines()[0] + "\n", **old}
    found = sample(v2(tmp_path / "5.0", kernel_5_0), nobody)
    assert found.pressure is not None and found.pressure.cpu is not None and found.pressure.cpu.full is None


def test_no_limit_is_none(tmp_path: Path) -> None:
    made = v1(tmp_path, "memory", "pids", "cpuacct")
    (tmp_path / "memory/box/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "pids/box/pids.max").write_text("max\n")
    found = sample(made, nobody)
    assert found.memory.limit is found.pids.limit is None
    other = {**V2, "memory.max": "max\n"}
    assert sample(v2(tmp_path, other), nobody).memory.limit is None


def test_without_a_cgroup_it_is_summed_over_the_processes() -> None:
    used = time.process_time()
    while time.process_time() < used + 0.05:
        pass
    found = sample((), lambda: [os.getpid(), 2**22 + 1])
    assert {found.cpu.source, found.memory.source, found.pids.source} == {"processes"}
    assert abs(found.cpu.usage / 1e9 - sum(os.times()[:4])) < 0.1
    assert found.memory.usage > 1 << 20 and found.memory.anon is not None and 0 < found.memory.anon < found.memory.usage
    assert found.pids.current == len(os.listdir("/proc/self/task"))
    assert found.blkio is found.memory.peak is found.memory.limit is found.cpu.per_cpu is None


def test_another_cgroup_of_the_same_name_is_not_looked_at(tmp_path: Path) -> None:
    made = [attrs.evolve(cgroup, inode=os.stat(cgroup.path).st_ino + 1) for cgroup in v1(tmp_path)]
    assert sample(made, list).cpu.source == "processes"
    gone = [CgroupDir(str(tmp_path), "nosuch", ("memory", "cpuacct"), 1)]
    assert sample(gone, list).memory.usage == 0


def test_the_hosts_network_is_not_the_containers() -> None:
    fd = pidfd.open(os.getpid())
    try:
        assert sample((), list, os.getpid(), fd).network is None
    finally:
        os.close(fd)


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_json_both_ways(files: object, tmp_path: Path) -> None:
    found = sample(v1(tmp_path) if files is V1 else v2(tmp_path), nobody)
    assert Stats.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_percent_of_a_processor(tmp_path: Path) -> None:
    before = sample(v2(tmp_path), nobody)
    later = attrs.evolve(before, monotonic=before.monotonic + 0.5)
    after = attrs.evolve(later, cpu=attrs.evolve(before.cpu, usage=before.cpu.usage + 750_000_000))
    assert cpu_percent(before, after) == pytest.approx(150)
    assert cpu_percent(before, later) == cpu_percent(before, before) == cpu_percent(after, before) == 0


# --- cgroups that count -------------------------------------------------------------------------------------------


def test_accounting_has_a_cgroup_of_every_controller_that_counts(tmp_path: Path) -> None:
    place = str(tmp_path)
    names = ("memory", "cpuacct", "cpu", "pids", "blkio", "freezer", "devices", "cpuset")
    points = {name: str(tmp_path / name) for name in names}
    for point in points.values():
        os.mkdir(point)
    layout = Layout(points, place, frozenset(), swap=True)
    planned = cgroups.plan(None, "box", layout, accounting=True)
    assert [cgroup.controllers for cgroup in planned] == [
        ("memory",), ("cpuacct",), ("cpu",), ("pids",), ("blkio",), ("freezer",), (),
    ]  # fmt: skip
    assert not any(cgroup.values for cgroup in planned)
    unified = Layout({}, place, frozenset({"memory", "pids", "cpu", "io", "cpuset"}), swap=True)
    (planned_v2,) = cgroups.plan(Resources(memory="64M"), "box", unified, accounting=True)
    assert set(planned_v2.controllers) == {"memory", "pids", "cpu", "io"}
    assert planned_v2.written()["memory.max"] == str(64 << 20)


def test_accounting_makes_do_with_what_is_there(tmp_path: Path) -> None:
    closed = Layout({"memory": str(tmp_path)}, "/nowhere", frozenset(), swap=True, delegated={"/nowhere": None})
    assert [cgroup.controllers for cgroup in cgroups.plan(None, "box", closed, accounting=True)] == [("memory",)]
    assert cgroups.plan(None, "box", Layout({}, "", frozenset(), swap=True), accounting=True) == ()
