"""One program of the soak: random operations on containers of a store that others use too, each checked.

    python -m tests.soak.worker DIRECTORY SEED

What it finds wrong it appends to DIRECTORY/findings, and goes on. SIGTERM ends it well, SIGUSR1 has it show its stacks.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from execdrivers import (
    DEVNULL,
    Container,
    ContainerExists,
    ContainerNotFound,
    ContainerSpec,
    ContainerTimeout,
    Engine,
    Exit,
    InvalidState,
)
from execdrivers.record import own_process
from execdrivers.testing.host import alive

from .model import GRACE, Ledger, Model, Page

__all__ = ["Ground", "Worker", "describe", "marker"]

#: Seconds that what should happen at once may take, on a busy machine.
PATIENCE = 20.0

#: Says so, counts each SIGUSR1 aloud, and ends as asked by SIGTERM.
_WAITS = """n=0; trap 'n=$((n+1)); echo tick $n' USR1; trap 'exit {code}' TERM; echo ready
while :; do sleep 1000 & wait $!; kill $!; done 2>/dev/null"""
_ENDS = "sleep 0.{code}; exit {code}"
_EATS = "exec tail /dev/zero"


class Ground:
    """Where a soak takes place: a directory that all its programs share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "store"
        self.rootfs = directory / "rootfs"
        self.output = directory / "output"
        self.findings = directory / "findings"
        self.counts = directory / "counts"

    def ledger(self) -> Ledger:
        """The model of all names."""
        return Ledger(self.directory / "ledger", json.loads((self.directory / "drivers").read_text()))

    def report(self, name: str, what: str) -> None:
        """Something is not as it must be."""
        line = {"time": round(time.time(), 3), "by": os.getpid(), "name": name, "what": what}
        with open(self.findings, "a") as file:
            file.write(json.dumps(line) + "\n")


class Wrong(Exception):
    """Model and reality disagree."""


def describe(exit: Exit) -> str:
    """``exited:7``, ``signaled:9``, ``oom``, ``unknown`` …"""
    if exit.reason in ("exited", "signaled"):
        return f"{exit.reason}:{exit.code if exit.code is not None else exit.signal}"
    return exit.reason


def marker(model: Model) -> str:
    """In the environment of every process of that very container."""
    return f"SOAK={model.name}.{model.generation}"


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Wrong(f"not within {seconds:g} seconds: {what}")
        time.sleep(0.01)
    return value


