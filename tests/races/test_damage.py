"""Entries of the store that make no sense: each is told with its remedy, the others go on, and force removes it."""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import (
    DEVNULL,
    Container,
    ContainerNotFound,
    ContainerSpec,
    Engine,
    ExecDriverError,
    StoreError,
    UnknownDriver,
)
from execdrivers.record import LAYOUT
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root", "busybox")

Make = Callable[..., Container]


@pytest.fixture
def beside(make: Make, root: str) -> Iterator[Container]:
    """A container of which all must go on; damage comes to ``bad`` in the same root."""
    container = make("native", name="good")
    yield container
    container.delete(force=True)


@pytest.fixture
def bad(root: str, beside: Container) -> Path:
    """The directory of an entry, with a record as of a container that ended."""
    path = Path(root, "bad")
    path.mkdir(mode=0o700)
    (path / "state.json").write_bytes(sound(root))
    return path


def sound(root: str, **changes: Any) -> bytes:
    data = json.loads(Path(root, "good", "state.json").read_bytes())
    data |= {"id": "bad", "status": "stopped", "process": [1 << 21, 1], "owner": None, "handle": None}
    data |= {"exit": {"reason": "exited", "code": 3}, "finished_at": 1.5, **changes}
    return json.dumps(data).encode()


def told(root: str, beside: Container) -> StoreError:
    """How the damage is told; all else is as ever."""
    with Engine(root) as engine:
        listed = {summary.name: summary for summary in engine.list()}
        assert listed["good"].state == "running" and listed["good"].error is None
        assert set(listed) == {"good", "bad"}
        error = listed["bad"].error
        assert error is not None and listed["bad"].state is None
        with pytest.raises(StoreError) as caught:
            engine.get("bad")
        assert str(caught.value) == str(error)
        with pytest.raises(StoreError):
            engine.delete("bad")
        assert engine.get("good").state == "running"
        assert [container.name for container in engine.recover()] == ["good"]
        assert engine.gc() == []
    assert beside.state == "running"
    assert "execdrivers rm --force bad" in error.remedy and error.filename
    return error


def gone(root: str) -> None:
    """Force removes it, and the name is free."""
    with Engine(root) as engine:
        engine.delete("bad", force=True)
        assert [summary.name for summary in engine.list()] == ["good"]
        with pytest.raises(ContainerNotFound):
            engine.get("bad")
    assert not os.path.lexists(f"{root}/bad")


def test_truncated_at_every_byte(root: str, beside: Container, bad: Path) -> None:
    whole = sound(root)
    with Engine(root) as engine:
        for length in range(len(whole)):
            (bad / "state.json").write_bytes(whole[:length])
            damaged, good = engine.list()
            assert damaged.error is not None and good.state == "running", length
            assert "rm --force bad" in damaged.error.remedy
            with pytest.raises(StoreError):
                engine.get("bad")
        (bad / "state.json").write_bytes(whole)
        assert engine.get("bad").exit == engine.list()[0].exit
        (bad / "state.json").write_bytes(whole[: len(whole) // 2])
    told(root, beside)
    gone(root)


def test_half_written_beside_a_whole_one(root: str, beside: Container, bad: Path) -> None:
    """What a writer left that was killed before it put the record in place."""
    (bad / "state.json.new").write_bytes(sound(root)[:100])
    with Engine(root) as engine:
        assert engine.get("bad").state == "stopped"
        (Path(root) / "good" / "state.json.new").write_bytes(b"{")
        engine.get("good").pause()
        engine.get("good").resume()
        engine.get("bad").delete()
    assert beside.state == "running"
    assert not bad.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is damaged"),
        (b"\0" * 4096, "is damaged"),
        (b"\xff\xfe garbage", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"null", "is not one of execdrivers"),
        (b'{"hello": "world"}', "is not one of execdrivers"),
        (b'{"layout": 1, "id": "bad", "status": "flying"}', "is damaged"),
    ],
)
def test_garbage(root: str, beside: Container, bad: Path, content: bytes, says: str) -> None:
    (bad / "state.json").write_bytes(content)
    assert says in str(told(root, beside))
    gone(root)


def test_of_a_newer_version(root: str, beside: Container, bad: Path) -> None:
    (bad / "state.json").write_bytes(sound(root, layout=LAYOUT + 1, something="new"))
    error = told(root, beside)
    assert f"newer version (layout {LAYOUT + 1}" in error.message
    assert "use that version" in error.remedy
    gone(root)


def a_directory(bad: Path) -> None:
    (bad / "state.json").unlink()
    (bad / "state.json").mkdir()
    (bad / "state.json" / "more").touch()


def a_link(bad: Path) -> None:
    shutil.move(bad / "state.json", bad.parents[1] / "elsewhere")
    (bad / "state.json").symlink_to(bad.parents[1] / "elsewhere")


