"""What Docker 0.9 asked of its daemon (integration/runtime_test.go, api_test.go), asked of the engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from execdrivers import (
    PIPE,
    ContainerExists,
    ContainerNotFound,
    ContainerSpec,
    Engine,
    InvalidState,
    SpecError,
)
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root", "busybox")

# --- names and the list -----------------------------------------------------------------------------------------


def test_runtime_create(engine, create):
    assert engine.list() == []
    with create(["ls", "-al"]) as c:
        assert [(item.name, item.state) for item in engine.list()] == [(c.id, "created")]
        assert engine.get(c.id) is c
    with pytest.raises(SpecError, match="args"):
        create([])


def test_destroy(engine, create):
    c = create(["ls", "-al"])
    c.delete()
    assert engine.list() == []
    with pytest.raises(ContainerNotFound):
        engine.get(c.id)
    c.delete()  # a second time is no error
    with pytest.raises(ContainerNotFound):
        engine.delete(c.id)


def test_destroy_of_one_that_runs(create):
    with create(["sleep", "60"]) as c:
        c.start()
        pid = c.pid
        with pytest.raises(InvalidState, match="running"):
            c.delete()
        assert host.alive(pid)
        c.delete(force=True)
        assert not host.alive(pid)


def test_get(engine, create):
    with create(["true"]) as one, create(["true"]) as two, create(["true"]) as three:
        assert [engine.get(c.id) for c in (three, one, two)] == [three, one, two]
        assert len({one.id, two.id, three.id}) == 3


def test_names(engine, create):
    with create(["true"], name="web-1.test_x") as c:
        assert c.name == "web-1.test_x"
        with pytest.raises(ContainerExists, match=r"web-1\.test_x"):
            create(["true"], name=c.name)
        assert [item.name for item in engine.list()] == [c.name]
    with create(["true"], name="web-1.test_x"):
        pass  # free again


@pytest.mark.parametrize("name", ["-x", "a/b", "..", "", "a b", "a\nb", "x" * 300, "ü"])
def test_invalid_names(create, name):
    with pytest.raises(SpecError, match="name"):
        create(["true"], name=name)


def test_inspect(engine, create):
    with create("exit 3", hostname="box") as c:
        c.start()
        c.wait(20)
        (summary,) = engine.list()
        assert (summary.name, summary.state, summary.exit.code) == (c.id, "stopped", 3)
        assert ContainerSpec.from_json(c.spec.to_json()) == c.spec
        assert c.created_at <= c.started_at <= c.finished_at <= time.time()


def test_top(create):
    """GetPidsForContainer: the host's pids."""
    with create("sleep 60 & sleep 60 & wait") as c:
        c.start()
        host.until(lambda: len(c.pids()) == 3, "three processes")
        assert set(c.pids()) == host.descendants(c.pid)


# --- restore ----------------------------------------------------------------------------------------------------

_MAKER = """
import json, os, signal, sys
from execdrivers import DEVNULL, ContainerSpec, Engine
root, rootfs, driver, started, commands = json.loads(sys.argv[1])
engine = Engine(root)
for name, command in commands.items():
    spec = ContainerSpec(["sh", "-c", command], rootfs=rootfs)
    c = engine.create(spec, driver=driver, name=name, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    if started:
        c.start()
        c.detach()
    print(c.pid, flush=True)
print("ready", flush=True)
signal.pause()
"""

Maker = Callable[..., "contextmanager[tuple[subprocess.Popen[str], list[int]]]"]


