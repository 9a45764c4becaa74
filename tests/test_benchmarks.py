"""The benchmark runs and reports; what it measures is nobody's to assert on a shared machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent


@pytest.mark.needs("root", "busybox")
def test_quick_run_reports_ratios(tmp_path: Path) -> None:
    report = tmp_path / "times.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", report]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "native over floor:" in done.stdout
    assert "2000 MB over 20 MB:" in done.stdout
    times = json.loads(report.read_text())
    assert set(times) == {"floor", "native", "caller_20_mb", "caller_500_mb", "caller_2000_mb"}
    assert all(value > 0 for values in times.values() for value in values)


@pytest.mark.needs("root", "busybox")
def test_the_floor_isolates_as_the_driver_does(tmp_path: Path, rootfs: Path) -> None:
    """Same namespaces private, same capabilities, filters, mounts: else the comparison would flatter one of the two."""
    from benchmarks import floor

    import execdrivers

    built = floor.build(tmp_path)
    script = (
        "grep -E 'Cap|NoNew|Seccomp' /proc/self/status; ls -A /dev | sort; cut -d' ' -f5 /proc/self/mountinfo | sort;"
        "for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done"
    )
    raw = subprocess.run([*built, "1", rootfs, "/bin/sh", "-c", script], check=True, capture_output=True, text=True)
    ours = execdrivers.run(["/bin/sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True)
    floor_lines = raw.stdout.splitlines()[:-1]  # the last is the floor's time
    our_lines = ours.stdout.splitlines()
    assert [line for line in floor_lines if "[" not in line] == [line for line in our_lines if "[" not in line]
    host = {Path(f"/proc/self/ns/{name}").readlink() for name in ("pid", "mnt", "uts", "ipc", "net", "cgroup")}
    for lines in (floor_lines, our_lines):
        assert not {Path(line) for line in lines if "[" in line} & host
