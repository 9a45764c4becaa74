"""What can be done with a live container: exec, pause, resume, update."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from execdrivers import (
    DEVNULL,
    PIPE,
    CommandNotFound,
    ContainerTimeout,
    Engine,
    InvalidState,
    Registry,
    SpecError,
    UnsupportedFeature,
    VetoError,
    hookimpl,
)


@pytest.fixture
def live(make):
    with make("sleep 60; true", stdin=DEVNULL, spec={"env": {"A": "1", "B": "2"}}) as container:
        container.start()
        yield container


def test_exec(live):
    with live.exec(
        ["sh", "-c", "echo $A $B; echo no >&2; exit 3"], env={"B": "3"}, stdout=PIPE, stderr=PIPE
    ) as process:
        assert process.communicate() == (b"1 3\n", b"no\n")
        assert (process.returncode, process.exit.reason, process.pid) == (3, "exited", None)
        assert "exited with code 3" in repr(process)
        with pytest.raises(InvalidState, match=r"has ended.*wait"):
            process.signal("TERM")
        process.kill()
    assert live.state == "running"


def test_exec_with_input_callbacks_and_signals(live):
    seen = []
    with live.exec(["cat"], stdin=[b"a", b"b"], stdout=seen.append) as process:
        assert process.wait().ok
    assert b"".join(seen) == b"ab"
    with live.exec(["sleep", "60"], stdin=DEVNULL) as process:
        assert process.poll() is None
        assert process.pid is not None
        with pytest.raises(ContainerTimeout):
            process.wait(timeout=0.05)
        process.signal("TERM")
        assert process.wait().signal == 15


def test_closing_kills(live):
    with live.exec(["sleep", "60"], stdin=DEVNULL) as process:
        pass
    assert process.returncode == -9


def test_a_command_that_is_not_there_leaves_nothing(live):
    with pytest.raises(CommandNotFound):
        live.exec(["nosuch"], stdout=PIPE)


def test_exec_wants_a_running_container(make):
    with make("exit 0") as container:
        with pytest.raises(InvalidState, match=r"is created and cannot take another process.*start"):
            container.exec(["true"])
        container.start()
        container.wait()
        with pytest.raises(InvalidState, match="stopped"):
            container.exec(["true"])


def test_what_the_driver_does_not_enforce_is_refused(live):
    with pytest.raises(UnsupportedFeature, match=r"'host' does not enforce user \(asked for by user"):
        live.exec(["true"], user="1000")
    with pytest.raises(UnsupportedFeature, match=r"cgroup\.memory"):
        live.update(memory="64M")


def test_bad_values_are_refused(live):
    with pytest.raises(SpecError, match="cwd"):
        live.exec(["true"], cwd="x\0")
    with pytest.raises(SpecError, match="one string"):
        live.exec("true")
    with pytest.raises(SpecError, match="no change"):
        live.update()
    with pytest.raises((SpecError, TypeError)):
        live.update(memroy="1G")


def test_pause_and_resume(live, engine: Engine):
    def state() -> str:
        return Path(f"/proc/{live.pid}/stat").read_text().rpartition(")")[2].split()[0]

    live.pause()
    assert live.state == "paused"
    assert engine.get(live.id).state == "paused"
    assert {item.state for item in engine.list()} == {"paused"}
    assert state() == "T"
    with pytest.raises(InvalidState, match=r"is paused and cannot be paused.*resume"):
        live.pause()
    with pytest.raises(InvalidState, match="is paused and cannot take another process"):
        live.exec(["true"])
    with pytest.raises(ContainerTimeout):
        live.wait(timeout=0.02)
    live.resume()
    live.resume()
    assert live.state == "running"
    assert state() in ("R", "S", "D")  # it may be making its child


def test_a_paused_one_is_deleted_by_force_alone(make):
    with make("sleep 60") as container:
        container.start()
        container.pause()
        with pytest.raises(InvalidState, match="is running"):
            container.delete()


def test_update(live, engine: Engine):
    live.update(pids=100)
    assert live.spec.resources.pids == 100
    assert resource.prlimit(live.pid, resource.RLIMIT_NPROC) == (100, 100)
    assert engine.get(live.id).spec.resources.pids == 100


class Policy:
    """No more than 50 processes, and no command named reboot."""

    @hookimpl
    def execdrivers_amend_spec(self, spec):
        if spec.args[0] == "reboot":
            raise VetoError("not here")
        if (spec.resources.pids or 99) > 50:
            return spec.replace(resources={"pids": 50})
        return None


class Observer:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def execdrivers_observe(self, event):
        self.seen.append(event.type)


def test_policy_holds_for_exec_and_update(registry: Registry, live):
    registry.register(Policy())
    live.update(pids=100)
    assert live.spec.resources.pids == 50
    assert resource.prlimit(live.pid, resource.RLIMIT_NPROC) == (50, 50)
    with pytest.raises(VetoError):
        live.exec(["reboot"])


def test_observers_see_it(registry: Registry, live):
    observer = Observer()
    registry.register(observer)
    live.pause()
    live.resume()
    live.update(pids=7)
    assert observer.seen == ["paused", "resumed", "updated"]
