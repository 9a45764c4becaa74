"""The native plan as data: what a spec compiles to, and how it reaches the launcher. Needs no privilege."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execdrivers import ContainerSpec, SpecError
from execdrivers.cgroups import Layout, parent
from execdrivers.launcher import operations
from execdrivers_native import compile, host

ROOT = attrs.evolve(host.look(), uid=0, gid=0, capabilities=(1 << 41) - 1, bounding=(1 << 41) - 1)
ORDINARY = attrs.evolve(ROOT, uid=1234, gid=1234, capabilities=0)


def spec(rootfs: Path | None, **fields: object) -> ContainerSpec:
    return ContainerSpec.build(["sh", "-c", "true"], rootfs=rootfs, **fields)


def names(compiled: compile.NativePlan) -> list[str]:
    return [item.name for item in compiled.operations]


def test_plan_is_the_same_twice(rootfs: Path) -> None:
    one, two = (compile.compile(spec(rootfs, memory="64M", env={"A": "b"}), "box", ROOT) for _ in range(2))
    assert one == two
    assert one.plan().to_dict() == two.plan().to_dict()
    assert operations.encode(one.operations) == operations.encode(two.operations)


def test_nothing_is_executed_before_everything_is_given_up(rootfs: Path) -> None:
    order = names(compile.compile(spec(rootfs), "box", ROOT))
    assert order[-2:] == ["ready", "exec"]
    expected = ["root", "pivot", "bounding", "identity", "chdir", "capabilities", "no_new_privileges", "seccomp"]
    assert [order.index(name) for name in expected] == sorted(order.index(name) for name in expected)


def test_nothing_that_is_not_asked_for_takes_a_round_trip(rootfs: Path) -> None:
    """To the caller and back; nor does one id of an ordinary user."""
    for facts in (ROOT, ORDINARY):
        compiled = compile.compile(spec(rootfs), "box", facts)
        assert not {"sync", "enter", "attach", "root_tree"} & set(names(compiled))
        assert not (compiled.trees or compiled.joined or compiled.outside or compiled.raised)


def test_limits_become_cgroups_and_none_without(rootfs: Path) -> None:
    assert compile.compile(spec(rootfs), "box", ROOT).cgroups == ()
    limited = compile.compile(spec(rootfs, memory="64M", pids=7), "box", ROOT)
    values = {name: value for cgroup in limited.cgroups for name, value in cgroup.values}
    assert values["pids.max"] == "7"
    assert str(64 << 20) in values.values()
    assert all(cgroup.path.endswith(f"/{parent()}/box") for cgroup in limited.cgroups)


@pytest.mark.parametrize(
    ("fields", "version", "expected"),
    [
        ({"cpus": 1.5}, 1, [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "150000")]),
        ({"cpus": 1.5}, 2, [("cpu.max", "150000 100000")]),
        ({"cpu_shares": 1024}, 1, [("cpu.shares", "1024")]),
        ({"cpu_shares": 1024}, 2, [("cpu.weight", "100")]),
        ({"cpu_shares": 2}, 2, [("cpu.weight", "1")]),
        ({"cpu_shares": 262144}, 2, [("cpu.weight", "10000")]),
        ({"memory": "64M"}, 1, [("memory.limit_in_bytes", "67108864"), ("memory.memsw.limit_in_bytes", "67108864")]),
        ({"memory": "64M"}, 2, [("memory.max", "67108864"), ("memory.swap.max", "0")]),
        ({"memory": "64M", "memory_swap": "96M"}, 2, [("memory.max", "67108864"), ("memory.swap.max", "33554432")]),
        ({"memory": "64M", "memory_swap": -1}, 2, [("memory.max", "67108864"), ("memory.swap.max", "max")]),
        ({"pids": -1}, 2, [("pids.max", "max")]),
        ({"cpuset_cpus": "0-1"}, 2, [("cpuset.cpus", "0-1")]),
    ],
)
def test_resources_on_both_cgroup_versions(
    rootfs: Path, fields: dict[str, object], version: int, expected: list[tuple[str, str]]
) -> None:
    controllers = ("memory", "pids", "cpu", "cpuset")
    layout = (
        Layout({name: f"/cg/{name}" for name in controllers}, "", frozenset(), swap=True)
        if version == 1
        else Layout({}, "/cg", frozenset(controllers), swap=True)
    )
    facts = attrs.evolve(ROOT, cgroups=layout)
    compiled = compile.compile(spec(rootfs, **fields), "box", facts)
    assert [value for cgroup in compiled.cgroups for value in cgroup.values] == expected


def test_without_privilege_one_id_is_mapped_and_no_node_is_made(rootfs: Path) -> None:
    compiled = compile.compile(spec(rootfs, user="33:33"), "box", ORDINARY)
    assert compiled.namespaces[0] == "user"
    writes = [item.args for item in compiled.operations if item.name == "write"]
    assert ("/proc/self/uid_map", "33 1234 1") in writes
    assert "device" not in names(compiled)


def test_host_root_is_readonly_with_private_places_and_an_unprivileged_user() -> None:
    compiled = compile.compile(ContainerSpec(["true"]), "box", ROOT)
    by_name = {item.name: item for item in compiled.operations}
    assert by_name["root"].args[:2] == ("/", 1)
    assert "ro" in by_name["root"].args[2]
    assert by_name["identity"].args[:2] == (65534, 65534)
    places = {item.args[2] for item in compiled.operations if item.name == "mount"}
    assert {"/proc", "/dev", "/tmp", "/run"} <= places


def test_a_mount_of_the_spec_takes_the_place_of_the_default(rootfs: Path) -> None:
    mount = {"destination": "/dev/shm", "type": "tmpfs", "options": ["size=1m"]}
    compiled = compile.compile(spec(rootfs, mounts=[mount]), "box", ROOT)
    shm = [item for item in compiled.operations if item.name == "mount" and item.args[2] == "/dev/shm"]
    assert len(shm) == 1
    assert shm[0].args[-1] == ("size=1m",)


_text = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=40)


@given(
    args=st.lists(_text.filter(bool), min_size=1, max_size=8),
    env=st.dictionaries(st.from_regex(r"[A-Z_]{1,9}", fullmatch=True), _text),
)
@settings(max_examples=60, deadline=None)
def test_any_text_survives_the_encoding(args: list[str], env: dict[str, str]) -> None:
    compiled = compile.compile(ContainerSpec(args, env=env), "box", ROOT)
    plan = operations.encode(compiled.operations)
    for text in (*args, *(f"{key}={value}" for key, value in env.items())):
        assert text.encode() + b"\0" in plan


def test_rootfs_must_have_the_directories_of_the_default_mounts(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    with pytest.raises(SpecError, match=r"has no directory /dev.*mkdir .*ephemeral"):
        compile.compile(spec(tmp_path), "box", ROOT)
    compile.compile(spec(tmp_path, ephemeral=True), "box", ROOT)
