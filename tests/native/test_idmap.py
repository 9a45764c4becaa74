"""Idmapped mounts: files of some ids on the disk, seen as others in the container."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import Engine, LaunchError, SpecError

pytestmark = pytest.mark.needs("root", "busybox")

BASE = 700_000
MAPPINGS = [{"container_id": 0, "host_id": BASE, "size": 65536}]
MAPPED: dict[str, Any] = {"uid_mappings": MAPPINGS, "gid_mappings": MAPPINGS}
#: What 1000 owns on the disk is 0's where it is mounted.
ALICE = [{"container_id": 1000, "host_id": 0, "size": 1}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory of 1000's with a file in it, and one of root's."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "file").touch()
    for path in (directory, directory / "file"):
        os.chown(path, 1000, 1000)
    (directory / "roots").touch()
    return directory


def seen(engine: Engine, script: str, rootfs: Path, mount: dict[str, Any], **options: Any) -> list[str]:
    mounts = [{"type": "bind", "destination": "/tmp", **mount}]
    done = engine.run(
        ["sh", "-c", script], rootfs=rootfs, driver="native", mounts=mounts, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done
    return str(done.stdout).split()


SCRIPT = "stat -c %u:%g /tmp/file /tmp/roots; touch /tmp/new; stat -c %u /tmp/new"


def test_by_its_own_mappings(engine: Engine, rootfs: Path, data: Path) -> None:
    mount = {"source": str(data), "uid_mappings": ALICE, "gid_mappings": ALICE, "options": ["idmap"]}
    assert seen(engine, SCRIPT, rootfs, mount) == ["0:0", "65534:65534", "0"]
    assert os.stat(data / "new").st_uid == 1000


def test_by_its_own_mappings_in_a_user_namespace(engine: Engine, rootfs: Path, data: Path) -> None:
    mappings = [{"container_id": 1000, "host_id": BASE + 5, "size": 1}]
    mount = {"source": str(data), "uid_mappings": mappings, "gid_mappings": mappings}
    script = "stat -c %u:%g /tmp/file; touch /tmp/new; stat -c %u /tmp/new"
    assert seen(engine, script, rootfs, mount, user="5:5", **MAPPED) == ["5:5", "5"]
    assert os.stat(data / "new").st_uid == 1000


def test_by_the_containers_mappings(engine: Engine, rootfs: Path, data: Path) -> None:
    (data / "roots").chmod(0o600)
    mount = {"source": str(data), "options": ["idmap"]}
    assert seen(engine, SCRIPT, rootfs, mount, **MAPPED) == ["1000:1000", "0:0", "0"]
    assert os.stat(data / "new").st_uid == 0


@pytest.fixture
def mount_below(data: Path) -> Iterator[Path]:
    """Another mount in it, with a file of 1000's."""
    below, other = data / "below", data.parent / "other"
    below.mkdir()
    other.mkdir()
    subprocess.run(["mount", "--bind", other, below], check=True)
    (below / "file").touch()
    os.chown(below / "file", 1000, 1000)
    yield below
    subprocess.run(["umount", below], check=True)


@pytest.mark.parametrize(("option", "expected"), [("idmap", ["0", "1000"]), ("ridmap", ["0", "0"])])
def test_of_the_mounts_below_as_well(
    engine: Engine, rootfs: Path, mount_below: Path, option: str, expected: list[str]
) -> None:
    options = ["rbind", option]
    mount = {"source": str(mount_below.parent), "uid_mappings": ALICE, "gid_mappings": ALICE, "options": options}
    assert seen(engine, "stat -c %u /tmp/file /tmp/below/file", rootfs, mount) == expected


def test_attributes_hold_as_well(engine: Engine, rootfs: Path, data: Path) -> None:
    options = ["idmap", "ro", "noexec"]
    mount = {"source": str(data), "uid_mappings": ALICE, "gid_mappings": ALICE, "options": options}
    (line,) = [
        line
        for line in " ".join(seen(engine, "tr ' ' ';' </proc/self/mountinfo", rootfs, mount)).split()
        if ";/tmp;" in line
    ]
    assert {"ro", "noexec", "nodev", "idmapped"} <= set(line.replace(";", ",").split(","))


def test_what_its_file_system_cannot(engine: Engine, rootfs: Path) -> None:
    mount = {"source": "/sys/kernel", "uid_mappings": ALICE, "gid_mappings": ALICE}
    with pytest.raises(LaunchError, match=r"idmap: /sys/kernel: Invalid argument \(sysfs\); sysfs cannot map ids"):
        seen(engine, "true", rootfs, mount)


def test_without_mappings(engine: Engine, rootfs: Path, data: Path) -> None:
    with pytest.raises(SpecError, match=r"mounts\[0\].options.*neither the mount nor the container has mappings"):
        seen(engine, "true", rootfs, {"source": str(data), "options": ["idmap"]})


def test_of_what_is_no_bind_mount(engine: Engine, rootfs: Path) -> None:
    with pytest.raises(SpecError, match=r"mounts\[0\].type: 'tmpfs' cannot have its ids mapped"):
        seen(engine, "true", rootfs, {"type": "tmpfs", "options": ["idmap"]}, **MAPPED)
