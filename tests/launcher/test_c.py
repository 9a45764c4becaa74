"""The launcher's C: no warnings, and launches under a sanitizer."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"


def _build(directory: Path, **environment: str) -> None:
    """Build the extension module into ``directory`` as the package would, with these variables set."""
    program = (
        "import runpy, sys\n"
        f"builder = runpy.run_path({str(SOURCE / 'build_launcher.py')!r})['ffibuilder']\n"
        f"builder.compile(tmpdir={str(directory)!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}, check=True, capture_output=True)


def test_no_warnings(tmp_path: Path) -> None:
    _build(tmp_path, EXECDRIVERS_WERROR="1")


@pytest.mark.needs("aarch64-linux-gnu-gcc")
@pytest.mark.parametrize("program", ["LAUNCHER", "MONITOR", "GUARD"])
def test_the_programs_build_for_aarch64(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setenv("CC", "aarch64-linux-gnu-gcc")
    monkeypatch.setenv("EXECDRIVERS_WERROR", "1")
    package = runpy.run_path(str(SOURCE / "build_launcher.py"))
    image = package["build_program"](package[program])
    assert image[:4] == b"\x7fELF"
    assert int.from_bytes(image[18:20], "little") == 183  # EM_AARCH64


@pytest.mark.needs("root", "busybox")
def test_launches_under_ubsan(tmp_path: Path, rootfs: Path) -> None:
    package = tmp_path / "execdrivers"
    shutil.copytree(SOURCE / "execdrivers", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    _build(tmp_path / "build", EXECDRIVERS_SANITIZE="1", EXECDRIVERS_WERROR="1")
    for module in (tmp_path / "build").glob("**/_launcher*.so"):
        shutil.copy(module, package / "launcher")
    program = f"""if True:
        import execdrivers.launcher
        assert execdrivers.launcher.__file__.startswith({str(tmp_path)!r})
        terminal = {{"tty": True, "stdout": execdrivers.PIPE, "stdin": execdrivers.DEVNULL}}
        for extra in ({{}}, {{"init": True}}, terminal):
            done = execdrivers.run(["sh", "-c", "echo fine"], rootfs={str(rootfs)!r}, driver="native", **extra)
            assert done.returncode == 0
        try:
            execdrivers.run(["nope"], rootfs={str(rootfs)!r}, driver="native")
        except execdrivers.CommandNotFound:
            print("done")
    """
    environment = {
        "PYTHONPATH": str(tmp_path),
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "runtime error" not in done.stderr
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr
