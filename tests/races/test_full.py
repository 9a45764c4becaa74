"""A store whose file system is full: told, with nothing left behind; what runs, runs on, and ends, and is removed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, PIPE, Engine, OperationError, StoreError

pytestmark = pytest.mark.needs("root", "busybox")


@pytest.fixture
def small(tmp_path: Path, no_leaks: None) -> Iterator[Path]:
    """A root on a file system of its own, of 256 KiB."""
    root = tmp_path / "small"
    root.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", root], check=True)
    yield root
    subprocess.run(["umount", root], check=True)


@contextlib.contextmanager
def full(root: Path) -> Iterator[None]:
    """To the last byte."""
    filler = root / ".filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while os.write(fd, b"x" * 4096):
                pass
        yield
    finally:
        os.close(fd)
        filler.unlink()


QUIET: dict[str, Any] = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}


def entries(root: Path) -> list[str]:
    return [name for name in os.listdir(root) if not name.startswith(".")]


def test_no_container_is_made(driver: str, spec: Callable[..., Any], small: Path) -> None:
    with Engine(small) as engine:
        with full(small):
            for _ in range(3):
                with pytest.raises((StoreError, OSError)) as caught:
                    engine.create(spec(), driver=driver, name="web", **QUIET)
                assert caught.value.errno == errno.ENOSPC
                assert entries(small) == []
            assert engine.list() == []
        engine.create(spec(), driver=driver, name="web", **QUIET).delete()


def test_what_runs_ends_and_is_removed(
    driver: str, spec: Callable[..., Any], small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its caller gets the exit; whoever asks the store is told that nobody could record it, not something else."""
    with Engine(small) as engine:
        container = engine.create(spec("read line; exit 6"), driver=driver, name="web", **{**QUIET, "stdin": PIPE})
        container.start()
        with full(small), caplog.at_level(logging.WARNING, "execdrivers"):
            assert container.stdin is not None
            container.stdin.write(b"\n")
            container.stdin.close()
            assert container.wait(20).code == 6
            (summary,) = engine.list()
            assert summary.state == "stopped" and summary.error is None
            assert summary.exit is None or summary.exit.code == 6
            with Engine(small) as other:
                assert other.get("web").state == "stopped"
            container.delete()
            assert entries(small) == []
        engine.create(spec(), driver=driver, name="web", **QUIET).delete()


@pytest.mark.features("pause")
def test_what_cannot_be_recorded_is_not_done(driver: str, spec: Callable[..., Any], small: Path) -> None:
    """A pause that others could not know of is told."""
    if driver == "oci":
        pytest.skip("runc loses its own record of the container where the disk is full, and with it the container")
    with Engine(small) as engine:
        container = engine.create(spec(), driver=driver, name="web", **QUIET)
        container.start()
        container.pause()
        container.resume()
        with full(small):
            with pytest.raises((StoreError, OperationError)):
                container.pause()
            assert container.state == engine.list()[0].state
        if container.state == "running":
            container.pause()
        assert container.state == engine.list()[0].state == "paused"
        container.resume()
        assert container.state == engine.list()[0].state == "running"
        container.delete(force=True)


def test_killed_and_deleted_by_force(driver: str, spec: Callable[..., Any], small: Path) -> None:
    with Engine(small) as engine:
        held = [engine.create(spec(), driver=driver, name=name, **QUIET) for name in ("a", "b")]
        for container in held:
            container.start()
        with full(small):
            engine.delete("a", force=True)
            with Engine(small) as other:
                other.delete("b", force=True)
            assert entries(small) == []


def test_run_tells_or_works(driver: str, spec: Callable[..., Any], small: Path) -> None:
    """At each degree of fullness: either it ran as ever, or it did not and that was told."""
    outcomes = set()
    with Engine(small) as engine:
        engine.run(spec("exit 3"), driver=driver, **QUIET)
        for left in (0, 1, 2, 3, 4, 6, 8, 16, 63):
            filler = small / ".filler"
            free = os.statvfs(small).f_bavail * 4096
            with open(filler, "wb") as file:
                file.write(b"x" * max(0, free - left * 4096))
            try:
                assert engine.run(spec("exit 3"), driver=driver, **QUIET).returncode == 3
                outcomes.add("ran")
            except OSError as error:
                outcomes.add("full" if "No space left on device" in str(error) else repr(error))
                if driver == "oci":
                    outcomes &= {"ran", "full"}  # runc does not always say why
            finally:
                filler.unlink()
            assert entries(small) == [], left
    assert outcomes == {"ran", "full"}
