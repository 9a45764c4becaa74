"""A minimal root file system from the static busybox, so that every contender runs the same tiny program."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["make"]


def make(directory: Path) -> str:
    """Fill ``directory`` and return it. Raises FileNotFoundError without busybox-static."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("busybox is not installed: apt-get install busybox-static")
    # systemd-nspawn takes a root without /usr for none.
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"):
        (directory / name).mkdir(parents=True)
    shutil.copy(busybox, directory / "bin/busybox")
    for applet in ("true", "sh", "cat", "sleep"):
        (directory / "bin" / applet).symlink_to("busybox")
    return str(directory)
