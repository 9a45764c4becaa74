"""Limits are enforced by the kernel and told truly; nothing outlives a container."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

import execdrivers
from execdrivers import ContainerTimeout
from execdrivers.engine import Engine

pytestmark = pytest.mark.needs("root", "busybox")


def test_out_of_memory_is_the_reason(engine: Engine, rootfs: Path) -> None:
    script = ["sh", "-c", "tail -c 200m /dev/zero | tail"]
    result = engine.run(script, rootfs=rootfs, driver="native", memory="32M", timeout=30, capture_output=True)
    assert result.exit.reason == "oom"
    assert result.exit.oom_kills >= 1
    assert result.exit.status == 137


def test_out_of_memory_of_the_first_process(engine: Engine, rootfs: Path) -> None:
    result = engine.run(["tail", "-c", "200m", "/dev/zero"], rootfs=rootfs, driver="native", memory="32M", timeout=30)
    assert (result.returncode, result.exit.reason) == (-9, "oom")


def test_memory_within_the_limit_is_no_oom(engine: Engine, rootfs: Path) -> None:
    result = engine.run(["sh", "-c", "exit 9"], rootfs=rootfs, driver="native", memory="32M")
    assert (result.returncode, result.exit.reason) == (9, "exited")


def test_limits_are_in_the_cgroup_files(engine: Engine, rootfs: Path) -> None:
    spec = execdrivers.ContainerSpec.build(
        ["sleep", "60"],
        rootfs=rootfs,
        memory="64M",
        memory_swap="96M",
        pids=9,
        cpus=0.5,
        cpu_shares=512,
        cpuset_cpus="0",
    )
    with engine.create(spec, driver="native") as container:
        container.start()
        limits = container.guarantees["cgroups"]
        assert limits
        for path, value in limits.items():
            assert Path(path).read_text().split() == value.split(), path
            assert str(container.pid) in Path(path).with_name("cgroup.procs").read_text().split()
        container.kill()
        container.wait(timeout=5)
    assert not any(Path(path).exists() for path in limits)


def test_fork_bomb_is_stopped(engine: Engine, rootfs: Path) -> None:
    bomb = "i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done; wait"
    result = engine.run(
        ["sh", "-c", bomb], rootfs=rootfs, driver="native", pids=8, timeout=30, capture_output=True, text=True
    )
    assert "fork" in result.stderr


def test_timeout_kills_everything(engine: Engine, rootfs: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ContainerTimeout) as caught:
        engine.run(
            ["sh", "-c", "echo begun; setsid sleep 60 & sleep 60"],
            rootfs=rootfs, driver="native", timeout=0.5, capture_output=True, text=True,
        )  # fmt: skip
    assert time.monotonic() - begun < 5
    assert caught.value.stdout == "begun\n"
    assert caught.value.exit.reason == "timeout"


def test_sigkill_and_exit_137_differ(engine: Engine, rootfs: Path) -> None:
    assert engine.run(["sh", "-c", "exit 137"], rootfs=rootfs, driver="native").exit.reason == "exited"
    spec = execdrivers.ContainerSpec.build(["sleep", "60"], rootfs=rootfs)
    with engine.create(spec, driver="native") as container:
        container.start()
        container.signal("KILL")
        ended = container.wait(timeout=5)
    assert (ended.reason, ended.signal, ended.status) == ("signaled", 9, 137)


def test_a_process_that_prints_without_end_exhausts_nobody(engine: Engine, rootfs: Path) -> None:
    with pytest.raises(ContainerTimeout) as caught:
        engine.run(["yes"], rootfs=rootfs, driver="native", timeout=1, capture_output=True, output_limit=1 << 20)
    assert len(caught.value.stdout) == 1 << 20


@pytest.mark.parametrize("count", [2000])
def test_many_in_a_row(engine: Engine, rootfs: Path, count: int) -> None:
    for _ in range(count):
        assert engine.run(["true"], rootfs=rootfs, driver="native", memory="32M", pids=8).returncode == 0


def test_many_at_once(engine: Engine, rootfs: Path) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for n in range(25):
                done = engine.run(
                    ["sh", "-c", f"echo {n}"], rootfs=rootfs, driver="native", capture_output=True, text=True, pids=8
                )
                assert done.stdout == f"{n}\n"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_caller_killed_before_the_start_leaves_no_process(rootfs: Path, tmp_path: Path, no_leaks: None) -> None:
    program = (
        "import execdrivers, os, sys;"
        f"engine = execdrivers.Engine(root={str(tmp_path / 'state')!r});"
        f"c = engine.create(execdrivers.ContainerSpec.build(['sleep', '60'], rootfs={str(rootfs)!r}), driver='native');"
        "print(c.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    import sys

    caller = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    pid = int(caller.stdout)
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")


def test_recovered_by_another_process(engine: Engine, rootfs: Path) -> None:
    spec = execdrivers.ContainerSpec.build(["sleep", "60"], rootfs=rootfs, memory="64M")
    with engine.create(spec, driver="native", name="kept") as container:
        container.start()
        other = Engine(root=engine.root).get("kept")
        assert other.state == "running"
        assert other.pid == container.pid
        other.signal("KILL")
        assert container.wait(timeout=5).signal == 9


def test_a_late_delete_leaves_the_next_of_that_name_alone(engine: Engine, rootfs: Path) -> None:
    spec = execdrivers.ContainerSpec.build(["sleep", "60"], rootfs=rootfs, memory="64M")
    first = engine.create(spec, driver="native", name="twice")
    first.start()
    Engine(root=engine.root).delete("twice", force=True)
    with engine.create(spec, driver="native", name="twice") as second:
        second.start()
        first.delete(force=True)
        assert second.state == "running"
        assert all(Path(path).exists() for path in second.guarantees["cgroups"])


def test_killed_before_it_was_started(engine: Engine, rootfs: Path) -> None:
    container = engine.create(execdrivers.ContainerSpec.build(["true"], rootfs=rootfs), driver="native")
    assert container.pid is not None
    os.kill(container.pid, 9)
    os.waitid(os.P_PID, container.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(execdrivers.LaunchError, match="killed before"):
        container.start()
