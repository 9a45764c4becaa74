"""Mounts below a volume that another container writes to, and exchanges directories of for links meanwhile.

CVE-2021-30465 (the mount lands outside of the root) and CVE-2024-45310 (directories are made outside of it).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers import Engine, LaunchError, Mount, SpecError
from execdrivers.launcher import Operation, operation

pytestmark = pytest.mark.needs("root", "busybox")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host's that links in the volume lead to."""
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


@pytest.fixture
def volume(tmp_path: Path, outside: Path, swapping: Callable[..., None]) -> Path:
    """One in which "sub" is, by turns, a directory and a link out."""
    volume = tmp_path / "volume"
    (volume / "sub").mkdir(parents=True)
    (volume / "link").symlink_to(outside)
    swapping(volume / "sub", volume / "link")
    return volume


def mount_points(pid: int, source: str) -> list[str]:
    rows = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return [row[4] for row in rows if row[row.index("-") + 2] == source]


def test_mounts_land_inside(
    engine: Engine, own_rootfs: Path, volume: Path, outside: Path, alter: Callable[..., None]
) -> None:
    landed: list[str] = []

    def change(operations: tuple[Operation, ...]) -> list[Operation]:
        at = [item.name for item in operations].index("pivot")
        return [*operations[:at], operation("sync", "look"), *operations[at:]]

    alter(change, {"look": lambda pid: landed.extend(mount_points(pid, "replay"))})
    mounts = [
        Mount("/volume", "bind", str(volume), ("bind",)),
        Mount("/volume/sub", "tmpfs", "replay", ()),
        Mount("/volume/sub/made/by/the/launcher", "tmpfs", "replay", ()),
    ]
    own_rootfs.joinpath("volume").mkdir()
    started = 0
    for _ in range(150):
        try:
            engine.run(["true"], rootfs=own_rootfs, driver="native", mounts=mounts, timeout=20)
            started += 1
        except (LaunchError, SpecError):
            continue
    assert started > 20
    assert len(landed) >= 2 * started
    assert [point for point in landed if not point.startswith(f"{own_rootfs}/volume/")] == []
    assert list(outside.iterdir()) == []


def test_control_by_name_they_land_outside(
    own_rootfs: Path, tmp_path: Path, naive: Path, swapping: Callable[..., None]
) -> None:
    outside, volume = tmp_path / "outside", own_rootfs / "volume"
    outside.mkdir()
    (volume / "sub").mkdir(parents=True)
    (volume / "link").symlink_to(outside)
    swapping(volume / "sub", volume / "link")
    for _ in range(100):  # a race, which mostly takes one or two
        command = [naive, "volume", own_rootfs, "/volume/sub", "2000"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        if f"outside {outside}" in done.stdout and list(outside.iterdir()):
            break
    assert f"outside {outside}" in done.stdout
    assert [path.name for path in outside.iterdir()] == ["made"]
