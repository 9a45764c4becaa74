"""A container that was let go of, after a crash of the program that made it: found by name, watched, ended, cleaned up
by another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from execdrivers import DEVNULL, Container, ContainerNotFound, Engine, InvalidState
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Command, Kit

__all__ = ["TestRecover"]


class TestRecover(Kit):
    """The maker is a fork of this program that SIGKILL ends; the one that recovers is this program.

    What is not let go of ends with its maker: that is `TestMaker`'s business.
    """

    def orphan(
        self, *commands: Command, start: bool = True, before: Callable[[Container], object] | None = None, **fields: Any
    ) -> Container:
        """A container whose maker is dead."""

        def make() -> object:
            engine = Engine(self.engine.root, registry=self.new_registry())
            spec = self.spec(*(commands or ("sleep",)), **fields)
            container = engine.create(
                spec, driver=self.name, name=self.id, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
            )
            if start:
                container.start()
            if before is not None:
                before(container)
            container.detach()
            return engine, container

        host.in_child(make, killed=True)
        container = self.engine.get(self.id)
        self.orphans.append(container)
        return container

    def gone(self, container: Container) -> None:
        """Delete it, whatever its state."""
        container.delete(force=True)
        with pytest.raises(ContainerNotFound):
            self.engine.get(self.id)

    @needs("recover")
    def test_it_runs_on_and_is_found(self) -> None:
        container = self.orphan()
        assert self.state_of(container) == "running"
        pid = self.first_process(container)
        assert host.alive(pid) and host.status(pid)["Name"] == "probe"
        self.gone(container)
        host.until(lambda: not host.alive(pid), "it ended")

    @needs("recover")
    def test_kill_and_wait(self) -> None:
        container = self.orphan()
        container.kill()
        ended = container.wait(TIMEOUT)
        assert ended.signal == 9 or self._cannot_know(ended.reason)
        assert self.state_of(container) == "stopped"
        self.gone(container)

    @needs("recover", "signal")
    def test_signals_arrive(self) -> None:
        rootfs = self.own_rootfs()
        container = self.orphan("block", "write /data/ready", "catch 1", "write /data/caught", "exit 6", rootfs=rootfs)
        host.until((rootfs / "data/ready").exists, "it is ready")
        container.signal("USR1")
        ended = container.wait(TIMEOUT)
        assert (rootfs / "data/caught").exists()
        assert ended.code == 6 or self._cannot_know(ended.reason)
        self.gone(container)

    @needs("recover")
    def test_the_exit_is_told(self) -> None:
        rootfs = self.own_rootfs()
        os.mkfifo(rootfs / "data/fifo")
        container = self.orphan("read /data/fifo", "exit 42", rootfs=rootfs)
        assert container.poll() is None  # who takes hold of it only after its end cannot know
        waited: list[Any] = []

        import threading

        thread = threading.Thread(target=lambda: waited.append(container.wait(TIMEOUT)))
        thread.start()
        with open(rootfs / "data/fifo", "w"):
            pass
        thread.join()
        assert waited and (waited[0].code == 42 or self._cannot_know(waited[0].reason))
        self.gone(container)

    def _cannot_know(self, reason: str) -> bool:
        """Before 6.15 the kernel does not tell how a process ended that is not one's child."""
        release = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in os.uname().release.split(".")[:2])
        return reason == "unknown" and release < (6, 15)

    @needs("recover")
    def test_ended_before_it_was_looked_for(self) -> None:
        container = self.orphan("exit 3")
        host.until(lambda: container.state == "stopped", "it ended")
        ended = container.exit or container.wait(TIMEOUT)
        assert ended is not None
        self.gone(container)

    @needs("recover")
    def test_never_started(self) -> None:
        container = self.orphan(start=False)
        assert container.state in ("created", "stopped")
        self.gone(container)

    @needs("recover")
    def test_by_two_programs(self) -> None:
        container = self.orphan()
        with self.new_engine() as other:
            again = other.get(self.id)
            assert again.pid == container.pid
            container.kill()
            assert again.wait(TIMEOUT).signal == container.wait(TIMEOUT).signal
        self.gone(container)

    @needs("recover")
    def test_twice(self) -> None:
        pid = self.orphan().pid

        def other() -> None:
            with self.new_engine() as engine:
                assert engine.get(self.id).pid == pid

        host.in_child(other, killed=True)
        container = self.engine.get(self.id)
        assert container.pid == pid and container.state == "running"
        self.gone(container)

    @needs("recover")
    def test_spec_and_guarantees_are_kept(self) -> None:
        container = self.orphan("sleep", env={"A": "1"})
        assert container.spec == self.spec("sleep", env={"A": "1"})
        assert container.guarantees and container.driver == self.name
        self.gone(container)

    @needs("recover", "pids")
    def test_pids(self) -> None:
        container = self.orphan("spread 2", "sleep")
        pid = self.first_process(container)
        host.until(lambda: len(host.descendants(pid)) == 3, "its children are there")
        assert host.descendants(pid) <= set(container.pids())
        self.gone(container)

    @needs("recover", "kill-all")
    def test_kill_ends_every_process(self) -> None:
        container = self.orphan("spread 3 orphan", "sleep", env={"KIT": self.id})
        host.until(lambda: len(host.with_variable(f"KIT={self.id}")) == 4, "all are there")
        pids = host.with_variable(f"KIT={self.id}")
        container.kill()
        container.wait(TIMEOUT)
        host.until(lambda: not any(map(host.alive, pids)), "all ended")
        self.gone(container)

    @needs("recover", "cgroup.memory")
    def test_limits_stay(self) -> None:
        container = self.orphan(memory="64M")
        value = host.cgroup_file(self.first_process(container), "memory", "memory.limit_in_bytes", "memory.max")
        assert value == str(64 << 20)
        self.gone(container)

    @needs("recover", "cgroup.memory")
    def test_out_of_memory_is_told(self) -> None:
        rootfs = self.own_rootfs()
        os.mkfifo(rootfs / "data/fifo")
        options: dict[str, Any] = {"memory_swap": "32M"} if "cgroup.swap" in self.features else {}
        container = self.orphan("read /data/fifo", f"eat {256 << 20}", rootfs=rootfs, memory="32M", **options)
        with open(rootfs / "data/fifo", "w"):
            pass
        assert container.wait(TIMEOUT).reason == "oom"
        self.gone(container)

    @needs("recover", "pause")
    def test_paused(self) -> None:
        container = self.orphan("tick", before=lambda made: made.pause())
        assert self.state_of(container) == "paused"
        container.resume()
        assert self.state_of(container) == "running"
        self.gone(container)

    @needs("recover", "pause")
    def test_paused_and_deleted(self) -> None:
        container = self.orphan("sleep", before=lambda made: made.pause())
        self.gone(container)

    @needs("recover", "update", "cgroup.pids")
    def test_updated(self) -> None:
        container = self.orphan(pids=20)
        container.update(pids=22)
        assert host.cgroup_file(self.first_process(container), "pids", "pids.max", "pids.max") == "22"
        self.gone(container)

    @needs("recover", "init")
    def test_with_init(self) -> None:
        container = self.orphan(init=True)
        assert self.state_of(container) == "running"
        container.kill()
        container.wait(TIMEOUT)
        self.gone(container)

    @needs("recover")
    def test_stop(self) -> None:
        container = self.orphan("ignore 15", "sleep")
        container.stop(timeout=0.05)
        assert self.state_of(container) == "stopped"
        self.gone(container)

    @needs("recover")
    def test_detached_lives_on_when_its_maker_ends_well(self) -> None:
        def make() -> None:
            with self.new_engine() as engine:
                container = engine.create(
                    self.spec("sleep"), driver=self.name, name=self.id, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
                )
                container.start()
                container.detach()

        host.in_child(make)
        container = self.engine.get(self.id)
        assert self.state_of(container) == "running"
        self.gone(container)

    @needs("recover")
    def test_delete_takes_force_while_it_runs(self) -> None:
        container = self.orphan()
        with pytest.raises(InvalidState):
            container.delete()
        self.gone(container)

    @needs("recover")
    def test_killed_from_outside(self) -> None:
        container = self.orphan()
        os.kill(self.first_process(container), signal.SIGKILL)
        assert host.until(lambda: container.state == "stopped", "its end was seen")
        self.gone(container)
