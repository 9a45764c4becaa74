"""Many programs, and threads, on one root: at the same container, at the same names, and killed at random."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import (
    DEVNULL,
    PIPE,
    Container,
    ContainerExists,
    ContainerNotFound,
    ContainerSpec,
    ContainerTimeout,
    Engine,
    InvalidState,
    LaunchError,
    OperationError,
    UnsupportedFeature,
)
from execdrivers.store import Store
from execdrivers.testing import host

from .conftest import EITHER
from .together import Program, in_programs, in_threads, raised, with_variable

pytestmark = pytest.mark.needs("root", "busybox")

Make = Callable[..., Container]
QUIET: dict[str, Any] = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}

#: How often a program is killed at random; 200 take a minute or two.
KILLS = int(os.environ.get("EXECDRIVERS_KILLS", "200"))

#: What it may be told whose container others work on.
CLEAR = (InvalidState, ContainerNotFound, OperationError, LaunchError)


def meddle(container: Container, features: frozenset[str], seed: int, end: bool) -> None:
    """Some random operations on a container on which others work too."""
    chance = random.Random(seed)
    operations: list[Callable[[], object]] = [
        lambda: container.state,
        lambda: container.signal("WINCH"),
        lambda: container.pid,
        container.poll,
        lambda: container.wait(0.001),
    ]
    if "exec" in features:
        operations.append(lambda: execute(container))
    if "pause" in features:
        operations += [container.pause, container.resume, container.resume]
    if "pids" in features:
        operations.append(container.pids)
    if "update" in features:
        operations.append(lambda: container.update(memory=f"{chance.randrange(32, 64)}M"))
    for _ in range(12):
        with contextlib.suppress(*CLEAR, ContainerTimeout, UnsupportedFeature):
            chance.choice(operations)()
    if end:
        with contextlib.suppress(*CLEAR):
            chance.choice([container.kill, lambda: container.delete(force=True)])()


def execute(container: Container) -> None:
    with container.exec(["true"], **QUIET) as process:
        process.wait(0.5)


@EITHER
def test_eight_threads_at_one_container(driver: str, make: Make, rounds: Callable[[int], range], probes: Any) -> None:
    features = probes[driver].features
    for number in rounds(10):
        fields = {"memory": "64M"} if "cgroup.memory" in features else {}
        container = make(driver, **fields)
        seeds = [random.randrange(1 << 30) for _ in range(8)]
        bodies = [
            functools.partial(meddle, container, features, seed, number == 0) for number, seed in enumerate(seeds)
        ]
        raised(in_threads(*bodies))
        container.kill()
        assert container.wait(30).signal == 9, number
        container.delete(force=True)


@EITHER
def test_four_programs_at_one_container(
    driver: str, make: Make, root: str, rounds: Callable[[int], range], probes: Any
) -> None:
    """One of them made it. What it is told of the end is the same that the record says."""
    features = probes[driver].features
    for _ in rounds(10):
        fields = {"memory": "64M"} if "cgroup.memory" in features else {}
        container = make(driver, **fields)

        def body(seed: int, id: str = container.id) -> None:
            with Engine(root) as engine:
                meddle(engine.get(id), features, seed, end=bool(seed % 2))

        others = [Program(functools.partial(body, random.randrange(1 << 30))) for _ in range(3)]
        with contextlib.suppress(*CLEAR):
            meddle(container, features, random.randrange(1 << 30), end=False)
        raised([other.outcome() for other in others], ContainerNotFound)
        container.kill()
        exit = container.wait(30)
        # Who deletes a detached one takes its exit along, unless its maker has got hold of it before.
        taken = container.detached and not os.path.exists(f"{root}/{container.id}")
        assert exit.signal == 9 or (taken and exit.reason == "unknown"), exit
        with Engine(root) as engine, contextlib.suppress(ContainerNotFound):
            theirs = engine.get(container.id)
            assert (theirs.state, theirs.exit) == ("stopped", container.exit)
        container.delete(force=True)


@EITHER
def test_looked_at_as_its_record_is_removed(driver: str, make: Make, root: str) -> None:
    """Which goes before its directory does. What was known of it is not forgotten then."""
    container = make(driver)
    record, pid = Path(root, container.id, "state.json"), container.pid
    kept = record.read_bytes()
    with Engine(root) as other, Engine(root) as third:
        one, two = other.get(container.id), third.get(container.id)
        record.unlink()
        for theirs in (one, two):
            assert theirs.state == "running"
            theirs.kill()  # without an error, as of one that is gone
            assert theirs.driver == driver
        with pytest.raises(ContainerNotFound):
            one._refresh()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        for theirs in (one, two):
            exit = theirs.wait(30)
            assert exit.signal == signal.SIGKILL or exit.reason == "unknown"
    record.write_bytes(kept)
    container.delete(force=True)


@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
def test_only_its_maker_starts_it(driver: str, detach: bool, engine: Engine, root: str, spec: Any, probes: Any) -> None:
    if detach and "detach" not in probes[driver].features:
        pytest.skip(f"driver {driver} does not declare detach")
    with engine.create(spec(), driver=driver, detach=detach, **QUIET) as container, Engine(root) as other:
        theirs = other.get(container.id)
        with pytest.raises(InvalidState, match="made by another program"):
            theirs.start()
        assert container.state == theirs.state == "created"
        container.start()
        with pytest.raises(InvalidState, match="is running and cannot be started"):
            theirs.start()
        assert container.pid == theirs.pid
        container.delete(force=True)
        with pytest.raises(InvalidState):
            theirs.start()


@pytest.mark.features("pause")
@EITHER
def test_paused_by_one_and_killed_by_another(
    driver: str, make: Make, root: str, rounds: Callable[[int], range]
) -> None:
    """A freeze that comes with the kill must not hold what is killed."""
    for _ in rounds(30):
        container = make(driver)

        def pause(id: str = container.id) -> None:
            with Engine(root) as engine:
                engine.get(id).pause()

        def kill(id: str = container.id) -> None:
            with Engine(root) as engine:
                theirs = engine.get(id)
                time.sleep(random.uniform(0, 0.006 if driver == "native" else 0.05))
                theirs.kill()

        outcomes = in_programs(pause, kill)
        raised(outcomes[:1], InvalidState, OperationError)
        raised(outcomes[1:])
        assert container.wait(10).signal == 9
        container.delete()


@pytest.mark.features("pause")
def test_paused_and_resumed_by_many(driver: str, make: Make, root: str, rounds: Callable[[int], range]) -> None:
    container = make(driver)

    def turn(seed: int) -> None:
        chance = random.Random(seed)
        with Engine(root) as engine:
            theirs = engine.get(container.id)
            for _ in rounds(20):
                with contextlib.suppress(InvalidState):
                    chance.choice([theirs.pause, theirs.resume])()

    raised(in_programs(*[lambda seed=seed: turn(seed) for seed in range(4)]))  # type: ignore[misc]
    with contextlib.suppress(InvalidState):
        container.resume()
    with Engine(root) as engine:
        engine.get(container.id).resume()
        assert engine.get(container.id).state == "running"
    assert container.state == "running"
    container.delete(force=True)


@pytest.mark.features("pause")
def test_all_programs_see_who_paused_it(driver: str, make: Make, root: str) -> None:
    container = make(driver)

    def elsewhere(verb: str) -> None:
        with Engine(root) as engine:
            getattr(engine.get(container.id), verb)()

    raised(in_programs(lambda: elsewhere("pause")))
    assert container.state == "paused"
    with pytest.raises(InvalidState, match="paused"):
        container.pause()
    container.resume()
    assert container.state == "running"
    container.pause()
    raised(in_programs(lambda: elsewhere("resume")))
    assert container.state == "running"
    raised(in_programs(lambda: elsewhere("pause")))
    container.kill()
    assert container.wait(20).signal == 9
    container.delete()


@pytest.mark.features("pause")
@EITHER
def test_what_one_changes_does_not_undo_what_another_recorded(
    driver: str, make: Make, root: str, rounds: Callable[[int], range]
) -> None:
    """Its maker records the exit while another program writes that it is paused, or runs again."""
    for number in rounds(20):
        container = make(driver, f"sleep 0.0{number % 8}; exit 9")

        def turn(id: str = container.id) -> None:
            with Engine(root) as engine:
                theirs = engine.get(id)
                with contextlib.suppress(InvalidState, OperationError):
                    while True:
                        theirs.pause()
                        theirs.resume()

        other = Program(turn)
        assert container.wait(30).code == 9
        raised([other.outcome()])
        with Engine(root) as engine:
            theirs = engine.get(container.id)
            assert theirs.state == "stopped" and theirs.exit == container.exit
        container.delete()


def test_a_name_that_is_another_containers_by_now(
    driver: str, make: Make, engine: Engine, root: str, spec: Any
) -> None:
    """One program's container was removed by another, and a third has made one of the same name: the first must not
    touch it, whatever it still does with its own."""
    container = make(driver, name="web")
    looked = Engine(root)
    theirs = looked.get("web")
    if driver != "chroot":
        assert container.pid in theirs.pids()

    def replace() -> None:
        with Engine(root) as engine:
            engine.delete("web", force=True)
            successor = engine.create(
                spec(memory="64M") if driver != "chroot" else spec(), driver=driver, name="web", **QUIET
            )
            successor.start()
            if driver != "chroot":
                successor.pause()
                successor.resume()
            successor.detach()

    raised(in_programs(replace))
    with Engine(root) as engine:
        successor = engine.get("web")
        pid = successor.pid
        assert pid is not None and successor.state == "running"
        if driver != "chroot":
            assert not theirs.pids()
        container.kill()
        assert container.wait(10).signal == 9
        container.delete(force=True)
        with contextlib.suppress(InvalidState):
            container.signal("KILL")
        assert host.alive(pid) and successor.state == "running" and engine.get("web").pid == pid
        if driver != "chroot":
            assert pid in successor.pids(), "its cgroups are there"
            successor.pause()
            successor.resume()
            execute(successor)
        successor.delete(force=True)
    looked.close()
    assert engine.list() == []


def test_its_maker_finds_that_another_program_was_killed_at_removing_it(
    driver: str, make: Make, engine: Engine, spec: Any
) -> None:
    """Its record is gone, and its directory there still: all are told the same of it, and the name can be freed."""
    container = make(driver, "exit 7", name="web")
    assert container.wait(30).code == 7
    os.unlink(f"{container._entry.path}/state.json")
    assert engine.get("web").state == engine.list()[0].state == "creating"
    assert container.state == "stopped" and container.wait().code == 7
    engine.delete("web", force=True)
    make(driver, "exit 8", name="web").delete(force=True)
    container.delete()


# --- killed at random


@pytest.mark.features("pause")
def test_killed_while_it_pauses(driver: str, make: Make, root: str, record_property: Any) -> None:
    """Whatever came of that, another program can have it go on."""
    seed = random.randrange(1 << 30)
    record_property("seed", seed)
    chance = random.Random(seed)
    container = make(driver, "trap 'echo tick' USR1; echo ready; while :; do sleep 0.01; done", stdout=PIPE)
    output = container.stdout
    assert output is not None and output.readline() == b"ready\n"

    def pause() -> None:
        with Engine(root) as engine:
            engine.get(container.id).pause()

    for number in range(20):
        program = Program(pause)
        time.sleep(chance.uniform(0, 0.005 if driver == "native" else 0.03))
        program.kill()
        program.outcome()
        with Engine(root) as engine:
            engine.get(container.id).resume()
        container.signal("USR1")
        assert select.select([output], [], [], 10)[0], f"round {number} of seed {seed}"
        assert output.readline() == b"tick\n"
    container.delete(force=True)


NAMES = ("a", "b", "c")


def live(root: str, spec: ContainerSpec, driver: str, seed: int, features: frozenset[str]) -> None:
    """Create, use, kill and delete containers of a few names, others doing the same, until killed."""
    chance = random.Random(seed)
    engine = Engine(root)
    while True:
        name = chance.choice(NAMES)
        with contextlib.suppress(*CLEAR, ContainerExists, ContainerTimeout):
            match chance.randrange(6):
                case 0 | 1:
                    made = engine.create(spec, driver=driver, name=name, **QUIET)
                    made.start()
                    if chance.random() < 0.3:
                        made.detach()
                    elif chance.random() < 0.5:
                        made.delete(force=True)
                case 2:
                    engine.delete(name, force=True)
                case 3:
                    engine.get(name).kill()
                    engine.get(name).wait(1)
                case 4:
                    with contextlib.suppress(UnsupportedFeature):
                        engine.get(name).pause()
                case _:
                    assert not [each.error for each in engine.list() if each.error]
                    if "exec" in features:
                        execute(engine.get(name))


def test_killed_at_random(driver: str, root: str, engine: Engine, spec: Any, probes: Any, record_property: Any) -> None:
    """Afterwards every record makes sense, each name is free or a whole container, and nothing is left of any."""
    features = probes[driver].features
    seed = random.randrange(1 << 30)
    record_property("seed", seed)
    chance = random.Random(seed)
    kind = spec("exec sleep 1000", env={"RACE": str(seed)}, **({"memory": "64M"} if driver != "chroot" else {}))

    def start() -> Program:
        number = chance.randrange(1 << 30)
        return Program(lambda: live(root, kind, driver, number, features))

    workers = [start() for _ in range(4)]
    seconds = {"native": 0.04, "chroot": 0.04}.get(driver, 0.4)
    try:
        for number in range(KILLS if driver == "native" else KILLS // 5):
            time.sleep(chance.uniform(0, seconds))
            victim = workers.pop(chance.randrange(len(workers)))
            victim.kill()
            told = victim.outcome()
            assert told is None, f"seed {seed}: {told!r} {getattr(told, '__notes__', '')}"
            workers.append(start())
            if number % 10 == 0:
                damaged = [each.error for each in engine.list() if each.error]
                assert not damaged, f"seed {seed}: {damaged}"
    finally:
        for worker in workers:
            worker.kill()
        told = [worker.outcome() for worker in workers]
    assert told == [None] * 4, f"seed {seed}: {told}"
    for record in Store(root).list():
        assert not isinstance(record, Exception), f"seed {seed}: {record}"
        if record.status != "creating":
            assert record.driver == driver and record.spec["args"], f"seed {seed}: {record}"
    for name in NAMES:
        with contextlib.suppress(ContainerNotFound):
            engine.delete(name, force=True)
        engine.create(kind, driver=driver, name=name, **QUIET).delete()
    assert engine.list() == [], f"seed {seed}"
    if driver == "chroot":
        # It executes the command before anybody can record its pid: whom that moment kills leaves a process.
        for pid in with_variable(f"RACE={seed}"):
            os.kill(pid, signal.SIGKILL)
    host.until(lambda: not with_variable(f"RACE={seed}"), f"all processes ended, seed {seed}")
