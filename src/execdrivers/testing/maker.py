"""The end of the program that made a container: one that was not let go of ends with it, and leaves nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, Container, Engine, ExecDriverError, Registry
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Command, Kit, args_of

__all__ = ["TestMaker"]

#: Seconds in which what must not happen would have.
_A_WHILE = 0.3


class TestMaker(Kit):
    """The maker is a fork of this program. Its guard finds the driver as any program does: it must be installed."""

    def left(
        self,
        *commands: Command,
        start: bool = True,
        killed: bool = True,
        before: Callable[[Container], object] | None = None,
        **fields: Any,
    ) -> None:
        """Have a container made by a program that ends without having deleted it."""
        try:
            Registry().get(self.name)
        except ExecDriverError:
            host.lacking(f"driver {self.name} to be installed")

        def make() -> object:
            engine = Engine(self.engine.root, registry=self.new_registry())
            spec = self.spec(*(commands or ("sleep",)), env={"KIT": self.id}, **fields)
            container = engine.create(
                spec, driver=self.name, name=self.id, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
            )
            if start:
                container.start()
            if before is not None:
                before(container)
            if not killed:
                os._exit(0)
            return engine, container

        host.in_child(make, killed=True)

    def gone(self) -> None:
        """All of it; the leak check looks for cgroups and mounts."""
        host.until(lambda: not self.stored(), "its record went")
        host.until(lambda: not host.with_variable(f"KIT={self.id}"), "its processes ended")

    @needs("recover")
    @pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
    def test_it_ends_with_its_maker(self, killed: bool) -> None:
        self.left("spread 2", "sleep", killed=killed)
        self.gone()

    @needs("recover")
    def test_not_yet_started(self) -> None:
        self.left(start=False)
        self.gone()

    @needs("recover", "kill-all")
    def test_every_process_of_it(self) -> None:
        self.left("spread 3 orphan", "sleep")
        self.gone()

    @needs("recover", "pause")
    def test_paused(self) -> None:
        self.left("tick", before=lambda container: container.pause())
        self.gone()

    @needs("recover", "init")
    def test_with_init(self) -> None:
        self.left(init=True)
        self.gone()

    @needs("recover")
    def test_one_that_has_ended(self) -> None:
        self.left("exit 3", before=lambda container: container.wait())
        self.gone()

    @needs("recover", "exec")
    def test_with_another_process(self) -> None:
        def execute(container: Container) -> None:
            self.execute = container.exec(args_of("sleep"), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)

        self.left(before=execute)
        self.gone()

    def test_a_thread_of_its_maker_is_not_its_maker(self) -> None:
        made: list[Container] = []
        thread = threading.Thread(target=lambda: made.append(self.start("sleep")))
        thread.start()
        thread.join()
        time.sleep(_A_WHILE)
        (container,) = made
        assert container.state == "running"
        assert host.alive(self.first_process(container))

    def test_a_fork_of_its_maker_is_not_its_maker(self) -> None:
        container = self.start("sleep")
        host.in_child(lambda: None, killed=True)
        time.sleep(_A_WHILE)
        assert container.state == "running"
        assert Path(self.engine.root, container.id).is_dir()
