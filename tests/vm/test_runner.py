"""tools/vm itself: the command's status and output come back, and nothing else of what it did."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

VM = Path(__file__).parents[2] / "tools/vm"

pytestmark = pytest.mark.needs("root", "qemu-system-x86_64", "mkfs.ext4", "cpio")


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([VM, *arguments], cwd=directory, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """A directory that the guest does not find empty, as it does /tmp."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as path:
        yield Path(path)


def test_the_guest_is_another_machine_that_shares_one_directory(shared: Path) -> None:
    script = """
        echo "$0 $(cat /proc/self/cgroup)"
        cat /sys/module/apparmor/parameters/enabled
        echo inside >here; echo inside >/etc/execdrivers-vm; echo error >&2
        exit 7
    """
    done = run(shared, "--timeout", "200", "--", "sh", "-c", script, "name")
    assert (done.returncode, done.stdout) == (7, "name 0::/caller\nY\nerror\n"), done.stderr
    assert (shared / "here").read_text() == "inside\n"
    assert not Path("/etc/execdrivers-vm").exists()


def test_a_command_without_an_end_is_ended(shared: Path) -> None:
    done = run(shared, "--timeout", "1", "--", "sleep", "1000")
    assert done.returncode == 124, done.stderr
    assert "stopped after 1 seconds" in done.stderr
    assert not list(Path("/var/tmp").glob("execdrivers-vm.*/second"))


def test_an_option_that_is_none_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--cpu", "1", "true")
    assert done.returncode == 125
    assert "tools/vm [--memory" in done.stderr
