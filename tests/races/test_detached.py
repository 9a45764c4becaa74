"""Detached containers, and what their monitors leave: found as they are after any number of kills."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, Container, ContainerExists, ContainerNotFound, Engine, InvalidState, LaunchError
from execdrivers.record import Record
from execdrivers.store import Store
from execdrivers.testing import host

from .together import Program, raised

pytestmark = [pytest.mark.needs("root", "busybox"), pytest.mark.features("detach")]


@pytest.fixture
def detached(engine: Engine, spec: Callable[..., Any]) -> Callable[..., Container]:
    """driver, command → a detached container that is started."""

    def make(driver: str, command: str = "exec sleep 1000", **options: Any) -> Container:
        container = engine.create(spec(command, tty=options.pop("tty", False)), driver=driver, detach=True, **options)
        container.start()
        return container

    return make


def _any_of(root: str, number: int) -> bool:
    return os.path.exists(root) and any(name.startswith(f"r{number}-") for name in os.listdir(root))


def test_true_exits_after_kills_at_random(
    driver: str, root: str, engine: Engine, spec: Callable[..., Any], rounds: Callable[[int], range]
) -> None:
    """Programs make containers that end by themselves, and are killed at any moment of it. Each container that was
    begun is found, with the code that its command ended with; of the others nothing is left."""

    def make(number: int) -> None:
        with Engine(root) as theirs:
            for each in range(100):
                code = 1 + (number * 100 + each) % 100
                name = f"r{number}-{each}-{code}"
                made = theirs.create(spec(f"sleep 0.0{each % 8}; exit {code}"), driver=driver, name=name, detach=True)
                made.start()

    for number in rounds(18):
        program = Program(lambda number=number: make(number))  # type: ignore[misc]
        host.until(lambda number=number: _any_of(root, number), "it has begun")  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.2 if driver == "native" else 0.8))
        program.kill()
        assert program.outcome() is None
        if number % 3 == 0:
            for container in engine.recover():
                assert container.state in ("creating", "created", "running", "stopped")
    begun: dict[str, int] = {}

    def settled() -> bool:
        """No record is of one whose maker died before its start: those go by themselves."""
        records = [record for record in Store(root).list() if isinstance(record, Record)]
        begun.clear()
        begun.update({record.id: int(record.id.rpartition("-")[2]) for record in records})
        return all(record.status not in ("creating", "created") for record in records)

    host.until(settled, "what was not begun is gone")
    found = {container.name: container.wait(20) for container in engine.recover()}
    assert set(found) == set(begun)
    cut = 0
    for name, code in begun.items():
        if found[name].code != code:
            # The record says so before the command is let go: one of each program may have ended without.
            cut += 1
            assert found[name].code != 0, f"{name}: {found[name]}"
    assert cut <= len(list(rounds(18))), found
    assert engine.gc() == []
    for name in begun:
        engine.delete(name)
    assert engine.list() == []


#: In place of what a monitor leaves.
NO_SENSE = (b"{", b"", b'{"status":', b"\0" * 100, b"[]", b'{"status": "x"}', b'{"status": -7}', b'{"time": 1}')


def test_an_exit_that_makes_no_sense(
    driver: str,
    detached: Callable[..., Container],
    root: str,
    rounds: Callable[[int], range],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The end is then one of which nobody knows how it was, or the kernel does."""
    caplog.set_level(logging.CRITICAL, "execdrivers")  # what is kept of warnings keeps containers
    for number in rounds(len(NO_SENSE)):
        container = detached(driver)
        with contextlib.closing(Store(root).open(container.id)) as entry:
            monitor = entry.read().monitor
        assert monitor is not None
        os.kill(monitor[0], signal.SIGKILL)
        Path(root, container.id, "exit").write_bytes(NO_SENSE[number])
        container.kill()
        told = container.wait(20)
        assert told.reason in ("unknown", "signaled"), told
        with Engine(root) as other:
            assert other.get(container.id).wait(5) == told
        container.delete()
    gc.collect()  # what errors still hold


def test_the_disk_of_its_log_is_full(
    driver: str, spec: Callable[..., Any], tmp_path: Path, no_leaks: None, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs on, its exit is told, and its log says how much is not there."""
    caplog.set_level(logging.CRITICAL, "execdrivers")  # as above
    small = tmp_path / "small"
    small.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", small], check=True)
    try:
        with Engine(small) as engine:
            script = "i=0; while [ $i -lt 9000 ]; do echo a line that is one of very many: $i; i=$((i+1)); done; exit 5"
            container = engine.create(spec(script), driver=driver, detach=True, stdin=DEVNULL)
            container.start()
            assert container.wait(60).code == 5
            entries = list(container.logs())
            assert entries[0].data == b"a line that is one of very many: 0\n"
            assert len(entries) < 9000
            with Engine(small) as other:
                assert other.get(container.id).wait(5).code == 5
            container.delete()
            del container
    finally:
        gc.collect()
        subprocess.run(["umount", small], check=True)


@pytest.mark.features("tty")
def test_what_is_used_after_its_close(driver: str, detached: Callable[..., Container]) -> None:
    container = detached(driver, tty=True)
    attached = container.attach()
    attached.resize(30, 90)
    attached.detach()
    attached.detach()
    for use in (lambda: attached.resize(1, 1), lambda: attached.write(b"x")):
        with pytest.raises((InvalidState, OSError, ValueError)):
            use()
    container.resize(40, 80)
    container.delete(force=True)
    for use in (lambda: container.resize(1, 1), container.attach):
        with pytest.raises((InvalidState, ContainerNotFound)):
            use()


def test_made_by_many_at_once(driver: str, root: str, engine: Engine, spec: Callable[..., Any]) -> None:
    """One of them gets the name; the others are told, and leave nothing."""

    def make() -> bool:
        with Engine(root) as theirs:
            with contextlib.suppress(ContainerExists):
                theirs.create(spec(), driver=driver, name="web", detach=True).start()
                return True
            return False

    outcomes = [program.outcome() for program in [Program(make) for _ in range(4)]]
    raised(outcomes, LaunchError)
    assert outcomes.count(True) == 1, outcomes
    container = engine.get("web")
    assert container.state == "running"
    container.delete(force=True)
