"""What observers see of a container's life."""

from __future__ import annotations

import time
from typing import Any

import pytest

from execdrivers import CommandNotFound, Container, ContainerTimeout
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit, args_of

__all__ = ["TestEvents"]


class TestEvents(Kit):
    """The hook ``execdrivers_observe``, in the order in which things happen."""

    def seen(self, without: str = "") -> list[str]:
        """Types of the events so far."""
        return [event.type for event in self.events if event.type != without]

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
        done = self.run(f"eat {128 << 20}", **self._short_of_memory())
        assert self.seen(without="memory_pressure") == ["created", "started", "oom", "exited", "deleted"]
        told = next(event for event in self.events if event.type == "oom")
        assert told.oom_kills == done.exit.oom_kills == 1

    @needs("events", "cgroup.memory", "exec")
    def test_out_of_memory_while_it_runs(self) -> None:
        """Each kill is told when it is done, with the count, though the first process lives on."""
        container = self.start_ready(**self._short_of_memory())
        told: list[tuple[str, int | None]] = []
        for _ in range(2):
            with container.exec(args_of(f"eat {128 << 20}")) as eater:
                eater.wait()
            before = len(told)
            host.until(lambda before=before: container.poll() or self._kills()[before:], "the event")  # type: ignore[misc]
            told.append((container.state, self._kills()[-1]))
        assert told == [("running", 1), ("running", 2)]
        container.kill()
        assert container.wait().oom_kills == 2
        assert self._kills() == [1, 2]

    @needs("cgroup.memory")
    def test_no_memory_events_without_need(self) -> None:
        self.run("say x", **self._short_of_memory())
        assert self.seen() == ["created", "started", "exited", "deleted"]

    def _kills(self) -> list[int | None]:
        return [event.oom_kills for event in self.events if event.type == "oom"]

    def _short_of_memory(self) -> dict[str, Any]:
        return {"memory": "16M", **({"memory_swap": "16M"} if "cgroup.swap" in self.features else {})}

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

    @needs("exec")
    def test_of_an_exec(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("exit 5")) as process:
            pid = process.pid
            process.wait()
        assert self.seen() == ["created", "started", "exec_started", "exec_exited"]
        began, ended = self.events[2:]
        assert began.exec == ended.exec == process.id and began.args == tuple(args_of("exit 5"))
        assert began.pid == ended.pid == pid
        assert began.exit is None and ended.exit == process.exit and process.returncode == 5

    @needs("exec")
    def test_of_an_exec_that_ends_with_the_container(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("sleep")) as process:
            container.kill()
            container.wait()
            process.wait()
        assert sorted(self.seen()[2:]) == ["exec_exited", "exec_started", "exited"]

    def test_the_journal_has_what_observers_see(self) -> None:
        container = self.create("exit 3")
        container.start()
        container.wait()
        container.delete()
        written = list(self.engine.events(containers=container.id, follow=False))
        assert written == self.events
        assert [event.type for event in written] == ["created", "started", "exited", "deleted"]

    def test_followed_by_another_engine(self) -> None:
        """Also what leaves no record."""
        with self.new_engine().events(until=time.time() + 120) as stream:
            done = self.run("exit 3")
            told = [next(stream) for _ in self.events]
        assert told == self.events
        assert told[2].exit == done.exit

    @needs("recover", "pause")
    def test_of_what_another_engine_does(self) -> None:
        """Told once to whoever follows, and to the observers of who did it."""
        container = self.start_ready()
        with self.new_engine().get(container.id) as again:
            again.pause()
            again.resume()
        container.delete()
        written = self.engine.events(containers=container.id, follow=False)
        assert [event.type for event in written] == ["created", "started", "paused", "resumed", "exited", "deleted"]

    # --- detached containers, of which several programs can tell

    @needs("detach")
    def test_of_a_detached_one(self) -> None:
        container = self._detached("exit 3")
        for _ in range(2):
            container.wait()
            self.new_engine().get(container.id).wait()
        container.delete()
        assert self._written(container.id) == ["created", "started", "exited", "deleted"]

    @needs("detach")
    def test_of_a_detached_one_that_ends_unseen(self) -> None:
        with self.engine.events(containers=self.id, until=time.time() + 120) as stream:
            container = self._detached("exit 3")
            told = [next(stream) for _ in range(3)]
        assert [event.type for event in told] == ["created", "started", "exited"]
        assert told[2].exit is not None and told[2].exit.code == 3
        container.delete()
        assert self._written(container.id) == ["created", "started", "exited", "deleted"]

    @needs("detach", "events", "cgroup.memory", "exec")
    def test_out_of_memory_while_nobody_waits(self) -> None:
        with self.engine.events(containers=self.id, types="oom", until=time.time() + 120) as stream:
            container = self._detached("sleep", **self._short_of_memory())
            told = []
            for _ in range(2):
                with container.exec(args_of(f"eat {128 << 20}")) as eater:
                    eater.wait()
                told.append(next(stream).oom_kills)
        assert told == [1, 2]
        container.kill()
        assert container.wait().oom_kills == 2
        container.delete()
        assert [kind for kind in self._written(container.id) if kind == "oom"] == ["oom"] * 2

    def _detached(self, command: str, **fields: Any) -> Container:
        container = self.engine.create(self.spec(command, **fields), driver=self.name, name=self.id, detach=True)
        self.orphans.append(container)
        container.start()
        return container

    def _written(self, id: str) -> list[str]:
        events = self.engine.events(containers=id, follow=False)
        return [event.type for event in events if event.type != "memory_pressure"]
