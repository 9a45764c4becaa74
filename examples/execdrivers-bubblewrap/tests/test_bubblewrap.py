"""What concerns bwrap itself: a program that is missing, hangs, or fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from execdrivers import ContainerSpec, DriverUnavailable, Engine, LaunchError, Registry
from execdrivers_bubblewrap import driver, recipe


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that is found as bwrap; a test writes it."""
    path = tmp_path / "bin/bwrap"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def reason() -> str:
    (problem,) = driver.BubblewrapDriver().probe().problems
    assert problem.remedy
    return problem.reason


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert reason() == "there is no program bwrap on PATH"


@pytest.mark.skipif(os.geteuid() != 0, reason="cgroups take root")
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo no such option >&2; exit 1", "no such option"),
        ("exit 0", "ended without having started"),
        ("kill -9 $$", "ended without having started"),
        ("head -c 100000 /dev/urandom >&2", "trial failed"),
        ("exec sleep 60", "nothing has started within"),
    ],
)
def test_useless(script: str, expected: str, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.write_text(f"#!/bin/sh\n{script}\n")
    monkeypatch.setattr(driver, "_TIMEOUT", 0.3)
    assert expected in reason()
    with pytest.raises(DriverUnavailable):
        Engine(fake.parent / "root", registry=registry()).run(["true"], driver="bubblewrap")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("bwrap"), reason="bwrap and cgroups take root")
def test_its_own_words_become_the_error(tmp_path: Path, fake: Path) -> None:
    fake.unlink()
    engine = Engine(tmp_path / "root", registry=registry())
    assert engine.run(["true"], driver="bubblewrap").returncode == 0
    fake.write_text("#!/bin/sh\necho bwrap: cannot do it >&2; exit 1\n")
    fake.chmod(0o755)
    with pytest.raises(LaunchError, match="bwrap: cannot do it") as caught:
        engine.run(["true"], driver="bubblewrap")
    assert caught.value.step == "bwrap"


def test_values_cannot_become_options() -> None:
    spec = ContainerSpec(
        ["--help", "--bind"], hostname="h", mounts=[{"type": "bind", "source": "/", "destination": "/x"}]
    )
    arguments = recipe.make(spec, "id", driver.BubblewrapDriver().layout).arguments
    assert arguments[-2] == "--"
    assert "--help" not in arguments


def registry() -> Registry:
    registry = Registry(built_in={}, entry_points=False)
    registry.register(__import__("execdrivers_bubblewrap"), "bubblewrap")
    return registry
