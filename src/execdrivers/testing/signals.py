"""Signals to the first process, and the end of all processes by kill."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from execdrivers import PIPE, InvalidState, OperationError, SpecError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit, args_of
from execdrivers.testing.pause import stands_still

__all__ = ["TestSignals"]

_STANDARD = "HUP INT QUIT ABRT USR1 USR2 PIPE ALRM TERM CHLD CONT TSTP TTIN TTOU URG WINCH IO SYS".split()


class TestSignals(Kit):
    """Every signal arrives, at the right process; kill spares none."""

    @needs("signal")
    def test_standard_signals_arrive(self) -> None:
        container = self.start(f"catch {len(_STANDARD)}")
        assert host.read_line(container.stdout) == "ready"
        for name in _STANDARD:
            container.signal(f"SIG{name}")
            assert int(host.read_line(container.stdout)) == getattr(signal, f"SIG{name}")
        assert container.wait(20).code == 0

    @needs("signal")
    def test_real_time_signals_arrive(self) -> None:
        numbers = [signal.SIGRTMIN, signal.SIGRTMIN + 1, signal.SIGRTMIN + 15, signal.SIGRTMAX - 1, signal.SIGRTMAX]
        container = self.start(f"catch {len(numbers)}")
        assert host.read_line(container.stdout) == "ready"
        for number in numbers:
            container.signal(number)
            assert int(host.read_line(container.stdout)) == number

    @needs("signal")
    def test_real_time_signals_queue(self) -> None:
        container = self.start("catch 3")
        assert host.read_line(container.stdout) == "ready"
        for _ in range(3):
            container.signal("SIGRTMIN")
        assert container.wait(20).code == 0

    @needs("signal")
    @pytest.mark.parametrize("given", ["TERM", "SIGTERM", 15, "15"])
    def test_by_name_and_number(self, given: str | int) -> None:
        container = self.start("catch 1")
        assert host.read_line(container.stdout) == "ready"
        container.signal(given)
        assert host.read_line(container.stdout) == "15"

    @needs("signal")
    def test_sigkill_ends_it(self) -> None:
        container = self.start_ready()
        container.signal("SIGKILL")
        ended = container.wait(20)
        assert (ended.reason, ended.signal, ended.status) == ("signaled", 9, 137)

    @needs("signal")
    def test_sigstop_and_sigcont(self) -> None:
        container = self.start_ready("tick")
        pid = self.first_process(container)
        container.signal("SIGSTOP")
        host.until(lambda: host.state(pid) == "T", "it stopped")
        container.signal("SIGCONT")
        host.until(lambda: host.state(pid) != "T", "it went on")

    @needs("signal")
    def test_only_the_first_process_gets_it(self) -> None:
        container = self.start("spread 2", "catch 1", "sleep")
        assert host.read_line(container.stdout) == "ready"
        others = host.descendants(self.first_process(container)) - {container.pid}
        container.signal("SIGUSR1")
        assert host.read_line(container.stdout) == "10"
        assert len(others) == 2 and all(map(host.alive, others))

    @needs("signal")
    def test_after_the_end_is_refused(self) -> None:
        container = self.start("exit 0")
        container.wait(20)
        with pytest.raises(InvalidState):
            container.signal("TERM")

    @needs("signal")
    def test_unknown_signals_are_refused(self) -> None:
        container = self.start_ready()
        for bad in ("SIGNONSENSE", 0, 65, -1):
            with pytest.raises(SpecError):
                container.signal(bad)
        assert container.state == "running"

    @needs("signal")
    def test_from_another_program(self) -> None:
        container = self.start("catch 1", name=self.id)
        assert host.read_line(container.stdout) == "ready"

        def other() -> None:
            with self.new_engine() as engine:
                engine.get(self.id).signal("SIGUSR2")

        host.in_child(other)
        assert host.read_line(container.stdout) == "12"

    # --- to all

    @needs("signal", "pids")
    @pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
    def test_all_processes_get_it_once(self, shared: bool) -> None:
        container = self.start("chorus 3", "catch 2", "sleep", **self._pids(shared=shared))
        assert host.read_line(container.stdout) == "ready"
        for name, number in (("SIGUSR1", "10"), ("SIGRTMIN", str(int(signal.SIGRTMIN)))):
            container.signal(name, all=True)
            assert [host.read_line(container.stdout) for _ in range(4)] == [number] * 4
        assert stands_still(container)
        assert self.state_of(container) == "running"

    @needs("signal", "pids")
    @pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
    def test_all_are_those_of_the_container(self, shared: bool) -> None:
        """Neither this program nor another container gets it, whatever namespace they share."""
        container = self.start("chorus 2", "say ready", "sleep", **self._pids(shared=shared))
        other = self.start("chorus 2", "say ready", "sleep", **self._pids(shared=shared))
        assert host.read_line(container.stdout) == host.read_line(other.stdout) == "ready"
        came: list[int] = []
        before = signal.signal(signal.SIGWINCH, lambda number, frame: came.append(number))
        try:
            container.signal("SIGWINCH", all=True)
            assert [host.read_line(container.stdout) for _ in range(2)] == ["28", "28"]
            assert stands_still(other) and not came
        finally:
            signal.signal(signal.SIGWINCH, before)

    @needs("signal", "pids")
    @pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
    def test_none_slips_through_by_forking(self, shared: bool) -> None:
        for _ in range(3):
            container = self.start("ignore 15", "relay", "sleep", **self._pids(shared=shared))
            for _ in range(20):
                host.read_line(container.stdout)
            try:
                container.signal("TERM", all=True)
            except OperationError:
                assert "pause" not in self.features, "it could have made them stand still"
            else:
                assert stands_still(container)
            container.delete(force=True)

    @needs("signal", "pids", "init")
    def test_all_with_an_init_get_it_once(self) -> None:
        container = self.start("chorus 2", "catch 1", "sleep", init=True)
        assert host.read_line(container.stdout) == "ready"
        container.signal("USR2", all=True)
        assert [host.read_line(container.stdout) for _ in range(3)] == ["12"] * 3
        assert stands_still(container)

    @needs("signal", "pids", "exec")
    def test_all_are_also_what_was_executed_in_it(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("catch 1"), stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            container.signal("USR1", all=True)
            assert host.read_line(process.stdout) == "10"

    @needs("signal", "pids", "pause")
    def test_all_when_paused_get_it_at_the_resume(self) -> None:
        container = self.start("chorus 2", "say ready", "sleep")
        assert host.read_line(container.stdout) == "ready"
        container.pause()
        container.signal("USR1", all=True)
        assert self.state_of(container) == "paused" and stands_still(container)
        container.resume()
        assert [host.read_line(container.stdout) for _ in range(2)] == ["10", "10"]

    @needs("signal", "pids")
    def test_sigkill_to_all(self) -> None:
        container = self.start("chorus 3", "say ready", "sleep", env={"KIT": self.id})
        assert host.read_line(container.stdout) == "ready"
        pids = self.all_processes(4)
        container.signal("KILL", all=True)
        assert container.wait(20).signal == 9
        host.until(lambda: not any(map(host.alive, pids)), "all ended")

    @needs("signal", "pids")
    def test_all_before_the_start_and_after_the_end_is_refused(self) -> None:
        container = self.create("exit 0")
        with pytest.raises(InvalidState):
            container.signal("TERM", all=True)
        container.start()
        container.wait(20)
        with pytest.raises(InvalidState):
            container.signal("TERM", all=True)

    @needs("signal", "pids", "recover")
    def test_all_from_another_program(self) -> None:
        container = self.start("chorus 2", "say ready", "sleep", name=self.id)
        assert host.read_line(container.stdout) == "ready"

        def other() -> None:
            with self.new_engine() as engine:
                engine.get(self.id).signal("USR1", all=True)

        host.in_child(other)
        assert [host.read_line(container.stdout) for _ in range(2)] == ["10", "10"]
        assert self.state_of(container) == "running"

    def _pids(self, *, shared: bool) -> dict[str, Any]:
        """Fields for a container with processes that are told by its pid namespace, or by its cgroup alone."""
        if shared and "namespace.host.pid" in self.features:
            return {"namespaces": {"pid": "host"}}
        return {}

    # --- to an end

    @needs("kill-all")
    @pytest.mark.parametrize("how", ["session", "orphan"])
    @pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
    def test_stop_kills_all_that_does_not_listen(self, how: str, shared: bool) -> None:
        container = self.start(
            "ignore 15", f"spread 3 {how}", "say ready", "sleep", env={"KIT": self.id}, **self._pids(shared=shared)
        )
        assert host.read_line(container.stdout) == "ready"
        pids = self.all_processes(4)
        ended = container.stop(timeout=0.05)
        assert (ended.reason, ended.signal) == ("signaled", 9)
        host.until(lambda: not any(map(host.alive, pids)), "all ended")

    @needs("kill-all")
    @pytest.mark.parametrize("how", ["session", "orphan"])
    @pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
    def test_stop_leaves_none_when_the_first_listens(self, how: str, shared: bool) -> None:
        container = self.start(
            f"spread 3 {how}", "catch 1", "exit 6", env={"KIT": self.id}, **self._pids(shared=shared)
        )
        assert host.read_line(container.stdout) == "ready"
        pids = self.all_processes(4)
        assert container.stop(timeout=20).code == 6
        host.until(lambda: not any(map(host.alive, pids)), "all ended")

    @needs("kill-all", "exec")
    def test_stop_kills_what_was_executed_in_it(self) -> None:
        container = self.start_ready(**self._pids(shared=True))
        with container.exec(args_of("ignore 15", "spread 1 session", "say ready", "sleep"), stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            assert process.pid is not None
            pids = host.descendants(process.pid)
            assert len(pids) >= 2
            container.stop(timeout=0.05)
            assert process.wait(20).signal == 9
            host.until(lambda: not any(map(host.alive, pids)), "all ended")

    @needs("pause", "kill-all")
    def test_stop_when_paused(self) -> None:
        container = self.start_ready()
        container.pause()
        assert container.stop(timeout=0.05).signal == 9

    def test_kill_ends_the_first_process_and_its_children(self) -> None:
        container = self.start("spread 3", "say ready", "sleep")
        assert host.read_line(container.stdout) == "ready"
        pids = host.descendants(self.first_process(container))
        assert len(pids) == 4
        container.kill()
        container.wait(20)
        host.until(lambda: not any(map(host.alive, pids)), "all ended")

    @needs("kill-all")
    @pytest.mark.parametrize("how", ["session", "orphan"])
    def test_kill_ends_every_process(self, how: str) -> None:
        pids = self._spread(how)
        container = self.engine.get(self.id)
        container.kill()
        container.wait(20)
        host.until(lambda: not any(map(host.alive, pids)), "all ended")

    @needs("kill-all")
    @pytest.mark.parametrize("how", ["session", "orphan"])
    def test_every_process_ends_with_the_first(self, how: str) -> None:
        pids = self._spread(how)
        os.kill(self.first_process(self.engine.get(self.id)), signal.SIGKILL)
        assert self.engine.get(self.id).wait(20).signal == 9
        host.until(lambda: not any(map(host.alive, pids)), "all ended")

    @needs("kill-all")
    def test_every_process_ends_when_the_first_exits(self) -> None:
        container = self.start("spread 3 orphan", "say ready", "line", env={"KIT": self.id})
        assert host.read_line(container.stdout) == "ready"
        pids = self.all_processes(4)
        container.communicate(b"\n")
        assert container.returncode == 0
        host.until(lambda: not any(map(host.alive, pids)), "all ended")

    @needs("kill-all", "cgroup.pids")
    def test_kill_outruns_a_fork_bomb(self) -> None:
        container = self.start("spread 40 session", "say ready", "sleep", pids=64)
        assert host.read_line(container.stdout) == "ready"
        pids = host.descendants(self.first_process(container))
        container.kill()
        container.wait(20)
        assert not any(map(host.alive, pids))

    def _spread(self, how: str) -> set[int]:
        container = self.start(f"spread 3 {how}", "say ready", "sleep", name=self.id, env={"KIT": self.id})
        assert host.read_line(container.stdout) == "ready"
        return self.all_processes(4)
