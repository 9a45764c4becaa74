"""Every limit on a real kernel, of whichever version; where the cgroups are; what an ordinary user was delegated."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from execdrivers import Container, ContainerSpec, Engine, LaunchError, OperationError, SpecError, cgroups
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root", "busybox")

_USER = 4321
Start = Callable[..., Container]


@pytest.fixture
def start(engine: Engine, rootfs: Path) -> Iterator[Start]:
    """Fields of a spec → a running container."""
    with contextlib.ExitStack() as stack:

        def start(**fields: Any) -> Container:
            spec = ContainerSpec.build(["sleep", "60"], rootfs=rootfs, init=True, **fields)
            container = stack.enter_context(engine.create(spec, driver="native"))
            container.start()
            return container

        yield start


def need(feature: str) -> None:
    if problem := cgroups.features(cgroups.look())[feature]:
        pytest.skip(f"needs {feature}: {problem}")


def files(container: Container, controller: str) -> dict[str, str]:
    """What is in the files of the first process's cgroup that have one line."""
    version = host.controllers()[controller]
    assert container.pid is not None
    directory = host.cgroup_paths(container.pid)[controller if version == 1 else ""]
    found = {}
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            found[path.name] = path.read_text().strip()
    return found


def disk() -> tuple[str, dict[str, int]]:
    for path in sorted(Path("/sys/block").glob("[vs]d*")):
        number = (path / "dev").read_text().strip()
        major, minor = map(int, number.split(":"))
        return number, {"major": major, "minor": minor}
    pytest.skip("needs a disk")


# --- values ---------------------------------------------------------------------------------------------------------


def test_block_io(start: Start) -> None:
    need("cgroup.block-io")
    number, device = disk()
    controller, version = ("blkio", 1) if "blkio" in host.controllers() else ("io", 2)
    limits: dict[str, Any] = {
        "throttle_read_bps_device": [{**device, "rate": "3M"}],
        "throttle_write_bps_device": [{**device, "rate": "5M"}],
        "throttle_read_iops_device": [{**device, "rate": 70}],
        "throttle_write_iops_device": [{**device, "rate": 80}],
    }
    if cgroups.look().weights:
        limits["weight"] = 500
    container = start(block_io=limits)

    def throttled() -> list[str]:
        found = files(container, controller)
        if version == 2:
            return dict(line.split(" ", 1) for line in found["io.max"].splitlines()).get(number, "").split()
        names = ("read_bps", "write_bps", "read_iops", "write_iops")
        limits = (found[f"blkio.throttle.{name}_device"].removeprefix(number).strip() or "max" for name in names)
        return [f"{key}={value}" for key, value in zip(("rbps", "wbps", "riops", "wiops"), limits, strict=True)]

    assert throttled() == ["rbps=3145728", "wbps=5242880", "riops=70", "wiops=80"]
    weights = {name: value for name, value in files(container, controller).items() if name.endswith("weight")}
    assert not cgroups.look().weights or {"500", "default 500", "default 4950"} & set(weights.values()), weights
    container.update(block_io={"throttle_read_bps_device": [{**device, "rate": 0}]})
    assert throttled() == ["rbps=max", "wbps=5242880", "riops=70", "wiops=80"]


