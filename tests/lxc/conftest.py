"""What the tests of the LXC driver share: tools that are not what they should be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers import Engine, Registry

TOOLS = ("start", "attach", "freeze", "unfreeze", "cgroup", "checkconfig")


@pytest.fixture
def fake_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``fake_tools(start="exit 0", version="echo 4.0.6")``: shell scripts on PATH in the place of LXC's tools.

    Those not named are the real ones; an empty script takes a tool away. ``version`` is what lxc-start does when asked
    for its version. Returns the only directory on PATH.
    """

    def fake(version: str = "echo 5.0.2", **scripts: str) -> Path:
        directory = tmp_path / "tools"
        directory.mkdir()
        real = {name: shutil.which(f"lxc-{name}") for name in TOOLS}
        if "start" in scripts or version != "echo 5.0.2":
            begin = scripts.get("start") or f'exec {real["start"]} "$@"'
            ask = f'case "$*" in *--version*) {version}; exit;; esac\n'
            scripts["start"] = ask + begin if scripts.get("start") != "" else ""
        for name, path in real.items():
            tool = directory / f"lxc-{name}"
            script = scripts.get(name)
            if script:
                tool.write_text(f"#!/bin/sh\n{script}\n")
                tool.chmod(0o755)
            elif script is None and path:
                tool.symlink_to(path)
        for name in ("sh", "cp", "mount", "mkdir", "sleep", "cat"):  # what the tools and the scripts call
            (directory / name).symlink_to(shutil.which(name, path=os.environ["PATH"] + ":/usr/bin:/bin") or "")
        monkeypatch.setenv("PATH", str(directory))
        return directory

    return fake


@pytest.fixture
def new_engine(tmp_path: Path, no_leaks: None) -> Callable[[], Engine]:
    """Engines that probe anew; leak-checked."""
    return lambda: Engine(root=tmp_path / "state", registry=Registry())
