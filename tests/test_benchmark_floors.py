"""The C floors isolate as what they are compared with: else a comparison would flatter one of the two.

That of a start is in test_benchmarks.py.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import execdrivers

#: What a process can tell of itself, but for pids and times.
_SCRIPT = """
busybox grep -vE '^(Pid|Tgid|Ngid|PPid|NStgid|NSpid|NSpgid|NSsid|SigQ|SigIgn|Vm|Rss|.*ctxt_switches)' /proc/self/status
for name in cgroup ipc mnt net pid pid_for_children time user uts; do busybox readlink /proc/self/ns/$name; done
cat /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj /proc/self/loginuid
busybox cut -d' ' -f5- /proc/self/mountinfo
pwd; umask; busybox readlink /proc/self/root /proc/self/cwd
for fd in /proc/self/fd/*; do echo $fd; done
busybox cut -d' ' -f1,5-7 /proc/$$/stat | busybox sed 's/^\\([0-9]*\\) \\1 \\1/leads its group and session/'
busybox env | busybox sort
"""


@pytest.mark.needs("root", "busybox")
def test_the_exec_floor_isolates_as_the_driver_does(engine: execdrivers.Engine, tmp_path: Path) -> None:
    from benchmarks import floor, rootfs

    built = floor.build_exec(tmp_path)
    command = ["/bin/sh", "-c", _SCRIPT]
    spec = execdrivers.ContainerSpec(["/bin/sleep", "1000"], rootfs=rootfs.make(tmp_path / "rootfs"))
    with engine.create(spec, driver="native") as container:
        container.start()
        environment = _environment(container.pid)
        with container.exec(command, stdout=execdrivers.PIPE, stderr=execdrivers.STDOUT) as process:
            ours, _ = process.communicate()
            assert process.wait().ok
        floors = subprocess.run(
            [*built, "1", str(container.pid), *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
        ).stdout
    assert ours is not None
    *lines, duration = floors.decode().splitlines()
    assert duration.isdigit()
    assert lines == ours.decode().splitlines()
    text = ours.decode()
    assert re.search("^NoNewPrivs:\t1$", text, re.MULTILINE)
    assert re.search("^Seccomp:\t2$", text, re.MULTILINE)
    assert "PATH=" in text


@pytest.mark.needs("root", "busybox")
def test_nobody_inside_sees_the_exec_floor_with_more_than_they_have(engine: execdrivers.Engine, tmp_path: Path) -> None:
    """What it is cloned from stays outside, as the native driver's does."""
    from benchmarks import floor, rootfs

    built = floor.build_exec(tmp_path)
    spec = execdrivers.ContainerSpec(["/bin/sleep", "1000"], rootfs=rootfs.make(tmp_path / "rootfs"))
    with engine.create(spec, driver="native") as container:
        container.start()
        before = set(container.pids())
        running = subprocess.Popen(
            [*built, "1", str(container.pid), "/bin/sh", "-c", "echo here; read line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert running.stdout is not None
        assert running.stdout.readline() == b"here\n"
        (added,) = set(container.pids()) - before
        assert Path(f"/proc/{added}/comm").read_text() == "sh\n"
        running.communicate(b"go on\n")
    assert running.returncode == 0


def _environment(pid: int | None) -> dict[str, str]:
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(variable.split("=", 1) for variable in variables if variable)
