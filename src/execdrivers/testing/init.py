"""``init=True``: a small reaper as the first process, invisible but for what it does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestInit"]


class TestInit(Kit):
    """It reaps, passes signals on, and tells the command's end as its own."""

    @needs("init", "namespace.pid")
    def test_the_command_is_not_the_first_process(self) -> None:
        report = self.report(init=True)
        assert report["pid"] > 1 and report["ppid"] == 1

    @needs("init")
    @pytest.mark.parametrize("code", [0, 1, 137, 255])
    def test_exit_code(self, code: int) -> None:
        ended = self.run(f"exit {code}", init=True).exit
        assert (ended.reason, ended.code) == ("exited", code)

    @needs("init")
    def test_signal_by_itself(self) -> None:
        done = self.run("raise 9", init=True)
        assert (done.exit.reason, done.exit.signal, done.exit.status) == ("signaled", 9, 137)

    @needs("init", "signal")
    def test_signals_are_passed_on(self) -> None:
        container = self.start("catch 4", init=True)
        assert host.read_line(container.stdout) == "ready"
        for number in (15, 10, 2, 1):
            container.signal(number)
            assert host.read_line(container.stdout) == str(number)
        assert container.wait(20).code == 0

    @needs("init", "signal")
    def test_default_actions_work(self) -> None:
        """The first process of a pid namespace is spared by signals that it does not handle; its child is not."""
        container = self.start_ready(init=True)
        container.signal("TERM")
        ended = container.wait(20)
        assert (ended.reason, ended.signal) == ("signaled", 15)

    @needs("init", "namespace.pid")
    def test_orphans_are_reaped(self) -> None:
        container = self.start("spread 3 orphan", "say ready", "sleep", init=True)
        assert host.read_line(container.stdout) == "ready"
        first = self.first_process(container)

        def zombies() -> list[int]:
            import os

            return [int(name) for name in filter(str.isdigit, os.listdir("/proc")) if self._is_zombie(int(name), first)]

        # Those between the command and its orphans have ended; nothing of them may stay.
        deadline = time.monotonic() + 5
        while zombies() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not zombies()

    def _is_zombie(self, pid: int, parent: int) -> bool:
        fields = host.fields(pid)
        return bool(fields) and fields[0] == "Z" and int(fields[1]) == parent

    @needs("init", "signal", "namespace.pid")
    def test_stopped_and_continued(self) -> None:
        container = self.start_ready(init=True)
        first = self.first_process(container)
        (command,) = map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())
        container.signal("TSTP")
        host.until(lambda: host.fields(command)[0] == "T", "it is stopped")
        container.signal("CONT")
        host.until(lambda: host.fields(command)[0] == "S", "it goes on")

    @needs("init", "tty")
    def test_a_terminal_does_not_stop_the_command_for_good(self) -> None:
        """There is no shell that would let it go on."""
        container = self.start("say ready", "cat", tty=True, init=True)
        assert host.read_line(container.stdout) == "ready"
        assert container.stdin is not None
        container.stdin.write(b"\x1a")
        container.stdin.write(b"hello\n")
        assert [host.read_line(container.stdout) for _ in range(2)][-1] == "hello"

    @needs("init", "kill-all")
    def test_orphans_end_with_the_command(self) -> None:
        container = self.start("spread 3 orphan", "say ready", "line", init=True, env={"KIT": self.id})
        assert host.read_line(container.stdout) == "ready"
        found = host.with_variable(f"KIT={self.id}")
        assert len(found) >= 4
        container.communicate(b"\n")
        host.until(lambda: not any(map(host.alive, found)), "all ended")

    @needs("init")
    def test_no_descriptor_of_it_is_inherited(self) -> None:
        assert sorted(self.report(init=True)["fds"]) == ["0", "1", "2"]

    @needs("init", asked={"init": True})
    def test_none_unless_asked_for(self) -> None:
        report = self.by_default()
        assert report["pid"] == 1 or "namespace.pid" not in self.features
