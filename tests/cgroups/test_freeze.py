"""Processes that do not come to rest: an end of the waiting, and they go on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from execdrivers import OperationError
from execdrivers.cgroups import CgroupDir, directories, freeze


@pytest.mark.parametrize("version", [1, 2])
def test_what_does_not_stand_still_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """Files that nobody moves stand for a process that cannot be interrupted."""
    monkeypatch.setattr(directories, "_REST", 0.05)
    box = tmp_path / "box"
    box.mkdir()
    name = "freezer.state" if version == 1 else "cgroup.freeze"
    os.symlink("/dev/null" if version == 1 else "command", box / name)
    (box / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    cgroup = CgroupDir(str(tmp_path), "box", ("freezer",), version, inode=os.stat(box).st_ino)
    (box / "command").touch()
    with pytest.raises(OperationError, match="stands still") as caught:
        freeze([cgroup])
    assert caught.value.operation == "pause" and caught.value.remedy and caught.value.filename == f"{box}/{name}"
    if version == 2:
        assert (box / "command").read_text() == "0"
