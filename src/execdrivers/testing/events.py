"""What observers see of a container's life."""

from __future__ import annotations

import pytest

from execdrivers import CommandNotFound, ContainerTimeout
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestEvents"]


class TestEvents(Kit):
    """The hook ``execdrivers_observe``, in the order in which things happen."""

    def seen(self) -> list[str]:
        """Types of the events so far."""
        return [event.type for event in self.events]

    def test_of_a_run(self) -> None:
        done = self.run("exit 3")
        assert self.seen() == ["created", "started", "exited", "deleted"]
        assert {event.id for event in self.events} == {done.name}
        assert {event.driver for event in self.events} == {self.name}
        assert self.events[2].exit == done.exit
        times = [event.time for event in self.events]
        assert times == sorted(times)

    def test_pids(self) -> None:
        container = self.start_ready()
        assert self.events[1].type == "started" and self.events[1].pid == container.pid

    def test_created_brings_the_spec(self) -> None:
        container = self.create("say x")
        assert self.events[0].spec == container.spec.to_dict()

    def test_step_by_step(self) -> None:
        container = self.create("line")
        assert self.seen() == ["created"]
        container.start()
        assert self.seen() == ["created", "started"]
        container.communicate(b"\n")
        assert self.seen() == ["created", "started", "exited"]
        container.delete()
        assert self.seen() == ["created", "started", "exited", "deleted"]

    def test_never_started(self) -> None:
        self.create().delete()
        assert self.seen() == ["created", "deleted"]

    def test_failed_launch(self) -> None:
        with pytest.raises(CommandNotFound):
            self.run(args=["/no/such"])
        assert self.seen() in ([], ["created", "exited", "deleted"])
        if self.events:
            ended = self.events[1].exit
            assert ended is not None and (ended.reason, ended.code) == ("launch-failed", 127)

    def test_timeout(self) -> None:
        with pytest.raises(ContainerTimeout):
            self.run("sleep", timeout=0.05)
        ended = self.events[2].exit
        assert ended is not None and ended.reason == "timeout"

    @needs("cgroup.memory")
    def test_out_of_memory(self) -> None:
        swap = {"memory_swap": "16M"} if "cgroup.swap" in self.features else {}
        self.run(f"eat {128 << 20}", memory="16M", **swap)
        assert self.seen() == ["created", "started", "oom", "exited", "deleted"]

    @needs("update", "cgroup.pids")
    def test_updated(self) -> None:
        container = self.start_ready(pids=9)
        container.update(pids=10)
        assert self.seen() == ["created", "started", "updated"]

    @needs("pause")
    def test_paused_and_resumed(self) -> None:
        container = self.start_ready()
        container.pause()
        container.resume()
        assert self.seen() == ["created", "started", "paused", "resumed"]

    @needs("events")
    def test_declared_by_drivers_that_report_their_own(self) -> None:
        """The engine reports a container's life for all drivers; there is no more to ask a driver for."""
