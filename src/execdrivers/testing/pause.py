"""Freezing and thawing."""

from __future__ import annotations

import os
import select
import time
from typing import Any

import pytest

from execdrivers import InvalidState
from execdrivers.container import Container
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Kit, args_of

__all__ = ["TestPause"]


def stands_still(container: Container, seconds: float = 0.1) -> bool:
    """Whether a container that ticks has ceased to, once what was under way is read."""
    stream: Any = container.stdout
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    while poll.poll(0):
        os.read(stream.fileno(), 1 << 16)
    return not poll.poll(seconds * 1000)


class TestPause(Kit):
    """`Container.pause` and `resume`: every process stands still, none is lost."""

    @needs("pause")
    def test_nothing_moves_and_then_goes_on(self) -> None:
        container = self.start_ready("tick")
        container.pause()
        assert self.state_of(container) == "paused"
        assert stands_still(container)
        container.resume()
        assert self.state_of(container) == "running"
        assert host.read_line(container.stdout)

    @needs("pause")
    def test_children_stand_still_too(self) -> None:
        container = self.start_ready("spread 2", "say spread", "sleep")
        assert host.read_line(container.stdout) == "spread"
        pids = host.descendants(self.first_process(container))
        container.pause()
        before = [self._cpu(pid) for pid in pids]
        time.sleep(0.02)
        assert [self._cpu(pid) for pid in pids] == before
        container.resume()
        assert all(map(host.alive, pids))

    def _cpu(self, pid: int) -> tuple[str, str]:
        fields = host.fields(pid)
        return fields[11], fields[12]

    @needs("pause")
    def test_on_return_it_stands_still(self) -> None:
        container = self.start_ready("tick")
        for _ in range(3):
            container.pause()
            assert stands_still(container, 0.02)
            container.resume()
            assert host.read_line(container.stdout)

    @needs("pause")
    def test_kill_when_paused(self) -> None:
        container = self.start_ready("spread 2", "say spread", "sleep")
        assert host.read_line(container.stdout) == "spread"
        pids = host.descendants(self.first_process(container))
        container.pause()
        container.kill()
        ended = container.wait(TIMEOUT)
        assert (ended.reason, ended.signal) == ("signaled", 9)
        host.until(lambda: not any(map(host.alive, pids)), "all ended")

    @needs("pause")
    def test_delete_when_paused(self) -> None:
        container = self.start_ready()
        container.pause()
        with pytest.raises(InvalidState):
            container.delete()
        container.delete(force=True)

    @needs("pause")
    def test_timeout_when_paused(self) -> None:
        from execdrivers import ContainerTimeout

        container = self.start_ready()
        container.pause()
        with pytest.raises(ContainerTimeout):
            container.wait(timeout=0.02)
        container.resume()

    @needs("pause", "signal")
    def test_a_signal_waits_for_the_resume(self) -> None:
        container = self.start("catch 1")
        assert host.read_line(container.stdout) == "ready"
        container.pause()
        container.signal("USR1")
        assert stands_still(container, 0.05)
        container.resume()
        assert host.read_line(container.stdout) == "10"

    @needs("pause")
    def test_twice_is_refused_or_nothing(self) -> None:
        container = self.start_ready()
        container.pause()
        with pytest.raises(InvalidState):
            container.pause()
        container.resume()
        container.resume()
        assert self.state_of(container) == "running"

    @needs("pause")
    def test_before_the_start_and_after_the_end_is_refused(self) -> None:
        container = self.create("exit 0")
        with pytest.raises(InvalidState):
            container.pause()
        container.start()
        container.wait(TIMEOUT)
        with pytest.raises(InvalidState):
            container.pause()
        with pytest.raises(InvalidState):
            container.resume()

    @needs("pause", "exec")
    def test_exec_when_paused_is_refused(self) -> None:
        container = self.start_ready()
        container.pause()
        with pytest.raises(InvalidState):
            container.exec(args_of("say x"))
        container.resume()

    @needs("pause")
    def test_events(self) -> None:
        container = self.start_ready()
        container.pause()
        container.resume()
        assert [event.type for event in self.events][-2:] == ["paused", "resumed"]

    @needs("pause", "recover")
    def test_by_another_program(self) -> None:
        container = self.start_ready("tick", name=self.id)

        def pause() -> None:
            with self.new_engine() as engine:
                engine.get(self.id).pause()

        def resume() -> None:
            with self.new_engine() as engine:
                found = engine.get(self.id)
                assert self.state_of(found) == "paused"
                found.resume()

        host.in_child(pause)
        assert stands_still(container)
        host.in_child(resume)
        assert host.read_line(container.stdout)

    @needs("pause", "cgroup.memory")
    def test_paused_with_limits(self) -> None:
        container = self.start_ready("tick", memory="64M")
        container.pause()
        assert stands_still(container)
        container.resume()
        assert host.read_line(container.stdout)