def test_a_disk_is_throttled(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    """5 MB at 5 MB a second take 0.8 s but for the kernel's first slice; the disk itself takes less than 0.1."""
    need("cgroup.block-io")
    number = os.stat(tmp_path).st_dev
    disk = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not disk.exists() or (disk / "partition").exists():
        pytest.skip("needs a directory that is on a whole disk")
    (tmp_path / "data").write_bytes(os.urandom(5 << 20))
    os.sync()
    device = {"major": os.major(number), "minor": os.minor(number), "rate": "5M"}
    done = engine.run(
        ["sh", "-c", "time -p dd if=/mnt/data of=/dev/null bs=1M iflag=direct"],
        rootfs=rootfs, driver="native", capture_output=True, text=True,
        block_io={"throttle_read_bps_device": [device]},
        mounts=[{"type": "bind", "source": str(tmp_path), "destination": "/mnt", "options": ["ro"]}],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stderr.split("real")[1].split()[0]) > 0.4, done.stderr


def test_huge_pages(start: Start) -> None:
    need("cgroup.hugetlb")
    version = host.controllers()["hugetlb"]
    last = "limit_in_bytes" if version == 1 else "max"
    container = start(hugepage_limits={"2MB": "4M"})
    found = files(container, "hugetlb")
    assert found[f"hugetlb.2MB.{last}"] == found[f"hugetlb.2MB.rsvd.{last}"] == str(4 << 20)
    container.update(hugepage_limits={"2MB": "8M"})
    assert files(container, "hugetlb")[f"hugetlb.2MB.{last}"] == str(8 << 20)


def test_idle_and_weight_go_in_the_order_that_the_kernel_wants(start: Start) -> None:
    need("cgroup.cpu-idle")
    container = start(cpu_shares=512, cpu_idle=True)
    assert files(container, "cpu")["cpu.idle"] == "1"
    container.update(cpu_idle=False, cpu_shares=2048)
    found = files(container, "cpu")
    assert found["cpu.idle"] == "0"
    assert found.get("cpu.shares", found.get("cpu.weight")) in ("2048", "174")
    container.update(cpu_shares=1024, cpu_idle=True)
    assert files(container, "cpu")["cpu.idle"] == "1"


def test_quota_and_burst_go_up_and_down(start: Start) -> None:
    need("cgroup.cpu-burst")
    container = start(cpus=0.5, cpu_burst=40_000)
    for cpus, burst in ((0.2, 15_000), (1.5, 120_000)):
        container.update(cpus=cpus, cpu_burst=burst)
        found = files(container, "cpu")
        assert found.get("cpu.cfs_burst_us", found.get("cpu.max.burst")) == str(burst)
        assert str(round(cpus * 100_000)) in found.get("cpu.cfs_quota_us", found.get("cpu.max", ""))


def test_realtime_for_two(start: Start) -> None:
    need("cgroup.cpu-realtime")
    first, second = start(cpu_rt_runtime=1000), start(cpu_rt_runtime=2000, cpu_rt_period=500_000)
    assert files(first, "cpu")["cpu.rt_runtime_us"] == "1000"
    assert files(second, "cpu")["cpu.rt_runtime_us"] == "2000"
    first.update(cpu_rt_runtime=3000)
    assert files(first, "cpu")["cpu.rt_runtime_us"] == "3000"


@pytest.mark.parametrize(
    ("feature", "limits", "controller", "file", "value"),
    [
        ("cgroup.memory-swappiness", {"memory_swappiness": 7}, "memory", "memory.swappiness", "7"),
        (
            "cgroup.memory-reservation",
            {"memory_reservation": "32M"},
            "memory",
            "memory.(soft_limit_in_bytes|low)",
            None,
        ),
        ("cgroup.net-cls", {"network_class_id": 0x100001}, "net_cls", "net_cls.classid", "1048577"),
        ("cgroup.unified", {"unified": {"cgroup.max.descendants": 5}}, "freezer", "cgroup.max.descendants", "5"),
    ],
)
def test_of_one_that_had_none(
    start: Start, feature: str, limits: Mapping[str, Any], controller: str, file: str, value: str | None
) -> None:
    """A container that was made without any cgroup gets one at the update."""
    need(feature)
    container = start()
    container.update(**limits)
    assert container.pid is not None
    places = host.cgroup_paths(container.pid)
    directory = places[""] if file.startswith("cgroup.") or host.controllers()[controller] == 2 else places[controller]
    names = [f"memory.{end}" for end in ("soft_limit_in_bytes", "low")] if "|" in file else [file]
    found = {(directory / name).read_text().strip() for name in names if (directory / name).exists()}
    assert found == {value or str(32 << 20)}


def test_an_unknown_device_and_file_are_told(start: Start) -> None:
    need("cgroup.unified")
    with pytest.raises(SpecError, match=r'resources.unified\["nothing.max"\]'):
        start(unified={"nothing.max": "1"})
    controllers = sorted(cgroups.look().v2_controllers)
    if controllers:
        with pytest.raises(LaunchError, match="does not have this file"):
            start(unified={f"{controllers[0]}.nonsense": "1"})
    container = start()
    with pytest.raises(OperationError, match=r"cgroup\.max\.depth"):
        container.update(unified={"cgroup.max.depth": "-5"})


@pytest.mark.needs("cgroup-v2")
@pytest.mark.parametrize("together", [0, 1])
def test_who_dies_when_memory_runs_out(engine: Engine, rootfs: Path, together: int) -> None:
    """One process, as on v1 and as docker has it; with memory.oom.group all of them. Either is told."""
    done = engine.run(
        ["sh", "-c", "tail -c 200m /dev/zero | tail >/dev/null; exit 3"], rootfs=rootfs, driver="native",
        memory="32M", unified={"memory.oom.group": together}, timeout=60,
    )  # fmt: skip
    assert done.exit.reason == "oom" and done.exit.oom_kills >= 1 + together
    assert done.returncode == (-9 if together else 3)


# --- places ---------------------------------------------------------------------------------------------------------


def _found(path: str) -> list[str]:
    return [point for point in cgroups.look().mount_points() if os.path.exists(f"{point}/{path}")]


def test_a_path_from_the_root_is_made_and_removed_whole(start: Start) -> None:
    top = f"{cgroups.parent()}-path{os.getpid()}"
    first = start(cgroups_path=f"/{top}/a/one")
    second = start(cgroups_path=f"/{top}/a/two", pids=9)
    assert len(_found(f"{top}/a/one")) == len({*cgroups.look().v1.values(), cgroups.look().v2} - {""})
    assert first.pid is not None
    assert all(str(path).endswith("/a/one") for name, path in host.cgroup_paths(first.pid).items() if "=" not in name)
    second.pause()
    second.resume()
    first.delete(force=True)
    assert _found(f"{top}/a/two") and not _found(f"{top}/a/one")
    second.delete(force=True)
    assert not _found(top)


def test_what_others_made_stays(start: Start) -> None:
    top = f"{cgroups.parent()}-path{os.getpid()}"
    places = [f"{point}/{top}" for point in {*cgroups.look().v1.values(), cgroups.look().v2} - {""}]
    for place in places:
        os.mkdir(place)
    try:
        start(cgroups_path=f"/{top}/one").delete(force=True)
        assert all(os.path.isdir(place) and not os.path.exists(f"{place}/one") for place in places)
        with pytest.raises(LaunchError, match="File exists"):
            start(cgroups_path=f"/{top}")
        assert all(os.path.isdir(place) for place in places)
    finally:
        for place in places:
            os.rmdir(place)


def test_a_unit_of_systemd_by_its_path(start: Start) -> None:
    top = f"ed{os.getpid()}"
    container = start(cgroups_path=f"{top}-x.slice:test:one", pids=7)
    place = f"{top}.slice/{top}-x.slice/test-one.scope"
    assert container.pid is not None and container.pid in cgroups.processes(cgroups.find(place, cgroups.look()))
    container.delete(force=True)
    assert not _found(f"{top}.slice")


def test_a_process_that_others_put_there(engine: Engine, start: Start) -> None:
    """It is not the container's, so it lives on, and what is left is found again."""
    container = start(memory="64M", pids=20)
    paths = host.cgroup_paths(container.pid or 0)
    place = str(paths.get("memory", paths[""]))
    foreign = subprocess.Popen(["sleep", "60"])
    try:
        Path(place, "cgroup.procs").write_text(str(foreign.pid))
        with pytest.raises(OperationError, match=f"delete: cannot remove cgroup {place}: .* busy") as caught:
            container.delete(force=True)
        assert caught.value.errno == errno.EBUSY and f"{place}/cgroup.procs" in caught.value.remedy
        assert foreign.poll() is None
        assert [each.state for each in engine.list()] == ["stopped"]
    finally:
        foreign.kill()
        foreign.wait()
    container.delete()
    assert engine.list() == [] and not os.path.exists(place)


def test_it_is_found_again_where_it_is(engine: Engine, start: Start) -> None:
    """Another program updates it: in the place that the spec has named."""
    name = f"again{os.getpid()}"
    container = start(cgroups_path=name)
    program = "import sys, execdrivers; execdrivers.Engine(sys.argv[1]).get(sys.argv[2]).update(pids=7)"
    subprocess.run([sys.executable, "-c", program, engine.root, container.id], check=True)
    assert files(container, "pids")["pids.max"] == "7"
    assert container.pid is not None
    directories = {str(path) for key, path in host.cgroup_paths(container.pid).items() if "=" not in key}
    assert all(path.endswith(f"/{cgroups.parent()}/{name}") for path in directories)


# --- delegation -----------------------------------------------------------------------------------------------------

_AS_USER = """if True:
    import json, os, sys, execdrivers
    options = dict(driver="native", capture_output=True, text=True)
    out = {}
    with execdrivers.Engine(sys.argv[1]) as engine:
        probe = execdrivers.Registry().probe("native")
        out["features"] = sorted(probe.features)
        out["missing"] = {name: str(problem) for name, problem in probe.missing.items()}
        limits = json.loads(sys.argv[2])
        if limits:
            spec = execdrivers.ContainerSpec.build(["sleep", "60"], **limits)
            with engine.create(spec, driver="native", stdin=execdrivers.DEVNULL) as container:
                container.start()
                out["limits"] = {path: open(path).read().strip() for path in container.guarantees["cgroups"]}
                out["inside"] = [container.pid in map(int, open(os.path.dirname(p) + "/cgroup.procs"))
                                 for p in out["limits"]]
                process = container.exec(["sleep", "60"])
                out["pids"] = sorted(container.pids()) == sorted([container.pid, process.pid])
                container.pause(); container.resume()
                container.update(pids=17)
                out["updated"] = [open(p).read().strip() for p in out["limits"] if p.endswith("pids.max")]
            bomb = "i=0; while [ $i -lt 30 ]; do sleep 5 & i=$((i+1)); done; wait"
            out["bomb"] = engine.run(["sh", "-c", bomb], pids=6, timeout=20, **options).stderr
    print(json.dumps(out))
"""


def as_user(place: str, tmp_path: Path, **limits: Any) -> dict[str, Any]:
    """Run the program as an ordinary user, whose own cgroup is at that path in every hierarchy it is found in."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    os.chown(home, _USER, _USER)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == 0 and directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o055)
    ordinary = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--bounding-set=-all"]
    for needed in ([sys.executable, "-c", "import execdrivers"], ["unshare", "--user", "true"]):
        tried = subprocess.run([*ordinary, *needed], capture_output=True, text=True, cwd="/")
        if tried.returncode:
            pytest.skip(f"an ordinary user cannot run {needed[0]} here: {tried.stderr.strip()}")
    join = (
        "for d in "
        + " ".join(f"{point}/{place}" for point in _found(place))
        + '; do echo 0 >$d/cgroup.procs; done; exec "$@"'
    )
    argv = [*ordinary, sys.executable, "-c", _AS_USER, str(home / "state"), json.dumps(limits)]
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(["sh", "-c", join, "-", *argv], capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def delegated() -> Iterator[str]:
    """A cgroup whose owner is an ordinary user, with one below it to be in, in each hierarchy that limits something."""
    layout = cgroups.look()
    name = f"{cgroups.parent()}-user{os.getpid()}"
    points = {layout.v1[name] for name in ("memory", "pids", "cpu", "freezer") if name in layout.v1} or {layout.v2}
    made = []
    for point in points:
        if point == layout.v2:
            Path(point, "cgroup.subtree_control").write_text("+memory +pids +cpu")
        for directory in (f"{point}/{name}", f"{point}/{name}/main"):
            os.mkdir(directory)
            made.append(directory)
            os.chown(directory, _USER, _USER)
            for file in ("cgroup.procs", "tasks", "cgroup.subtree_control", "cgroup.threads"):
                with contextlib.suppress(FileNotFoundError):
                    os.chown(f"{directory}/{file}", _USER, _USER)
    yield name
    for directory in reversed(made):
        parent = f"{directory}/{cgroups.parent()}"
        if os.path.isdir(parent):
            os.rmdir(parent)
        # The guard of a program that was in it ends a moment after that.
        host.until(lambda path=f"{directory}/cgroup.procs": not Path(path).read_text(), "nobody is left")
        os.rmdir(directory)


@pytest.mark.usefixtures("no_leaks")
def test_an_ordinary_user_has_limits_where_a_cgroup_is_delegated(delegated: str, tmp_path: Path) -> None:
    found = as_user(f"{delegated}/main", tmp_path, memory="64M", pids=9, cpus=0.5)
    assert {"cgroup.memory", "cgroup.pids", "cgroup.cpu", "cgroup.path", "update", "pause"} <= set(found["features"])
    assert all(f"/{delegated}/{cgroups.parent()}/" in path for path in found["limits"])
    assert {"9", str(64 << 20)} <= set(found["limits"].values())
    assert all(found["inside"]) and found["inside"] and found["pids"] and found["updated"] == ["17"]
    assert "fork" in found["bomb"]


@pytest.mark.usefixtures("no_leaks")
def test_without_delegation_the_remedy_is_told(tmp_path: Path) -> None:
    found = as_user("no-such-cgroup", tmp_path)
    assert "delegated to this user" in found["missing"]["cgroup.memory"]
    assert "Delegate=yes" in found["missing"]["update"]


@pytest.mark.needs("cgroup-v2")
def test_processes_in_the_delegated_cgroup_itself(delegated: str, tmp_path: Path) -> None:
    found = as_user(delegated, tmp_path)
    assert "processes are in" in found["missing"]["cgroup.memory"]
    assert "a level down" in found["missing"]["cgroup.memory"]
