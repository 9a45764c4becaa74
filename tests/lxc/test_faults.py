"""Tools that fail, hang, lie or are killed half way: each a clear error, and nothing left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import (
    DEVNULL,
    PIPE,
    CommandNotFound,
    Container,
    ContainerSpec,
    Engine,
    LaunchError,
    OperationError,
    cgroups,
)
from execdrivers.exit import Exit
from execdrivers.testing.host import until
from execdrivers_lxc import tools

FakeTools = Callable[..., Path]
NewEngine = Callable[[], Engine]
pytestmark = pytest.mark.needs("lxc-start", "root")


def failed(engine: Engine, rootfs: Path, match: str, **fields: object) -> LaunchError:
    with pytest.raises(LaunchError, match=match) as caught:
        engine.run(["true"], rootfs=rootfs, driver="lxc", **fields)
    assert caught.value.exit.reason == "launch-failed"
    return caught.value


def create(engine: Engine, rootfs: Path, *args: str, stdin: int | None = None, **fields: Any) -> Container:
    spec = ContainerSpec.build(args, rootfs=rootfs, **fields)
    return engine.create(spec, driver="lxc", stdin=stdin)


# --- the start --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("does", ["exit 0", "exit 1", "echo garbage; echo garbage >&2; exit 3", "kill -9 $$"])
def test_a_tool_that_does_nothing(fake_tools: FakeTools, new_engine: NewEngine, rootfs: Path, does: str) -> None:
    fake_tools(start=does)
    error = failed(new_engine(), rootfs, "ended without having started the container")
    assert error.step == "launch"


def test_what_the_tool_logs_is_the_reason(fake_tools: FakeTools, new_engine: NewEngine, rootfs: Path) -> None:
    lines = [
        "ERROR    start - ../src/lxc/start.c:lxc_spawn:1 - Device or resource busy - Failed to have a reason",
        "ERROR    lxc_start - ../src/lxc/tools/lxc_start.c:main:306 - The container failed to start",
        "INFO     start - ../src/lxc/start.c:main:1 - not an error",
    ]
    say = "\n".join(f'echo "lxc-start $3 20260101000000.000 {line}" >>"$log"' for line in lines)
    fake_tools(start=f'while [ $# -gt 1 ]; do [ "$1" != -o ] || log=$2; shift; done\n{say}\nexit 1')
    error = failed(new_engine(), rootfs, "lxc-start: Device or resource busy - Failed to have a reason$")
    assert error.errno == 16


def test_a_tool_that_hangs(
    fake_tools: FakeTools, new_engine: NewEngine, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "TIMEOUT", 0.2)
    monkeypatch.setattr("execdrivers_lxc.driver._GRACE", 0.1)
    fake_tools(start="sleep 100 & sleep 100")
    failed(new_engine(), rootfs, "nothing has started within 0.2 seconds")


def test_a_tool_that_goes_away_after_the_probe(fake_tools: FakeTools, new_engine: NewEngine, rootfs: Path) -> None:
    directory = fake_tools()
    engine = new_engine()
    engine.run(["true"], rootfs=rootfs, driver="lxc")
    (directory / "lxc-start").unlink()
    assert failed(engine, rootfs, "spawn: .*/lxc-start: No such file or directory").errno == 2


@pytest.mark.parametrize("after", [0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.007, 0.01, 0.02, 0.03])
def test_killed_in_the_middle_of_the_start(
    fake_tools: FakeTools, new_engine: NewEngine, rootfs: Path, after: float
) -> None:
    real = shutil.which("lxc-start")
    fake_tools(start=f'{real} "$@" & sleep {after}; kill -9 $!; wait')
    engine = new_engine()
    with contextlib.suppress(LaunchError):
        engine.run(["sleep", "0"], rootfs=rootfs, driver="lxc", memory="64M")
    assert not engine.list()


def test_the_launcher_fails_and_nothing_runs(engine: Engine, rootfs: Path) -> None:
    assert failed(engine, rootfs, "chdir: /nowhere: No such file", cwd="/nowhere").step == "chdir"
    with pytest.raises(CommandNotFound):
        engine.run(["nonsense"], rootfs=rootfs, driver="lxc")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"sysctls": {"net.ipv4.ip_forward": "nonsense"}}, "lxc-start: .*ip_forward"),
        ({"cpuset_cpus": "0-4000"}, "lxc-start: .*cpuset.cpus"),
        ({"mounts": [{"destination": "/tmp", "type": "tmpfs", "options": ["size=nonsense"]}]}, "lxc-start: .*tmpfs"),
        ({"mounts": [{"destination": "/tmp", "type": "bind", "source": "/etc/passwd"}]}, "lxc-start: Not a directory"),
    ],
)
def test_errors_of_lxc_are_told(engine: Engine, rootfs: Path, fields: dict[str, object], match: str) -> None:
    assert failed(engine, rootfs, match, **fields).remedy


# --- the monitor ------------------------------------------------------------------------------------------------


def monitor_of(container: Container) -> int:
    return int(container._hold()._container.monitor)  # type: ignore[attr-defined]


def end(pid: int) -> None:
    """Kill a child of ours and wait until it is dead, without reaping it."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("when", ["before the start", "after"])
