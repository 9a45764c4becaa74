"""Limits as values of the kernel's files, on either version: tables, and what must hold for all values."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from execdrivers import Resources, SpecError
from execdrivers.cgroups import Layout, check, features, plan, values
from execdrivers.cgroups.convert import cpu_weight, io_weight

_NAMES = ("memory", "pids", "cpu", "cpuset", "blkio", "hugetlb", "rdma", "net_cls", "net_prio", "freezer")
V1 = Layout({name: f"/cg/{name}" for name in _NAMES}, "", frozenset(), swap=True)
V2 = Layout({}, "/cg", frozenset({"memory", "pids", "cpu", "cpuset", "io", "hugetlb", "rdma"}), swap=True)
HYBRID = Layout({"memory": "/cg/memory", "freezer": "/cg/freezer"}, "/cg/unified", frozenset({"hugetlb"}), swap=True)

_THROTTLE = {
    "throttle_read_bps_device": [{"major": 8, "minor": 0, "rate": "1M"}],
    "throttle_write_iops_device": [{"major": 8, "minor": 0, "rate": 7}, {"major": 8, "minor": 16, "rate": 0}],
}
_DEVICE = {"weight_device": [{"major": 8, "minor": 0, "weight": 1000}]}


@pytest.mark.parametrize(
    ("limits", "on_v1", "on_v2"),
    [
        ({"memory": -1}, ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
         ["memory.max=max", "memory.swap.max=max"]),
        ({"memory": "64M", "memory_swap": -1}, ["memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=-1"],
         ["memory.max=67108864", "memory.swap.max=max"]),
        ({"memory_reservation": "24M"}, ["memory.soft_limit_in_bytes=25165824"], ["memory.low=25165824"]),
        ({"memory_swappiness": 13}, ["memory.swappiness=13"], []),
        ({"oom_kill_disable": True}, ["memory.oom_control=1"], []),
        ({"cpu_quota": 1000, "cpu_period": 5000}, ["cpu.cfs_period_us=5000", "cpu.cfs_quota_us=1000"],
         ["cpu.max=1000 5000"]),
        ({"cpu_quota": -1}, ["cpu.cfs_quota_us=-1"], ["cpu.max=max 100000"]),
        ({"cpu_period": 5000}, ["cpu.cfs_period_us=5000"], ["cpu.max=max 5000"]),
        ({"cpus": 0.5, "cpu_burst": 20000},
         ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000", "cpu.cfs_burst_us=20000"],
         ["cpu.max=50000 100000", "cpu.max.burst=20000"]),
        ({"cpu_idle": True, "cpu_shares": 1024}, ["cpu.shares=1024", "cpu.idle=1"], ["cpu.weight=100", "cpu.idle=1"]),
        ({"cpu_idle": False, "cpu_shares": 2}, ["cpu.idle=0", "cpu.shares=2"], ["cpu.idle=0", "cpu.weight=1"]),
        ({"cpu_rt_runtime": 1000, "cpu_rt_period": 9000}, ["cpu.rt_period_us=9000", "cpu.rt_runtime_us=1000"], []),
        ({"block_io": {"weight": 10}}, ["blkio.bfq.weight=10"], ["io.bfq.weight=10", "io.weight=1"]),
        ({"block_io": _DEVICE}, ["blkio.bfq.weight_device=8:0 1000"], ["io.bfq.weight=8:0 1000"]),
        ({"block_io": _THROTTLE},
         ["blkio.throttle.read_bps_device=8:0 1048576", "blkio.throttle.write_iops_device=8:0 7",
          "blkio.throttle.write_iops_device=8:16 0"],
         ["io.max=8:0 rbps=1048576 wiops=7", "io.max=8:16 wiops=max"]),
        ({"hugepage_limits": {"2MB": "4M"}},
         ["hugetlb.2MB.rsvd.limit_in_bytes=4194304", "hugetlb.2MB.limit_in_bytes=4194304"],
         ["hugetlb.2MB.rsvd.max=4194304", "hugetlb.2MB.max=4194304"]),
        ({"rdma": {"mlx5_0": {"hca_handles": 3, "hca_objects": 0}}}, ["rdma.max=mlx5_0 hca_handle=3 hca_object=0"],
         ["rdma.max=mlx5_0 hca_handle=3 hca_object=0"]),
        ({"network_class_id": 0x100001}, ["net_cls.classid=1048577"], []),
        ({"network_priorities": {"lo": 5}}, ["net_prio.ifpriomap=lo 5"], []),
        ({"unified": {"memory.high": "1\n2"}}, None, ["memory.high=1", "memory.high=2"]),
        ({"memory": "1M", "unified": {"memory.max": "2M"}}, None,
         ["memory.max=1048576", "memory.swap.max=0", "memory.max=2M"]),
    ],
)  # fmt: skip
def test_files(limits: dict[str, Any], on_v1: list[str] | None, on_v2: list[str]) -> None:
    for layout, expected in ((V1, on_v1), (V2, on_v2)):
        if expected is not None:
            written = values(Resources(**limits), layout).values()
            assert [f"{name}={value}" for files in written for name, value in files] == expected


def test_each_where_its_controller_is() -> None:
    limits = Resources(memory="64M", hugepage_limits={"2MB": 0}, unified={"cgroup.max.depth": 3}, pids=-1)
    one, two = plan(limits, "box", HYBRID)
    assert (one.version, one.controllers, one.mount_point) == (1, ("memory",), "/cg/memory")
    assert (two.version, two.controllers, two.mount_point) == (2, ("hugetlb",), "/cg/unified")
    assert two.written() == {"hugetlb.2MB.rsvd.max": "0", "hugetlb.2MB.max": "0", "cgroup.max.depth": "3"}


def test_operations_beyond_32_bits_are_no_limit() -> None:
    """The kernel would cut 2**32 to 0 operations a second."""
    limits = {"throttle_read_iops_device": [{"major": 8, "minor": 0, "rate": 2**32}]}
    assert values(Resources(block_io=limits), V1) == {"blkio": [("blkio.throttle.read_iops_device", "8:0 0")]}


@pytest.mark.parametrize(
    ("shares", "weight"),
    # 2000 → 170 is from runc #4896; the others are the ends, the defaults, and their neighbours.
    [
        (2, 1),
        (3, 2),
        (4, 2),
        (512, 59),
        (2000, 170),
        (1023, 100),
        (1024, 100),
        (1025, 101),
        (262143, 10000),
        (262144, 10000),
    ],
)
def test_weight_for_shares(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_more_shares_are_never_less_weight(one: int, other: int) -> None:
    assert 1 <= cpu_weight(one) <= 10000
    assert (one <= other) <= (cpu_weight(one) <= cpu_weight(other))


@given(st.integers(10, 1000), st.integers(10, 1000))
def test_io_weights_keep_their_order(one: int, other: int) -> None:
    assert 1 <= io_weight(one) <= 10000
    assert (one < other) <= (io_weight(one) < io_weight(other))


@given(memory=st.integers(1 << 20, 2**40) | st.just(-1), swap=st.none() | st.integers(0, 2**40) | st.just(-1))
def test_swap_of_v2_is_the_difference(memory: int, swap: int | None) -> None:
    total = swap if swap in (None, -1) else memory + swap
    if memory == -1 and total not in (None, -1):
        return
    files = dict(values(Resources(memory=memory, memory_swap=total), V2)["memory"])
    unlimited = total == -1 or (total is None and memory == -1)
    assert files["memory.swap.max"] == ("max" if unlimited else str(swap or 0))
    assert files["memory.max"] == ("max" if memory == -1 else str(memory))


# --- what cannot be had --------------------------------------------------------------------------------------------


def test_what_v2_has_not_is_missing_with_a_reason(tmp_path: Any) -> None:
    names = ("memory-swappiness", "oom-kill-disable", "cpu-realtime", "net-cls", "net-prio")
    of_v1 = {f"cgroup.{name}" for name in names}
    found = features(attrs.evolve(V2, v2=str(tmp_path)))
    assert {feature for feature, problem in found.items() if problem} == of_v1
    assert all(problem is None or (problem.reason and problem.remedy) for problem in found.values())
    places = attrs.evolve(V1, v1=dict.fromkeys(V1.v1, str(tmp_path)))
    assert {feature for feature, problem in features(places).items() if problem} == {"cgroup.unified"}


def test_what_the_kernel_lacks_is_missing(tmp_path: Any) -> None:
    bare = attrs.evolve(
        V1, v1={"cpu": str(tmp_path), "hugetlb": str(tmp_path)}, extras=frozenset(), huge_pages=frozenset()
    )
    missing = {feature for feature, problem in features(bare).items() if problem}
    assert {"cgroup.cpu-burst", "cgroup.cpu-idle", "cgroup.cpu-realtime", "cgroup.hugetlb", "cgroup.memory"} <= missing
    assert "cgroup.cpu" not in missing


@pytest.mark.parametrize(
    ("limits", "layout", "field", "says"),
    [
        ({"hugepage_limits": {"4MB": 0}}, V1, 'hugepage_limits["4MB"]', "1GB, 2MB"),
        ({"block_io": {"leaf_weight": 10}}, V1, "block_io.leaf_weight", "CFQ"),
        ({"block_io": {"weight": 10}}, attrs.evolve(V2, weights=frozenset()), "block_io.weight", "BFQ"),
        ({"block_io": {"throttle_read_bps_device": [{"major": 4095, "minor": 1, "rate": 1}]}}, V2,
         "block_io.throttle_read_bps_device[0]", "4095:1"),
        ({"unified": {"memory.high": "1"}}, HYBRID, 'unified["memory.high"]', "of v1"),
        ({"unified": {"io.max": "1"}}, HYBRID, 'unified["io.max"]', "hugetlb"),
        ({"unified": {"cgroup.procs": "1"}}, V2, 'unified["cgroup.procs"]', "no limit"),
        ({"unified": {"cgroup.subtree_control": "+cpu"}}, V2, 'unified["cgroup.subtree_control"]', "no limit"),
    ],
)  # fmt: skip
def test_what_is_refused(limits: dict[str, Any], layout: Layout, field: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(Resources(**limits), layout)
    assert caught.value.field == f"resources.{field}"
    assert says in str(caught.value) and caught.value.remedy
