"""Cgroups: a program run by the kernel for an empty one (CVE-2022-0492), and limits raised from within."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from execdrivers import DEVNULL, PIPE, ContainerSpec, Engine

from .report import ATTACK, UNCONFINED, won

pytestmark = pytest.mark.needs("root", "busybox")

Attack = Callable[..., list[str]]


def gone(name: str) -> bool:
    """Whether the kernel has forgotten a hierarchy, given a while."""
    for _ in range(40):
        if name not in Path("/proc/self/cgroup").read_text():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def hierarchy() -> Iterator[str]:
    """Options for mount(8) of a hierarchy of cgroup v1 of this test's own, which has no controller."""
    name = f"name=replay-{os.getpid()}"
    place = Path("/run") / name
    place.mkdir()
    mount = ["mount", "-t", "cgroup", "-o", f"none,{name}", "none", str(place)]
    try:
        if subprocess.run(mount, stderr=DEVNULL).returncode:
            pytest.skip("needs cgroup v1 in the kernel")
        yield f"none,{name}"
        subprocess.run(["umount", place], check=True)
        # It goes, some time after the last mount, unless a cgroup in it was still on its way out: then by another one.
        while not gone(name):
            subprocess.run(mount, check=True)
            subprocess.run(["umount", place], check=True)
    finally:
        place.rmdir()


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A program that leaves word of having been run by the kernel, in a file beside it: "ran"."""
    os.mkfifo(tmp_path / "ran")
    path = tmp_path / "agent"
    path.write_text(f"#!/bin/sh\necho $1 >{tmp_path}/ran\n")
    path.chmod(0o755)
    return path


def ran(agent: Path, timeout: float) -> bool:
    """Whether the agent comes to run."""
    fd = os.open(agent.parent / "ran", os.O_RDONLY | os.O_NONBLOCK)
    with contextlib.closing(os.fdopen(fd, "rb")) as fifo:
        return bool(select.select([fifo], [], [], timeout)[0] and fifo.read())


def test_no_program_is_run_for_a_container(attack: Attack, hierarchy: str, agent: Path) -> None:
    for options in ({}, {"namespaces": {"cgroup": "host"}}, {"capabilities": {"add": ["SYS_PTRACE", "NET_ADMIN"]}}):
        assert not won(attack("release-agent", hierarchy, agent, **options))
    # Without the filter it is the kernel that denies it (since Linux 5.17).
    lines = attack("release-agent", hierarchy, agent, **UNCONFINED)
    assert not [each for each in won(lines) if each.startswith("release_agent")]
    assert not ran(agent, 0)


def test_control_with_sys_admin_the_kernel_runs_it(attack: Attack, hierarchy: str, agent: Path) -> None:
    options = {"capabilities": {"add": ["SYS_ADMIN"]}, "namespaces": {"cgroup": "host"}, **UNCONFINED}
    lines = attack("release-agent", hierarchy, agent, **options)
    assert "release_agent directly" in won(lines)
    assert ran(agent, 20)


def _limit(pid: int) -> Path:
    """The file that says how many processes the container may have."""
    rows = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in rows:
        if "pids" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/pids{path}/pids.max")
    return Path(f"/sys/fs/cgroup{rows[0][2]}/pids.max")


def raise_the_limit(engine: Engine, rootfs: Path, **options: object) -> tuple[list[str], str]:
    """What the attacker achieved, and its limit then, which was 50."""
    controller = "pids" if os.path.isdir("/sys/fs/cgroup/pids") else ""
    command = ["sh", "-c", f"read line; exec {ATTACK} cgroup '{controller}' pids.max max"]
    spec = ContainerSpec.build(command, rootfs=rootfs, pids=50, **options)
    with engine.create(spec, driver="native", stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as container:
        container.start()
        assert container.pid is not None
        limit = _limit(container.pid)
        assert limit.read_text() == "50\n"
        assert container.stdout is not None
        assert container.stdin is not None
        container.stdin.write(b"\n")
        container.stdin.flush()
        lines = container.stdout.read().decode().splitlines()
        return won(lines), limit.read_text().strip()


def test_a_limit_cannot_be_raised_from_within(engine: Engine, hostile: Path) -> None:
    achieved, limit = raise_the_limit(engine, hostile)
    assert achieved == []
    assert limit == "50"


def test_control_with_sys_admin_it_is_raised(engine: Engine, hostile: Path) -> None:
    if "nsdelegate" in Path("/proc/self/mountinfo").read_text():
        pytest.skip("needs cgroups that are not mounted with nsdelegate: there the kernel itself denies it")
    options = {"capabilities": {"add": ["SYS_ADMIN"]}, **UNCONFINED}
    achieved, limit = raise_the_limit(engine, hostile, **options)
    assert "raise the limit" in achieved
    assert limit == "max"
