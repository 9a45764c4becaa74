"""The clock is set while containers live. What is waited for and who is who does not depend on it.

The machine's clock is left alone: other programs go by it. `time.time` is what this package asks for times of day; that
is changed here, in a program of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from execdrivers import Container, ContainerTimeout, Engine
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root", "busybox")

YEAR = 365 * 86400.0


@pytest.mark.parametrize("shift", [-30 * YEAR, -3600, 3600, 30 * YEAR], ids=["-30 years", "-1h", "+1h", "+30 years"])
def test_set_while_it_lives(driver: str, make: Callable[..., Container], root: str, shift: float) -> None:
    def body() -> None:
        container = make(driver, "trap '' TERM; exec sleep 1000", name="web")
        true = time.time
        with mock.patch("time.time", side_effect=lambda: true() + shift):
            began = time.monotonic()
            with pytest.raises(ContainerTimeout):
                container.wait(0.2)
            assert 0.2 <= time.monotonic() - began < 10
            with Engine(root) as other:
                assert other.get("web").state == "running"
                (summary,) = other.list()
                assert summary.state == "running" and summary.pid == container.pid
                assert other.gc() == []
                assert [each.state for each in other.recover()] == ["running"]
            began = time.monotonic()
            container.stop(timeout=0.1)
            assert time.monotonic() - began < 10
            assert container.wait(0).signal == 9
            assert container.finished_at is not None and abs(container.finished_at - true() - shift) < 60
        assert container.state == "stopped"
        container.delete()

    host.in_child(body)


def test_a_run_takes_the_time_that_it_takes(driver: str, engine: Engine, spec: Callable[..., Any]) -> None:
    true, jumps = time.time, iter(range(10**6))
    with mock.patch("time.time", side_effect=lambda: true() + (-1) ** next(jumps) * YEAR):
        began = time.monotonic()
        completed = engine.run(spec("sleep 0.2"), driver=driver, stdin=-3, stdout=-3, stderr=-3, timeout=30)
        assert completed.exit.ok and 0.2 <= completed.duration <= time.monotonic() - began
        with pytest.raises(ContainerTimeout):
            engine.run(spec(), driver=driver, stdin=-3, stdout=-3, stderr=-3, timeout=0.2)


def test_ages_make_sense_whatever_the_clock(make: Callable[..., Container], root: str) -> None:
    """`ps` of a container that was made in the future."""
    container = make("native", name="web")
    path = Path(root, "web", "state.json")
    for field in ("created_at", "started_at"):
        text = re.sub(rf'"{field}":[\d.]+', f'"{field}":{time.time() + YEAR}', path.read_text())
        path.write_text(text)
    for words in (["ps"], ["ps", "--format", "json"], ["inspect", "web"]):
        command = [sys.executable, "-m", "execdrivers", "--root", root, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "web" in done.stdout and not done.stderr, done
    container.delete(force=True)
