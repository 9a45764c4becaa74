"""A chroot needs a null device of its own: a shell opens it for what it starts in the background."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def rootfs(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The busybox root file system with /dev/null, shared by these tests: do not change it."""
    copy = tmp_path_factory.mktemp("chroot") / "rootfs"
    subprocess.run(["cp", "-a", rootfs, copy], check=True)
    os.mknod(copy / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (copy / "dev/null").chmod(0o666)
    return copy
