"""Links in the place of /dev/null and /dev/console: CVE-2025-31133 (a mask that is no mask but a way to a file of the
kernel's) and CVE-2025-52565 (a terminal bound onto one)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import Engine, LaunchError, Mount

from .report import ATTACK, won
from .test_renames import naive_steps

pytestmark = pytest.mark.needs("root", "busybox")

#: What a write to it would do is decided by the kernel; ours writes what is there.
_PATTERN = Path("/proc/sys/kernel/core_pattern")
#: A container whose /dev is a directory of its rootfs: no default mounts.
_BARE: dict[str, Any] = {
    "default_mounts": False,
    "mounts": [Mount("/proc", "proc", "proc", ()), Mount("/dev/pts", "devpts", "devpts", ("newinstance",))],
}


@pytest.fixture
def bare(hostile: Path) -> Path:
    """A rootfs with a /dev for others to change."""
    (hostile / "dev/pts").mkdir()
    return hostile


def test_a_mask_is_the_hosts_null_device(engine: Engine, bare: Path, swapping: Callable[..., None]) -> None:
    os.mknod(bare / "dev/null", 0o20666, os.makedev(1, 3))
    (bare / "dev/link").symlink_to(_PATTERN)
    swapping(bare / "dev/null", bare / "dev/link")
    for _ in range(60):
        done = engine.run(
            ["stat", "-c", "%F %t:%T", "/etc/group"],
            rootfs=bare,
            driver="native",
            capture_output=True,
            text=True,
            timeout=20,
            masked_paths=["/etc/group"],
            **_BARE,
        )
        assert done.stdout == "character special file 1:3\n"


def test_control_a_mask_by_name_is_a_way_to_the_kernels_file(naive: Path, hostile: Path) -> None:
    def link(_: Path = hostile) -> None:
        # Into the mount that the runtime has made at /dev of its own mount namespace: as who shares /dev could.
        (pid,) = (int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _is_container(int(entry), naive))
        place = Path(f"/proc/{pid}/root{hostile}/dev/null")
        place.unlink()
        place.symlink_to(hostile / "proc/sys/kernel/core_pattern")

    lines = naive_steps(naive, hostile, {"dev": link}, ATTACK, "write", "/proc/interrupts", _PATTERN.read_text())
    assert won(lines) == ["/proc/interrupts"]


def _is_container(pid: int, naive: Path) -> bool:
    """Whether that is the child of the runtime, which has a pid namespace of its own."""
    with contextlib.suppress(OSError):
        own = os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
        return own and os.readlink(f"/proc/{pid}/exe") == str(naive)
    return False


def test_a_terminal_lands_on_no_file_of_the_kernels(engine: Engine, bare: Path) -> None:
    """Where /dev/console should be made something is: the start is refused, or it was made before anything came."""
    before = _PATTERN.read_text()
    options: dict[str, Any] = {"rootfs": bare, "driver": "native", "tty": True, "capture_output": True, "timeout": 20}
    for _ in range(20):
        (bare / "dev/console").symlink_to(_PATTERN)
        with pytest.raises(LaunchError, match="console"):
            engine.run(["true"], **options, **_BARE)
        (bare / "dev/console").unlink()
        assert engine.run(["test", "-c", "/dev/console"], **options, **_BARE).returncode == 0
        (bare / "dev/console").unlink()
    assert _PATTERN.read_text() == before