@pytest.fixture
def maker(tmp_path: Path, rootfs: Path, driver: str) -> Any:
    """{name: script} → a daemon that has made these containers, and their pids."""

    @contextmanager
    def maker(started: bool = True, **commands: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
        request = json.dumps([str(tmp_path / "state"), str(rootfs), driver, started, commands])
        argv = [sys.executable, "-c", _MAKER, request]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                pids = [int(process.stdout.readline()) for _ in commands]
                assert process.stdout.readline() == "ready\n"
                yield process, pids
            finally:
                process.kill()

    return maker


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_restore(engine: Engine, maker: Any) -> None:
    """0.9 killed what it found running after a restart: it could not take hold of it again. Ours lives on."""
    with maker(survivor="sleep 60") as (daemon, (pid,)):
        _kill(daemon)
        assert host.alive(pid)
        (summary,) = engine.list()
        assert (summary.name, summary.state) == ("survivor", "running")
        c = engine.get("survivor")
        assert (c.state, c.pid) == ("running", pid)
        assert c.pid in c.pids()
        c.signal("CONT")
        c.kill()
        end = c.wait(20)
        assert end.signal in (signal.SIGKILL, None)
        assert end.reason in ("signaled", "unknown")
        assert not host.alive(pid)
        c.delete()


def test_restore_and_signal(engine: Engine, maker: Any) -> None:
    with maker(survivor="trap 'exit 0' TERM; while :; do sleep 0.05; done") as (daemon, (pid,)):
        _kill(daemon)
        c = engine.get("survivor")
        host.until(lambda: int(host.status(pid)["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1, "its handler")
        c.stop(timeout=20)
        assert not host.alive(pid)
        c.delete()


def test_restore_what_ended_meanwhile(engine: Engine, maker: Any) -> None:
    """While nobody looked. How it ended is known, or said to be unknown: 0.9 wrote -127."""
    with maker(short="sleep 0.2; exit 3", long="sleep 60") as (daemon, (short, long)):
        _kill(daemon)
        host.until(lambda: not host.alive(short), "the end of the short one")
        ended, running = engine.get("short"), engine.get("long")
        end = ended.wait(20)
        assert (end.reason, end.code) in (("exited", 3), ("unknown", None))
        assert (ended.state, running.state, running.pid) == ("stopped", "running", long)
        assert ended.pids() == ()
        ended.delete()
        running.delete(force=True)
        assert not host.alive(long)


def test_restore_what_was_not_started(engine: Engine, maker: Any) -> None:
    """It dies with its maker: nobody else knows what to connect its stdio with."""
    with maker(started=False, idle="sleep 60") as (daemon, (pid,)):
        _kill(daemon)
        host.until(lambda: not host.alive(pid), "its end")
        c = engine.get("idle")
        assert c.state in ("created", "stopped")
        c.delete(force=True)


def test_another_pid_is_never_taken_for_it(engine: Engine, maker: Any) -> None:
    """0.9 kept a pid, and on restart killed whoever had it by then."""
    with maker(victim="sleep 60") as (daemon, (pid,)):
        _kill(daemon)
        os.kill(pid, signal.SIGKILL)
        host.until(lambda: not host.alive(pid), "its end")
        files = [path for path in Path(engine.root).glob("[!.]*/**/*") if path.is_file()]
        records = [path for path in files if str(pid) in path.read_text()]
        assert records
        time.sleep(0.03)  # start times are in hundredths of a second; no pid is used again that soon
        with subprocess.Popen(["sleep", "60"]) as bystander:
            try:
                for record in records:
                    record.write_text(record.read_text().replace(str(pid), str(bystander.pid)))
                c = engine.get("victim")
                c.kill()
                c.delete(force=True)
                assert bystander.poll() is None
            finally:
                bystander.kill()


def test_two_daemons_on_one_root(engine: Engine, maker: Any) -> None:
    with maker(shared="sleep 60") as (daemon, (pid,)):
        with pytest.raises(ContainerExists):
            engine.create(ContainerSpec(["true"]), name="shared")
        c = engine.get("shared")
        assert c.pid == pid
        c.kill()
        assert c.wait(20).reason in ("signaled", "unknown")
        _kill(daemon)
        c.delete()


def test_a_daemon_that_stops_by_itself_leaves_nothing(
    tmp_path: Path, rootfs: Path, driver: str, no_leaks: None
) -> None:
    spec = ContainerSpec(["sleep", "60"], rootfs=str(rootfs))
    with Engine(tmp_path / "state") as engine:
        c = engine.create(spec, driver=driver, stdout=PIPE)
        c.start()
        pid = c.pid
    assert pid is not None
    assert not host.alive(pid)