@pytest.mark.parametrize("user", ["root", "alice"])
def test_the_monitor_is_killed(engine: Engine, rootfs: Path, when: str, user: str) -> None:
    """The container lives on, and all of it is cleaned up at its end."""
    container = create(engine, rootfs, "sh", "-c", "read line; exit 7", stdin=PIPE, user=user)
    with container:
        if when == "before the start":
            end(monitor_of(container))
            container.start()
        else:
            container.start()
            end(monitor_of(container))
        assert len(container.pids()) == 1
        container.communicate(b"go\n", timeout=20)
        # Before Linux 6.15 nobody can tell then.
        assert container.exit in (Exit(reason="exited", code=7), Exit(reason="unknown"))


def test_the_monitor_is_killed_and_then_the_container(engine: Engine, rootfs: Path) -> None:
    container = create(engine, rootfs, "sleep", "100", init=True, memory="64M")
    container.start()
    end(monitor_of(container))
    with pytest.raises(OperationError, match="pause"):
        container.pause()
    container.delete(force=True)


def test_the_monitor_hangs_at_the_end(engine: Engine, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("execdrivers_lxc.handle._DEATH", 0.2)
    container = create(engine, rootfs, "sleep", "100")
    container.start()
    os.kill(monitor_of(container), signal.SIGSTOP)
    container.delete(force=True)


# --- the other tools --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("does", ["exit 0", "exit 5", "kill -9 $$", "echo garbage", "sleep 100"])
def test_exec_by_a_tool_that_fails(
    fake_tools: FakeTools, new_engine: NewEngine, rootfs: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    fake_tools(attach=does)
    with create(new_engine(), rootfs, "sleep", "100") as container:
        container.start()
        monkeypatch.setattr(tools, "TIMEOUT", 0.3)
        with pytest.raises(LaunchError, match=r"ended without having started|nothing has started within"):
            container.exec(["true"])
        assert len(container.pids()) == 1


@pytest.mark.parametrize(
    ("does", "match"), [("exit 5", "exited with 5"), ("kill -9 $$", "SIGKILL"), ("sleep 100", "within 0.3 seconds")]
)
def test_operations_by_tools_that_fail(
    fake_tools: FakeTools,
    new_engine: NewEngine,
    rootfs: Path,
    monkeypatch: pytest.MonkeyPatch,
    does: str,
    match: str,
) -> None:
    fake_tools(freeze=does, cgroup=does)
    with create(new_engine(), rootfs, "sleep", "100") as container:
        container.start()
        monkeypatch.setattr(tools, "TIMEOUT", 0.3)
        for operate in (container.pause, lambda: container.update(pids=5)):
            with pytest.raises(OperationError, match=match):
                operate()
        assert container.state == "running"


# --- the caller -------------------------------------------------------------------------------------------------


def test_the_caller_is_killed_at_any_time(no_leaks: None, rootfs: Path, tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import execdrivers
        engine = execdrivers.Engine(root={str(tmp_path / "state")!r})
        print(flush=True)
        while True:
            engine.run(["true"], rootfs={str(rootfs)!r}, driver="lxc")
    """)
    for pause in (0.005, 0.012, 0.02):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        time.sleep(pause)
        process.kill()
        process.wait()
        process.stdout.close()
    with Engine(root=tmp_path / "state") as engine:
        for container in engine.list():
            container.delete(force=True)


def test_many_at_a_time(engine: Engine, rootfs: Path) -> None:
    codes: list[int] = []

    def run(code: int) -> None:
        for _ in range(5):
            done = engine.run(["sh", "-c", f"exit {code}"], rootfs=rootfs, driver="lxc", timeout=60)
            codes.append(done.returncode - code)

    threads = [threading.Thread(target=run, args=(code,)) for code in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 20


def test_resumed_after_a_pause_that_lxc_has_not_noted(new_engine: NewEngine, rootfs: Path) -> None:
    """As where lxc-freeze is killed half way: lxc-unfreeze then does nothing, and says that all is well."""
    with create(new_engine(), rootfs, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done") as container:
        container.start()
        cgroups.freeze(container._hold()._cgroups())
        container.resume()
        assert container.stop(timeout=10).code == 3


def test_what_a_killed_program_had_a_tool_do_is_not_done_later(
    fake_tools: FakeTools, new_engine: NewEngine, rootfs: Path, tmp_path: Path
) -> None:
    """Others may have done the opposite since: a container that was resumed would be frozen for good."""
    begun, frozen = tmp_path / "begun", tmp_path / "frozen"
    fake_tools(freeze=f'echo >{begun}; sleep 0.5; {shutil.which("lxc-freeze")} "$@"; echo >{frozen}')
    engine = new_engine()
    script = "trap 'exit 3' TERM; while :; do sleep 0.05; done"
    container = engine.create(
        ContainerSpec(["sh", "-c", script], rootfs=rootfs), driver="lxc", stdin=DEVNULL, detach=True
    )
    container.start()
    if (pid := os.fork()) == 0:
        try:
            new_engine().get(container.id).pause()
        finally:
            os._exit(0)
    until(begun.exists, "the tool is at work")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert container.state == "paused", "as it may be"
    container.resume()
    time.sleep(0.7)
    assert not frozen.exists()
    assert container.stop(timeout=10).code == 3
    container.delete()
