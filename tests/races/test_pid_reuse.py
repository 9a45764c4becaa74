"""Pids that a container's record names are other processes' by now: those are never taken for it, nor touched."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, Container, Engine, ExecDriverError, InvalidState
from execdrivers.testing import host

from .strangers import Stranger

pytestmark = pytest.mark.needs("root", "busybox")


def recorded(value: Any) -> Iterator[int]:
    """All that a record names as a process: pairs of pid and start time, and pids by that name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("process", "owner", "monitor", "reaper") and isinstance(inner, list):
                yield inner[0]
            elif key in ("pid", "monitor", "session") and isinstance(inner, int):
                yield inner
            else:
                yield from recorded(inner)


@pytest.fixture
def taken() -> Iterator[Callable[[str], list[Stranger]]]:
    """The record in that file → strangers with all its pids, whose processes have ended."""
    strangers: list[Stranger] = []

    def take(path: str) -> list[Stranger]:
        pids = sorted(set(recorded(json.loads(Path(path).read_bytes()))))
        for pid in pids:
            host.until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), f"{pid} is gone")  # type: ignore[misc]
            strangers.append(Stranger(pid))
        return strangers

    yield take
    for stranger in strangers:
        stranger.end()


def abandoned(driver: str, spec: Any, root: str, mode: str) -> str:
    """A container whose maker was killed, and all that the maker left; the path of its record."""

    def make() -> object:
        engine = Engine(root)
        quiet = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
        container = engine.create(spec(), driver=driver, name="web", detach=mode == "detached", **quiet)
        container.start()
        if mode == "let go":
            container.detach()
        Path(root).parent.joinpath("kept").write_bytes(Path(root, "web", "state.json").read_bytes())
        return container

    host.in_child(make, killed=True)
    path = Path(root).parent / "kept"
    if mode != "attached":
        with Engine(root) as engine:
            if mode == "detached":  # so that nobody concludes it
                os.kill(json.loads(path.read_bytes())["monitor"][0], signal.SIGKILL)
            engine.get("web").kill()
            engine.get("web").wait(20)
            engine.delete("web", force=True)
    else:
        host.until(lambda: not os.path.exists(f"{root}/web"), "its guard has removed it")
    # The record comes back, as of a time before the end: nobody was there to tell.
    Path(root, "web").mkdir(mode=0o700)
    Path(root, "web", "state.json").write_bytes(path.read_bytes())
    return f"{root}/web/state.json"


@pytest.mark.parametrize("mode", ["attached", "let go", "detached"])
def test_nobody_else_is_taken_for_it(
    driver: str, spec: Any, engine: Engine, root: str, probes: Any, taken: Callable[[str], list[Stranger]], mode: str
) -> None:
    features = probes[driver].features
    if mode == "detached" and "detach" not in features:
        pytest.skip(f"driver {driver} does not declare detach")
    strangers = taken(abandoned(driver, spec, root, mode))
    assert strangers
    (summary,) = engine.list()
    assert (summary.state, summary.pid, summary.owner) == ("stopped", None, None)
    container = engine.get("web")
    assert container.state == "stopped" and container.pid is None
    attempts: list[Callable[[], object]] = [lambda: container.signal("TERM"), lambda: container.signal("KILL")]
    if "exec" in features:
        attempts.append(lambda: container.exec(["true"], stdin=DEVNULL))
    if "pause" in features:
        attempts += [container.pause, container.resume]
    if "update" in features and "cgroup.memory" in features:
        attempts.append(lambda: container.update(memory="64M"))
    for attempt in attempts:
        with pytest.raises(InvalidState):
            attempt()
    container.kill()
    if "pids" in features:
        with contextlib.suppress(ExecDriverError):
            assert not set(container.pids()) & {stranger.pid for stranger in strangers}
    assert container.wait(5).reason == "unknown"
    assert all(stranger.untouched() for stranger in strangers)
    engine.gc()
    assert all(stranger.untouched() for stranger in strangers)
    engine.delete("web", force=True) if os.path.exists(f"{root}/web") else None
    assert all(stranger.untouched() for stranger in strangers)


def test_gc_takes_nobody_else_for_its_maker(
    driver: str, spec: Any, engine: Engine, root: str, taken: Callable[[str], list[Stranger]]
) -> None:
    """Its maker's pid is another's: it is as abandoned as ever, and collected."""
    strangers = taken(abandoned(driver, spec, root, "attached"))
    assert [garbage.id for garbage in engine.gc()] == ["web"]
    assert engine.list() == []
    assert all(stranger.untouched() for stranger in strangers)


def test_recover_takes_nobody_else_for_it(
    driver: str, spec: Any, engine: Engine, root: str, taken: Callable[[str], list[Stranger]]
) -> None:
    strangers = taken(abandoned(driver, spec, root, "let go"))
    (container,) = engine.recover()
    assert container.state == "stopped" and container.exit is not None and container.exit.reason == "unknown"
    container.delete()
    assert all(stranger.untouched() for stranger in strangers)


def test_a_held_container_is_its_process_whoever_has_the_pid(driver: str, make: Callable[..., Container]) -> None:
    """Its maker holds it by pidfd: when it has ended, a stranger with its pid is none of its business."""
    container = make(driver)
    pid = container.pid
    assert pid is not None
    container.kill()
    container.wait(20)
    host.until(lambda: not os.path.exists(f"/proc/{pid}"), "it is gone")
    stranger = Stranger(pid)
    try:
        with pytest.raises(InvalidState):
            container.signal("KILL")
        container.kill()
        assert container.state == "stopped" and container.pid is None
        container.delete(force=True)
        assert stranger.untouched()
    finally:
        stranger.end()


@pytest.mark.features("pids")
def test_processes_are_named_by_who_holds_it(driver: str, make: Callable[..., Container], root: str) -> None:
    """Another program has looked at it before its end, and asks again when a stranger has its pid."""
    container = make(driver)
    with Engine(root) as other:
        theirs = other.get(container.id)
        pid = container.pid
        assert pid is not None and pid in theirs.pids()
        container.kill()
        container.wait(20)
        host.until(lambda: not os.path.exists(f"/proc/{pid}"), "it is gone")
        stranger = Stranger(pid)
        try:
            assert not theirs.pids()
        finally:
            stranger.end()
        container.delete()
