"""A /proc that is not the kernel's: mounted over (CVE-2019-16884), reached by a link (CVE-2019-19921), redirected while
the runtime writes to it (CVE-2025-52881)."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from execdrivers import DEVNULL, ContainerSpec, Engine, LaunchError, Mount, SpecError

from .report import ATTACK, UNCONFINED, won

pytestmark = pytest.mark.needs("root", "busybox")

_MASKED = ["/proc/interrupts", "/proc/keys", "/proc/timer_list", "/proc/kcore"]


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A directory with the files that a runtime writes to, to be mounted over /proc."""
    fake = tmp_path / "fake"
    for (
        name
    ) in "self/attr/exec self/attr/apparmor/exec self/oom_score_adj self/setgroups sys/net/ipv4/ip_forward".split():
        path = fake / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o666)
    return fake


def test_what_is_mounted_over_proc_gets_no_word_of_the_launchers(engine: Engine, own_rootfs: Path, fake: Path) -> None:
    spec = ContainerSpec.build(
        ["sleep", "60"],
        rootfs=own_rootfs,
        mounts=[Mount("/proc", "bind", str(fake), ("bind",))],
        oom_score_adj=321,
        sysctls={"net.ipv4.ip_forward": "1"},
    )
    with engine.create(spec, driver="native", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as container:
        container.start()
        assert Path(f"/proc/{container.pid}/oom_score_adj").read_text() == "321\n"
        forward = ["nsenter", "-t", str(container.pid), "-n", "cat", "/proc/sys/net/ipv4/ip_forward"]
        assert subprocess.check_output(forward) == b"1\n"
        with contextlib.suppress(LaunchError):  # where a label takes a real one
            container.exec(["true"], stdin=DEVNULL).wait(20)
    assert [path.name for path in fake.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_control_a_label_is_written_to_a_fake(naive: Path, own_rootfs: Path, fake: Path) -> None:
    own_rootfs.joinpath("proc").rmdir()
    fake.rename(own_rootfs / "proc")
    assert subprocess.check_output([naive, "label", own_rootfs]) == b"confined\n"
    assert (own_rootfs / "proc/self/attr/exec").read_text() == "exec confined"


@pytest.mark.needs("strace")
def test_in_the_containers_own_tree_nothing_of_proc_is_written_to(own_rootfs: Path, tmp_path: Path) -> None:
    """So that there is nothing that could be redirected, however fast somebody exchanges it."""
    trace = tmp_path / "trace"
    script = """
import sys, execdrivers
with execdrivers.Engine(root=sys.argv[2]) as engine:
    engine.run(["/bin/true"], rootfs=sys.argv[1], driver="native", init=True, tty=True, oom_score_adj=321,
               sysctls={"net.ipv4.ip_forward": "1"}, hostname="replay", rlimits={"NOFILE": 100}, user="alice")
"""
    strace = ["strace", "-f", "-qq", "-s", "300", "-o", trace, "-e", "trace=pivot_root,open,openat,openat2,execve"]
    subprocess.run([*strace, sys.executable, "-c", script, own_rootfs, tmp_path / "state"], check=True, stdout=-3)
    lines = trace.read_text().splitlines()
    pid = next(line.split()[0] for line in lines if " pivot_root(" in line)
    own = [line.partition(" ")[2].strip() for line in lines if line.startswith(f"{pid} ")]
    pivot = next(i for i, line in enumerate(own) if line.startswith("pivot_root("))
    assert any("/proc/sys/net/ipv4/ip_forward" in line for line in own[:pivot])
    opened = {found[1] for line in own[pivot:] if (found := re.match(r'open\w*\([^"]*"([^"]*)"', line))}
    assert opened
    assert opened <= {"/dev/pts/ptmx", "/dev/console", "/dev/null"}


def test_a_link_in_the_place_of_proc_evades_no_mask(engine: Engine, hostile: Path) -> None:
    """The rootfs says where /proc is; what lies there is hidden all the same, or the start is refused."""
    hostile.joinpath("evil/proc").mkdir(parents=True)
    hostile.joinpath("proc").rmdir()
    started = 0
    for target in ("evil/proc", "/evil/proc", "/proc", "../../../../../proc", "evil/../evil/proc"):
        hostile.joinpath("proc").symlink_to(target)
        for place in ("/proc", "/evil/proc"):
            command = [ATTACK, "read", *(path.replace("/proc", place) for path in _MASKED)]
            with contextlib.suppress(SpecError, LaunchError):
                done = engine.run(command, rootfs=hostile, driver="native", capture_output=True, text=True)
                assert not won(done.stdout.splitlines())
                started += 1
        hostile.joinpath("proc").unlink()
    assert started >= 4


def test_control_without_masks_it_is_read(engine: Engine, hostile: Path) -> None:
    names = [path for path in _MASKED if Path(path).exists()]
    done = engine.run(
        [ATTACK, "read", *names],
        rootfs=hostile,
        driver="native",
        masked_paths=(),
        capture_output=True,
        text=True,
        **UNCONFINED,
    )
    assert "/proc/interrupts" in won(done.stdout.splitlines())