class Worker:
    """Its choices depend on the seed alone, and on what it finds."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground, self.chance = ground, random.Random(seed)
        self.ledger = ground.ledger()
        self.engine = Engine(ground.root)
        self.features = {name: self.engine.registry.probe(name).features for name in set(self.ledger.drivers.values())}
        #: Containers that it made, which end with it unless they were let go of.
        self.mine: dict[str, Container] = {}
        self.ending = False
        self._counts = open(ground.counts, "a", buffering=1)  # noqa: SIM115 - as long as the program

    def run(self) -> None:
        """Until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda number, frame: setattr(self, "ending", True))
        threading.Thread(target=self._notice, daemon=True).start()
        names = list(self.ledger.drivers)
        while not self.ending:
            if self.chance.random() < 0.02:
                self._turn("", None, self.chance.choice([self.list, self.gc, self.recover]))
            name = self.chance.choice(names)
            with self.ledger.take(name) as page:
                if page is not None:
                    self._turn(name, page, lambda: self._operate(page))
            time.sleep(self.chance.uniform(0, 0.02))
        self.close()

    def close(self) -> None:
        """What it made ends, unless it was let go of."""
        self.engine.close()
        self._counts.close()

    def _notice(self) -> None:
        """A maker looks after its containers: notices their end."""
        while True:
            for container in list(self.mine.values()):
                with contextlib.suppress(Exception):
                    container.poll()
            time.sleep(0.05)

    def _turn(self, name: str, page: Page | None, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception:
            self.ground.report(name, traceback.format_exc() + (self.ledger.history(name) if name else ""))
            if page is not None:  # begin anew with that name
                with contextlib.suppress(ContainerNotFound):
                    self.engine.delete(name, force=True)
                page.end("begin anew", page.model.gone())

    # --- what holds at any time

    def settle(self, page: Page) -> Container | None:
        """Compare the container with the model; of several possibilities one is left. None: there is none."""
        orphaned = page.model.orphaned
        try:
            return self._settle(page)
        except (ContainerNotFound, Wrong):
            time.sleep(0.5)  # who is killed lets go of its containers first, and is dead then
            if orphaned or not page.model.orphaned:
                raise
            return self._settle(page)  # its maker was killed as we looked

    def _settle(self, page: Page) -> Container | None:
        model = page.model
        container, state = self._look(model)
        if model.orphaned and state != "absent":
            container, state = self._await_end(model, container)
        if model.stray and state == "absent":
            self._end_stray(model)
        if state == "creating":
            if page.in_flight not in ("create", "delete", "delete by force", "stop"):
                raise Wrong(f"half made after {page.in_flight or 'nothing'}")
            self.engine.delete(model.name, force=True)
            container, state = None, "absent"
        if container is not None and state == "stopped" and container._record.status == "created":
            # Whoever was about to delete it has lived to kill what waited for its start, which has no exit to tell.
            if page.in_flight != "delete by force":
                raise Wrong(f"it ended before its start, after {page.in_flight or 'nothing'}")
            self.engine.delete(model.name, force=True)
            container, state = None, "absent"
        possible = set(model.states)
        if "running" in possible and model.kind in ("ends", "eats"):
            possible.add("stopped")
        if model.orphaned:
            possible.add("absent")
        if state not in possible:
            raise Wrong(f"it is {state} instead of {' or '.join(sorted(possible))}")
        if container is None:
            page.model = model.gone()
            return None
        model = model.will(states={state}, modes=self._modes(model, container))
        if container.driver != model.driver:
            raise Wrong(f"its driver is {container.driver}")
        memory = container.spec.resources.memory
        if model.memory:
            if memory is None or memory >> 20 not in model.memory:
                raise Wrong(f"its limit is {memory} instead of one of {model.memory} MiB")
            model = model.will(memory={memory >> 20})
        if state == "stopped":
            model = model.will(exits={self._check_exit(model, container)})
        else:
            self._check_process(model, container, state)
        page.model = model
        return container

    def _look(self, model: Model) -> tuple[Container | None, str]:
        try:
            container = self.engine.get(model.name)
            state = container.state
        except ContainerNotFound:
            return None, "absent"
        return container, state

    def _await_end(self, model: Model, container: Container | None) -> tuple[Container | None, str]:
        """Its maker is dead: it must be gone before long, unless it was let go of."""
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            container, state = self._look(model)
            if container is None:
                return None, state
            if state != "creating" and container._record.owner is None and model.modes & {"let go", "detached"}:
                return container, state
            time.sleep(0.02)
        raise Wrong(f"it lives on {GRACE:g} seconds after its maker")

    def _end_stray(self, model: Model) -> None:
        """The driver chroot executes the command before anybody can record its pid: whoever is killed in that moment
        leaves a process. That is known, and counted."""
        for name in filter(str.isdigit, os.listdir("/proc")):
            if marker(model) in _environment(int(name)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(name), signal.SIGKILL)
                self._counts.write(f"{model.driver} stray\n")

    def _modes(self, model: Model, container: Container) -> set[str]:
        if len(model.modes) < 2:
            return model.modes
        return model.modes - {"attached"} if container._record.owner is None else {"attached"}

    def _check_exit(self, model: Model, container: Container) -> str:
        """Its exit is one that it can have had."""
        exit = container.wait(PATIENCE) if "attached" not in model.modes else None
        if exit is None:  # its maker is to notice and record it
            exit = until(lambda: container.exit, "its maker records the exit")
        found, allowed = describe(exit), set(model.exits)
        if model.kind == "ends":
            allowed.add(f"exited:{model.code}")
        if model.kind == "eats":
            allowed.add("oom")
        if "let go" in model.modes:  # whose parent has ended, or did not look
            allowed.add("unknown")
        if found not in allowed and "any" not in allowed:
            raise Wrong(f"its exit is {exit!r} instead of {' or '.join(sorted(allowed))}")
        return found

    def _check_process(self, model: Model, container: Container, state: str) -> None:
        """Its first process lives, and is that of this very container."""
        pid = container.pid
        if pid is None or not alive(pid):
            if model.driver == "chroot" and state == "created":
                return  # which has none before its start
            # Just now; a detached one runs until its monitor has told the end.
            until(lambda: self._look(model)[1] in ("stopped", "absent"), f"{state}, though process {pid} is dead")
            return
        if state == "running":
            until(lambda: marker(model) in _environment(pid) or not alive(pid), f"process {pid} is its own")

    # --- operations

    def _operate(self, page: Page) -> None:
        container = self.settle(page)
        (state,) = page.model.states
        choices: dict[str, int] = getattr(self, f"when_{state}")(page.model)
        if page.in_flight == "update" and state in ("running", "paused"):
            choices = {"update": 1}  # it may have come into force and not into the record
        operation = self.chance.choices(list(choices), list(choices.values()))[0]
        action = getattr(self, operation.replace(" ", "_"))
        try:
            action(page) if container is None else action(page, container)
        except Exception:
            time.sleep(0.5)  # as in `settle`
            if not page.model.orphaned:
                raise
            operation += ", interrupted"  # its maker was killed meanwhile, and it with him
        page.end(operation, page.model)
        self._counts.write(f"{page.model.driver} {operation}\n")

    def when_absent(self, model: Model) -> dict[str, int]:
        """State → what is tried in it, and how often."""
        return {"create": 1}

    def when_created(self, model: Model) -> dict[str, int]:
        """Only its maker can start it."""
        if model.name in self.mine and model.owner == own_process():
            return {"start": 20, "delete by force": 1, "refused": 1}
        return {"delete by force": 1, "refused": 4}

    def when_running(self, model: Model) -> dict[str, int]:
        """As its driver can."""
        features = self.features[model.driver]
        choices = {"kill": 2, "delete by force": 2, "refused": 2, "wait in vain": 2, "let go": 2}
        if model.kind == "waits":
            choices |= {"signal": 6, "stop": 2, "terminate": 2}
            if model.modes == {"detached"}:
                choices["attach"] = 3
        for feature, operation, weight in (
            ("exec", "execute", 8),
            ("pause", "pause", 4),
            ("pids", "list processes", 3),
            ("stats", "sample", 4),
        ):
            if feature in features:
                choices[operation] = weight
        if "update" in features and model.memory and model.kind == "waits":
            choices["update"] = 4
        return choices

    def when_paused(self, model: Model) -> dict[str, int]:
        """It stands still, and can be ended all the same."""
        choices = {"resume": 8, "kill": 1, "delete by force": 1, "refused": 2}
        if model.memory and model.kind == "waits":
            choices["update"] = 2
        return choices

    def when_stopped(self, model: Model) -> dict[str, int]:
        """What ended keeps its exit."""
        return {"delete": 4, "refused": 2, "see its exit": 2}

    def create(self, page: Page) -> None:
        """One of three kinds, by one of the ways that its driver has."""
        model, features = page.model, self.features[page.model.driver]
        limited = "cgroup.memory" in features
        kind = self.chance.choices(["waits", "ends", "eats"], [8, 3, 1 if limited else 0])[0]
        detached = "detach" in features and self.chance.random() < 0.4
        code = self.chance.randrange(1, 10)
        memory = {8} if kind == "eats" else {self.chance.randrange(32, 64)} if limited else set()
        model = Model(
            name=model.name,
            driver=model.driver,
            generation=model.generation + 1,
            owner=own_process(),
            modes={"detached" if detached else "attached"},
            kind=kind,
            code=code,
            memory=memory,
        )
        fields: dict[str, Any] = {"memory": f"{min(memory)}M"} if memory else {}
        script = {"waits": _WAITS, "ends": _ENDS, "eats": _EATS}[kind].format(code=code)
        spec = ContainerSpec.build(["sh", "-c", script], rootfs=self.ground.rootfs, env=[marker(model)], **fields)
        page.begin("create", model.may(states={"absent", "created"}))
        options: dict[str, Any] = {"detach": True} if detached else {"stderr": DEVNULL}
        with open(self.output(model), "wb") as file:
            if not detached:
                options["stdout"] = file
            self.mine[model.name] = self.engine.create(
                spec, driver=model.driver, name=model.name, stdin=DEVNULL, **options
            )
        page.model = model.will(states={"created"})
        if self.chance.random() < 0.9:
            self.start(page, self.mine[model.name])

    def start(self, page: Page, container: Container) -> None:
        """By its maker."""
        possible = page.model.may(states={"running"}, stray=page.model.driver == "chroot")
        if "detached" in page.model.modes:
            # Recorded as running before its command is let go: it may have ended without.
            possible = possible.may(states={"stopped"}, exits={"any"})
        page.begin("start", possible)
        self.mine[page.model.name].start()
        page.model = page.model.will(states={"running"}, stray=False, exits=set())

    def let_go(self, page: Page, container: Container) -> None:
        """From now on it lives on without its maker."""
        if "attached" not in page.model.modes:
            return
        page.begin("let go", page.model.may(modes={"let go"}))
        container.detach()
        page.model = page.model.will(modes={"let go"})

    def signal(self, page: Page, container: Container) -> None:
        """One that its command counts aloud."""
        model = self._ready(page)
        page.begin("signal", model.may(ticks={max(model.ticks) + 1}))
        container.signal("USR1")
        count = max(model.ticks) + 1
        until(lambda: self._read(model).count(b"tick") >= count, f"tick {count} is in its output")
        page.model = model.will(ticks={count})
        self._ready(page)

    def attach(self, page: Page, container: Container) -> None:
        """Its next word arrives here, and in its log."""
        model = self._ready(page)
        count = max(model.ticks) + 1
        page.begin("attach", model.may(ticks={count}))
        with container.attach() as attached:
            container.signal("USR1")
            said = b""
            deadline = time.monotonic() + PATIENCE
            while not said.endswith(b"\n") and time.monotonic() < deadline:
                if (received := attached.receive()) is not None:
                    said += received[1]
                else:
                    select.select([attached], [], [], 1)
        if said != b"tick %d\n" % count:
            raise Wrong(f"who is attached reads {said!r} instead of tick {count}")
        page.model = model.will(ticks={count})
        self._ready(page)

    def stop(self, page: Page, container: Container) -> None:
        """It ends as it was asked to."""
        self._end(page, "stop", f"exited:{page.model.code}", lambda: container.stop(timeout=PATIENCE))

    def terminate(self, page: Page, container: Container) -> None:
        """The same by hand."""

        def action() -> Exit:
            container.signal("TERM")
            return container.wait(PATIENCE)

        self._end(page, "terminate", f"exited:{page.model.code}", action)

    def kill(self, page: Page, container: Container) -> None:
        """Running or paused."""

        def action() -> Exit:
            container.kill()
            return container.wait(PATIENCE)

        self._end(page, "kill", "signaled:9", action)

    def _end(self, page: Page, operation: str, how: str, action: Callable[[], Exit]) -> None:
        model = self._ready(page) if operation != "kill" else page.model
        page.begin(operation, model.may(states={"stopped"}, exits={how}))
        found = describe(action())
        allowed = {how, *({f"exited:{model.code}"} if model.kind == "ends" else ())}
        allowed |= {"oom"} if model.kind == "eats" else set()
        if found not in allowed:
            raise Wrong(f"{operation}: it ended with {found} instead of {' or '.join(sorted(allowed))}")
        page.model = model.will(states={"stopped"}, exits={found})

    def delete(self, page: Page, container: Container) -> None:
        """What has ended."""
        page.begin("delete", page.model.may(states={"absent"}))
        container.delete()
        self._forget(page)

    def delete_by_force(self, page: Page, container: Container) -> None:
        """In any state."""
        page.begin("delete by force", page.model.may(states={"absent", "stopped"}, exits={"signaled:9"}))
        container.delete(force=True)
        self._forget(page)

    def _forget(self, page: Page) -> None:
        name = page.model.name
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.output(page.model))
        with contextlib.suppress(ContainerNotFound):
            raise Wrong(f"it is {self.engine.get(name).state} after it was deleted")
        self.mine.pop(name, None)
        page.model = page.model.gone()

    def pause(self, page: Page, container: Container) -> None:
        """All of it stands still."""
        page.begin("pause", page.model.may(states={"paused"}))
        self._while_it_lives(page, container, container.pause, "paused")

    def resume(self, page: Page, container: Container) -> None:
        """It goes on."""
        page.begin("resume", page.model.may(states={"running"}))
        self._while_it_lives(page, container, container.resume, "running")

    def update(self, page: Page, container: Container) -> None:
        """For all to see."""
        memory = self.chance.randrange(32, 64)
        page.begin("update", page.model.may(memory={memory}))
        container.update(memory=f"{memory}M")
        page.model = page.model.will(memory={memory})

    def execute(self, page: Page, container: Container) -> None:
        """One more command in it, which ends as told, or is killed with it, or by us."""
        code = self.chance.randrange(1, 10)
        kill = self.chance.random() < 0.2
        script = "sleep 1000" if kill else f"exit {code}"

        def action() -> None:
            with container.exec(["sh", "-c", script], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as process:
                if kill:
                    process.kill()
                found = describe(process.wait(PATIENCE))
                allowed = {"signaled:9" if kill else f"exited:{code}"}
                if page.model.kind != "waits":
                    allowed.add("signaled:9")  # with the container
                if found not in allowed:
                    raise Wrong(f"exec: {found} instead of {allowed}")

        self._while_it_lives(page, container, action, "running")

    def list_processes(self, page: Page, container: Container) -> None:
        """The first is among them."""

        def action() -> None:
            pid, pids = container.pid, container.pids()
            if pid not in pids and container.state == "running":
                raise Wrong(f"{pid} is not among its processes {pids}")

        self._while_it_lives(page, container, action, "running")

    def sample(self, page: Page, container: Container) -> None:
        """What it uses: processor time becomes no less, memory is no more than allowed."""

        def action() -> None:
            stats = container.stats()
            if stats.cpu.source == "cgroup":
                if stats.cpu.usage < page.model.cpu:
                    raise Wrong(f"processor time fell from {page.model.cpu} to {stats.cpu.usage}")
                page.model = page.model.will(cpu=stats.cpu.usage)
            if stats.pids is not None and stats.pids.current < 1 and container.state == "running":
                raise Wrong(f"it runs, and has no process: {stats.pids}")
            limit = stats.memory.limit if stats.memory is not None else None
            if page.model.memory and limit is not None and limit >> 20 not in page.model.memory:
                raise Wrong(f"its limit is {limit} instead of {page.model.memory} MiB")

        self._while_it_lives(page, container, action, "running")

    def _while_it_lives(self, page: Page, container: Container, action: Callable[[], object], after: str) -> None:
        """What may be refused only because it has just ended by itself."""
        try:
            action()
        except InvalidState:
            if page.model.kind == "waits":
                raise
            until(lambda: container.state == "stopped", "what was refused had ended")
            page.model = page.model.will(states={"stopped"})
        else:
            page.model = (
                page.model.may(states={after}) if page.model.kind != "waits" else page.model.will(states={after})
            )

    def wait_in_vain(self, page: Page, container: Container) -> None:
        """It runs on."""
        if page.model.kind == "waits":
            with contextlib.suppress(ContainerTimeout):
                raise Wrong(f"its end was told: {container.wait(0.01)}")

    def see_its_exit(self, page: Page, container: Container) -> None:
        """By a waiter that comes late."""
        found = describe(container.wait(PATIENCE))
        if found not in page.model.exits:
            raise Wrong(f"its exit was {page.model.exits}, and is {found} now")

    def refused(self, page: Page, container: Container) -> None:
        """What cannot be done in its state, is said to be so, and without effect."""
        (state,) = page.model.states
        features = self.features[page.model.driver]
        attempts: list[Callable[[], object]] = [
            lambda: self.engine.create(container.spec, driver=page.model.driver, name=page.model.name)
        ]
        if state in ("running", "paused") and page.model.kind == "waits":
            attempts.append(container.delete)
        if state in ("created", "paused", "stopped") and "exec" in features:
            attempts.append(lambda: container.exec(["true"], stdin=DEVNULL))
        if state == "stopped":
            attempts.append(lambda: container.signal("USR1"))
        attempt = self.chance.choice(attempts)
        with contextlib.suppress(InvalidState, ContainerExists):
            attempt()
            raise Wrong(f"{state}, and not refused")

    # --- its output

    def output(self, model: Model) -> Path:
        """The file that an attached one writes to."""
        return self.ground.output / f"{model.name}.{model.generation}"

    def _read(self, model: Model) -> bytes:
        if "detached" not in model.modes:
            return self.output(model).read_bytes()
        return b"".join(entry.data for entry in self.engine.get(model.name).logs())

    def _ready(self, page: Page) -> Model:
        """All that its command has said, in order, and as often as it was asked to."""
        model = page.model
        until(lambda: self._read(model).startswith(b"ready"), "it is ready")
        lines = self._read(model).decode().splitlines()
        count = len(lines) - 1
        if lines != ["ready", *(f"tick {n + 1}" for n in range(count))] or count not in model.ticks:
            raise Wrong(f"it said {lines} instead of {sorted(model.ticks)} ticks")
        page.model = model.will(ticks={count})
        return page.model

    # --- of all containers

    def list(self) -> None:
        """Each record makes sense."""
        for summary in self.engine.list():
            if summary.error is not None:
                raise Wrong(str(summary.error))
        self._counts.write("all list\n")

    def gc(self) -> None:
        """Nothing that it finds cannot be removed."""
        failed = [str(garbage) for garbage in self.engine.gc() if garbage.error is not None]
        if failed:
            raise Wrong(f"gc: {failed}")
        self._counts.write("all gc\n")

    def recover(self) -> None:
        """While all others work."""
        for container in self.engine.recover():
            # In this order: the driver of what is being made is known once that is done.
            if container.state != "creating" and container.driver not in self.features:
                raise Wrong(f"{container!r}")
        self._counts.write("all recover\n")


def _environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def main() -> None:
    faulthandler.register(signal.SIGUSR1)
    ground, seed = Ground(Path(sys.argv[1])), int(sys.argv[2])
    Worker(ground, seed).run()


if __name__ == "__main__":
    main()