def a_pipe(bad: Path) -> None:
    (bad / "state.json").unlink()
    os.mkfifo(bad / "state.json")


def another_users(bad: Path) -> None:
    os.chown(bad / "state.json", 1234, 1234)


def in_another_users_directory(bad: Path) -> None:
    os.chown(bad, 1234, 1234)


def in_a_linked_directory(bad: Path) -> None:
    bad.rename(bad.parents[1] / "elsewhere")
    bad.symlink_to(bad.parents[1] / "elsewhere")


def a_file_in_place_of_the_directory(bad: Path) -> None:
    shutil.rmtree(bad)
    bad.write_bytes(b"x")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (a_directory, "is no file"),
        (a_link, "is a symbolic link"),
        (a_pipe, "is no file"),
        (another_users, "belongs to uid 1234"),
        (in_another_users_directory, "belongs to uid 1234"),
        (in_a_linked_directory, "is in no directory"),
        (a_file_in_place_of_the_directory, "is in no directory"),
    ],
)
def test_something_else(root: str, beside: Container, bad: Path, spoil: Callable[[Path], object], says: str) -> None:
    spoil(bad)
    assert says in str(told(root, beside))
    gone(root)
    elsewhere = bad.parents[1] / "elsewhere"
    assert elsewhere.exists() == (spoil in (a_link, in_a_linked_directory)), "what was linked to is left alone"


def test_the_command_line_tells_all(root: str, beside: Container, bad: Path) -> None:
    (bad / "state.json").write_bytes(b"{")

    def cli(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "execdrivers", "--root", root, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    listed = cli("ps", "-a")
    assert listed.returncode == 0 and "good" in listed.stdout and "Damaged" in listed.stdout, listed
    inspected = cli("inspect", "good", "bad")
    assert inspected.returncode == 1 and "rm --force bad" in inspected.stderr
    assert [details["name"] for details in json.loads(inspected.stdout)] == ["good"]
    assert cli("rm", "bad").returncode == 1
    assert cli("rm", "-f", "bad").returncode == 0
    assert cli("ps", "-aq").stdout.split() == ["good"]


WRONG = (None, True, -1, 0, 1 << 70, 1.5, "", "x", [], ["x"], {}, {"x": 1})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something could be wrong in it."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if "guarantees" not in path and "spec" not in path[:1]:
            yield from places(inner, (*path, key))


def spoiled(data: dict[str, Any], path: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """With something else in that place, or nothing."""
    for wrong in (*WRONG, ...):
        changed = copy.deepcopy(data)
        within: Any = changed
        for key in path[:-1]:
            within = within[key]
        if wrong is ...:
            del within[path[-1]]
        else:
            within[path[-1]] = wrong
        yield changed


def test_anything_wrong_anywhere_in_it(
    driver: str, engine: Engine, root: str, beside: Container, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a container that has ended, whose maker is dead, and which nobody has cleaned up after: what is wrong is told
    as an error of ours, or is without effect; nobody else comes to harm, and force removes it."""

    caplog.set_level(logging.CRITICAL, "execdrivers")  # what is kept of warnings keeps containers

    def orphan() -> None:
        with Engine(root) as theirs:
            spec = ContainerSpec.build(["sleep", "0"], rootfs=beside.spec.rootfs)
            made = theirs.create(spec, driver=driver, name="bad", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
            made.start()
            made.detach()

    host.in_child(orphan)
    path = Path(root, "bad", "state.json")
    host.until(lambda: engine.list()[0].state == "stopped", "it ended")
    data = json.loads(path.read_bytes())
    assert data["handle"] and data["status"] == "running"
    kept = shutil.copytree(path.parent, Path(root).parent / "kept")
    engine.delete("bad", force=True)
    count = 0
    for place in places(data):
        for changed in spoiled(data, place):
            shutil.copytree(kept, path.parent)
            path.write_text(json.dumps(changed))
            what = f"{place}: {changed}"
            listed = {summary.name: summary for summary in engine.list()}
            assert listed["good"].state == "running", what
            try:
                found = engine.get("bad")
                assert found.state in ("creating", "created", "running", "paused", "stopped"), what
                if found.state != "creating":
                    found.poll()
            except ExecDriverError:
                pass
            except Exception as error:
                raise AssertionError(what) from error
            try:
                engine.delete("bad", force=True)
            except ContainerNotFound:  # a record that asks to go with the end
                assert place == ("remove",), what
            except UnknownDriver:  # its plugin may be no more than away for a moment
                assert place == ("driver",), what
                shutil.rmtree(path.parent)
            except Exception as error:
                raise AssertionError(what) from error
            assert not path.parent.exists(), what
            count += 1
    assert count > 200
    gc.collect()  # what errors still hold
    assert beside.state == "running"
