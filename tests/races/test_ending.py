"""A container that is ending, paused, or gone: what is asked of it then is done truly or refused clearly."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from execdrivers import (
    DEVNULL,
    CommandNotExecutable,
    CommandNotFound,
    Container,
    ContainerNotFound,
    Engine,
    InvalidState,
    LaunchError,
)

from .conftest import EITHER
from .together import Program, in_programs, in_threads, raised, with_variable

pytestmark = pytest.mark.needs("root", "busybox")

Make = Callable[..., Container]

SHARED = {"namespaces": {"pid": "host"}, "memory": "64M"}


def exec_until_refused(container: Container, race: str, end: float) -> list[Any]:
    """Further commands, one after the other, until the container takes no more; what came of each."""
    came: list[Any] = []
    while time.monotonic() < end:
        try:
            with container.exec(
                ["sleep", random.choice(["0", "1000"])],
                env={"RACE": race},
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=DEVNULL,
            ) as process:
                if process._command[1] == "0":
                    came.append(process.wait(20))
                elif random.random() < 0.5:
                    continue  # killed by us
                else:
                    came.append(process.wait(20))
        except InvalidState:
            return came
        except LaunchError as error:
            came.append(error)
    raise AssertionError(f"it took commands until the end: {came[-3:]}")


def judge(came: list[Any]) -> None:
    for outcome in came:
        if isinstance(outcome, LaunchError):
            assert not isinstance(outcome, CommandNotFound | CommandNotExecutable), f"a false reason: {outcome}"
        else:
            assert outcome.ok or outcome.signal == 9, outcome


@pytest.mark.features("exec")
@pytest.mark.parametrize("shared", [False, True], ids=["own pids", "the host's pids"])
def test_exec_while_it_is_killed(
    driver: str, make: Make, rounds: Callable[[int], range], shared: bool, probes: Any
) -> None:
    if shared and "namespace.host.pid" not in probes[driver].features:
        pytest.skip(f"driver {driver} does not share the host's pids")
    for number in rounds(40):
        container = make(driver, **(SHARED if shared else {}))
        race = f"{os.getpid()}-{number}"
        delay = random.uniform(0, 0.02 if driver == "native" else 0.1)

        def kill(container: Container = container, delay: float = delay) -> None:
            time.sleep(delay)
            container.kill()
            container.wait(20)

        killed, came, *_ = in_threads(
            kill,
            lambda c=container, r=race: exec_until_refused(c, r, time.monotonic() + 30),  # type: ignore[misc]
        )
        raised([killed, came])
        judge(came)
        assert container.wait(20).signal == 9
        left = with_variable(f"RACE={race}")
        assert not left, f"outside of any container: {left}"
        container.delete()


@pytest.mark.features("exec")
@EITHER
def test_exec_by_another_program_while_it_is_killed(
    driver: str, make: Make, rounds: Callable[[int], range], root: str
) -> None:
    for number in rounds(20):
        container = make(driver)
        race = f"{os.getpid()}-{number}"

        def other(id: str = container.id, race: str = race) -> list[Any]:
            with Engine(root) as engine:
                return exec_until_refused(engine.get(id), race, time.monotonic() + 30)

        def kill(id: str = container.id) -> None:
            with Engine(root) as engine:
                time.sleep(random.uniform(0, 0.05 if driver == "native" else 0.2))
                engine.get(id).kill()

        came, killed = in_programs(other, kill)
        raised([came, killed])
        judge(came)
        assert container.wait(20).signal == 9
        left = with_variable(f"RACE={race}")
        assert not left, f"outside of any container: {left}"
        container.delete()


@pytest.mark.features("exec")
def test_exec_while_it_ends_by_itself(driver: str, make: Make, rounds: Callable[[int], range]) -> None:
    for number in rounds(20):
        container = make(driver, f"sleep 0.0{number % 8}; exit 7")
        came = exec_until_refused(container, f"{os.getpid()}-{number}", time.monotonic() + 30)
        judge(came)
        assert container.wait(20).code == 7
        assert not with_variable(f"RACE={os.getpid()}-{number}")
        container.delete()


@pytest.mark.features("exec", "pause")
def test_exec_into_a_paused_one(driver: str, make: Make, root: str) -> None:
    container = make(driver)
    container.pause()
    with pytest.raises(InvalidState, match=r"is paused and cannot take another process.*resume"):
        container.exec(["true"], stdin=DEVNULL)
    with Engine(root) as other, pytest.raises(InvalidState, match="is paused"):
        other.get(container.id).exec(["true"], stdin=DEVNULL)
    container.resume()
    with container.exec(["true"], stdin=DEVNULL) as process:
        assert process.wait(20).ok
    container.delete(force=True)


@pytest.mark.features("exec", "pause")
def test_exec_while_it_is_paused(driver: str, make: Make, rounds: Callable[[int], range]) -> None:
    """A command that was let in before the freeze stands still with the rest, and goes on with it."""
    container = make(driver)
    for _ in rounds(20):

        def pause() -> None:
            time.sleep(random.uniform(0, 0.01))
            container.pause()
            time.sleep(0.01)
            container.resume()

        def execute() -> Any:
            with container.exec(["true"], stdin=DEVNULL) as process:
                return process.wait(20)

        paused, came = in_threads(pause, execute)
        raised([paused])
        raised([came], InvalidState)
        assert isinstance(came, InvalidState) or came.ok
    container.delete(force=True)


def asked_of(container: Container, features: frozenset[str]) -> list[Callable[[], object]]:
    """What only a running container does."""
    asked: list[Callable[[], object]] = [lambda: container.signal("USR1")]
    if "exec" in features:
        asked.append(lambda: container.exec(["true"], stdin=DEVNULL))
    if "pause" in features:
        asked += [container.pause, container.resume]
    if "update" in features and "cgroup.memory" in features:
        asked.append(lambda: container.update(memory="32M"))
    return asked


def refused(ask: Callable[[], object]) -> None:
    with pytest.raises((InvalidState, ContainerNotFound), match=r"stopped|ended|deleted|no container") as caught:
        ask()
    assert caught.value.remedy or isinstance(caught.value, ContainerNotFound)


def signal_until_refused(container: Container) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        container.signal("WINCH")


@EITHER
def test_all_that_takes_a_running_one_is_refused_after_the_end(driver: str, make: Make, root: str, probes: Any) -> None:
    features = probes[driver].features
    container = make(driver, "exit 5")
    with Engine(root) as other:
        theirs = other.get(container.id)
        assert container.wait(20).code == 5
        for each in (container, theirs):
            for ask in asked_of(each, features):
                refused(ask)
            each.kill()
            assert each.wait(5).code == 5
            assert each.state == "stopped" and each.pid is None
        container.delete()
        for each in (container, theirs):
            for ask in asked_of(each, features):
                refused(ask)
            each.kill()
            each.delete()
            each.delete(force=True)
            assert each.wait(5).code == 5


def refused_signal(container: Container) -> Any:
    with pytest.raises(InvalidState, match="has ended"):
        container.signal("TERM")
    return container.exit


@pytest.mark.parametrize("asked", [lambda c: c.wait(10), refused_signal], ids=["wait", "signal"])
def test_ended_while_others_wait_until_it_is_made(
    driver: str, make: Make, root: str, asked: Callable[[Container], Any]
) -> None:
    container = make(driver)
    os.unlink(f"{root}/{container.id}/state.json")  # as before its maker has written it
    with Engine(root) as other:
        waiting = other.get(container.id)
        ending = threading.Timer(0.1, container.kill)
        noticing = threading.Thread(target=container.wait, args=(10,))
        ending.start()
        noticing.start()
        told = asked(waiting)
        assert told.signal == 9
        ending.join()
        noticing.join()
    container.delete()


@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
def test_killed_before_it_is_started(detach: bool, driver_probe: Any, engine: Engine, spec: Any, root: str) -> None:
    driver_probe("native")
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), DEVNULL)
    with engine.create(spec(), driver="native", detach=detach, **streams) as container:
        assert container.state == "created" and container.pid is not None
        os.kill(container.pid, 9)
        with Engine(root) as other:
            for held in (container, other.get(container.id)):
                deadline = time.monotonic() + 10
                while held.state == "created" and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert held.state == "stopped"
                with pytest.raises(InvalidState, match="has ended before it was started"):
                    held.wait(10)


def test_the_signal_that_comes_with_the_end(driver: str, make: Make, rounds: Callable[[int], range]) -> None:
    for number in rounds(20):
        container = make(driver, f"sleep 0.0{number % 5}; exit 4")
        with pytest.raises(InvalidState, match="ended"):
            signal_until_refused(container)
        assert container.wait(20).code == 4
        container.delete()


def test_resize_after_close(driver: str, make: Make, probes: Any) -> None:
    if "tty" not in probes[driver].features:
        pytest.skip(f"driver {driver} does not declare tty")
    container = make(driver, tty=True)
    terminal = container.terminal
    assert terminal is not None
    terminal.resize(30, 90)
    assert terminal.size == (30, 90)
    container.delete(force=True)
    for use in (lambda: terminal.resize(1, 1), lambda: terminal.write(b"x"), terminal.read):
        with pytest.raises(InvalidState, match="closed"):
            use()
    assert terminal.size is None and terminal.closed
    terminal.close()


@pytest.mark.features("tty", "exec")
def test_resize_of_a_command_after_close(driver: str, make: Make) -> None:
    container = make(driver)
    process = container.exec(["sleep", "1000"], tty=True)
    terminal = process.terminal
    assert terminal is not None
    process.close()
    with pytest.raises(InvalidState, match="closed"):
        terminal.resize(1, 1)
    container.delete(force=True)


@EITHER
def test_many_waiters_are_told_the_same(driver: str, make: Make, root: str, rootfs: Any) -> None:
    """Eight threads here, two in each of three other programs."""
    container = make(driver, "sleep 0.5; exit 42")

    def elsewhere() -> list[Any]:
        with Engine(root) as engine:
            theirs = engine.get(container.id)
            return in_threads(*[lambda: theirs.wait(30)] * 2)

    def here() -> list[Any]:
        return in_threads(*[lambda: container.wait(30)] * 8)

    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.extend(here()))
    # The forks come first: a fork of a program with threads is another story.
    others = [Program(elsewhere) for _ in range(3)]
    thread.start()
    for other in others:
        outcome = other.outcome()
        raised([outcome])
        told += outcome
    thread.join()
    raised(told)
    assert len(told) == 14 and {str(exit) for exit in told} == {"exited with code 42"}, told
    container.delete()


@pytest.mark.features("pause")
def test_deleted_as_another_thread_is_about_to_change_it(
    driver: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    container, changing = make(driver), Container._changing

    def too_late(container: Container) -> Any:
        monkeypatch.undo()
        container.delete(force=True)
        return changing(container)

    monkeypatch.setattr(Container, "_changing", too_late)
    with pytest.raises(InvalidState, match="is stopped"):
        container.pause()


@EITHER
def test_deleted_twice_at_once(driver: str, make: Make, root: str, rounds: Callable[[int], range]) -> None:
    for number in rounds(12):
        container = make(driver)
        id = container.id

        def delete(id: str = id) -> None:
            with Engine(root) as engine:
                engine.delete(id, force=True)

        if number % 2:
            raised(in_programs(delete, delete, delete), ContainerNotFound)
            container.delete(force=True)
        else:
            raised(in_threads(delete, delete, *[lambda c=container: c.delete(force=True)] * 2), ContainerNotFound)
        with pytest.raises(ContainerNotFound), Engine(root) as engine:
            engine.get(id)
