"""Directories by the name that a container's had, which are another's by now."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from execdrivers.cgroups import CgroupDir, oom_kills, processes
from execdrivers.cgroups.notices import notices

_FILES = {
    "cgroup.procs": "7\n",
    "cgroup.event_control": "",
    "memory.oom_control": "oom_kill 3\n",
    "memory.pressure_level": "",
    "memory.events": "oom_kill 3\n",
    "memory.pressure": "",
}


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_anothers_tells_nothing(tmp_path: Path, version: int) -> None:
    box = tmp_path / "box"
    box.mkdir()
    for name, text in _FILES.items():
        (box / name).write_text(text)
    ours = CgroupDir(str(tmp_path), "box", ("memory",), version, inode=os.stat(box).st_ino)
    found = notices([ours])
    for each in found:
        each.close()
    assert [each.type for each in found] == ["oom", "memory_pressure"]
    assert (processes([ours]), oom_kills([ours])) == ([7], 3)
    before = attrs.evolve(ours, inode=ours.inode + 1)
    assert (processes([before]), oom_kills([before]), notices([before])) == ([], 0, [])
