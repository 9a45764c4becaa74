"""Random lives of containers, compared with a model."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import stateful, strategies

from execdrivers import DEVNULL, Container, ContainerNotFound, InvalidState
from execdrivers.testing import host
from execdrivers.testing.kit import TIMEOUT, Kit

__all__ = ["TestMachine"]

_NAMES = ("a", "b")


class Lives(stateful.RuleBasedStateMachine):
    """Two containers; each is absent, created, running, paused or stopped."""

    kit: Kit

    def __init__(self) -> None:
        super().__init__()
        self.containers: dict[str, Container] = {}
        self.model = dict.fromkeys(_NAMES, "absent")

    names = strategies.sampled_from(_NAMES)

    def _do(self, name: str, allowed: tuple[str, ...], after: str, action: Any, absent: bool = False) -> None:
        """Where the model allows it the action works and leads to ``after``; elsewhere it is refused."""
        state = self.model[name]
        if state == "absent":
            return
        if state in allowed:
            action(self.containers[name])
            self.model[name] = after
        else:
            try:
                action(self.containers[name])
            except InvalidState:
                pass
            else:
                raise AssertionError(f"allowed in state {state}")

    @stateful.rule(name=names)
    def create(self, name: str) -> None:
        if self.model[name] == "absent":
            container = self.kit.engine.create(
                self.kit.spec("catch 1000"),
                driver=self.kit.name,
                name=f"{self.kit.id}-{name}",
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=DEVNULL,
            )
            self.containers[name], self.model[name] = container, "created"

    @stateful.rule(name=names)
    def start(self, name: str) -> None:
        self._do(name, ("created",), "running", lambda container: container.start())

    @stateful.rule(name=names)
    def signal(self, name: str) -> None:
        if "signal" in self.kit.features and self.model[name] in ("running", "stopped"):
            self._do(name, ("running",), "running", lambda container: container.signal("WINCH"))

    @stateful.rule(name=names)
    def kill_and_wait(self, name: str) -> None:
        def action(container: Container) -> None:
            container.kill()
            assert container.wait(TIMEOUT).signal == 9

        if self.model[name] in ("running", "paused"):
            self._do(name, ("running", "paused"), "stopped", action)

    @stateful.rule(name=names)
    def wait_after_the_end(self, name: str) -> None:
        if self.model[name] in ("created", "stopped"):
            self._do(name, ("stopped",), "stopped", lambda container: container.wait(TIMEOUT))

    @stateful.rule(name=names)
    def stop(self, name: str) -> None:
        if self.model[name] in ("created", "running"):
            self._do(name, ("running",), "stopped", lambda container: container.stop(timeout=0))

    @stateful.rule(name=names)
    def pause(self, name: str) -> None:
        if "pause" in self.kit.features:
            self._do(name, ("running",), "paused", lambda container: container.pause())

    @stateful.rule(name=names)
    def resume(self, name: str) -> None:
        if "pause" in self.kit.features:
            self._do(name, ("running", "paused"), "running", lambda container: container.resume())

    @stateful.rule(name=names)
    def execute(self, name: str) -> None:
        def action(container: Container) -> None:
            with container.exec(["/bin/probe", "exit", "5"]) as process:
                assert process.wait(TIMEOUT).code == 5

        if "exec" in self.kit.features:
            self._do(name, ("running",), "running", action)

    @stateful.rule(name=names)
    def delete(self, name: str) -> None:
        def action(container: Container) -> None:
            container.delete()
            del self.containers[name]

        self._do(name, ("created", "stopped"), "absent", action)

    @stateful.rule(name=names)
    def delete_by_force(self, name: str) -> None:
        if self.model[name] != "absent":
            self.containers.pop(name).delete(force=True)
            self.model[name] = "absent"

    @stateful.rule(name=names)
    def found_by_another_engine(self, name: str) -> None:
        with self.kit.new_engine() as other:
            try:
                found = other.get(f"{self.kit.id}-{name}")
            except ContainerNotFound:
                assert self.model[name] == "absent"
                return
            assert found.state == self.model[name]
            if self.model[name] in ("running", "paused"):
                assert found.pid == self.containers[name].pid

    @stateful.rule(name=names)
    def killed_by_another_engine(self, name: str) -> None:
        if self.model[name] == "running" and "recover" in self.kit.features:
            with self.kit.new_engine() as other:
                other.get(f"{self.kit.id}-{name}").kill()
            assert self.containers[name].wait(TIMEOUT).signal == 9
            self.model[name] = "stopped"

    @stateful.invariant()
    def as_the_model_has_it(self) -> None:
        for name, container in self.containers.items():
            state = self.model[name]
            assert container.state == state, name
            if state in ("running", "paused"):
                assert container.pid is not None and host.alive(container.pid)
            elif state == "stopped":
                assert container.pid is None and container.exit is not None

    def teardown(self) -> None:
        for container in self.containers.values():
            container.delete(force=True)


class TestMachine(Kit):
    """create, start, signal, kill, stop, wait, pause, resume, exec, delete, recover in any order."""

    def test_random_lives(self) -> None:
        machine = type("KitLives", (Lives,), {"kit": self})
        settings = hypothesis.settings(
            max_examples=12,
            stateful_step_count=14,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        stateful.run_state_machine_as_test(machine, settings=settings)
