"""From create to delete: states, and what may be done in which."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from execdrivers import PIPE, ContainerExists, ContainerNotFound, ContainerTimeout, Engine, InvalidState
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestLifecycle"]


class TestLifecycle(Kit):
    """create, start, wait, kill, stop, delete; more than one container; names."""

    def test_created_started_ended_deleted(self) -> None:
        container = self.create("exit 5")
        assert self.state_of(container) == "created"
        container.start()
        assert container.wait(20).code == 5
        assert self.state_of(container) == "stopped" and container.returncode == 5
        assert container.pid is None
        assert container.created_at and container.started_at and container.finished_at
        assert container.created_at <= container.started_at <= container.finished_at
        container.delete()
        with pytest.raises(ContainerNotFound):
            self.engine.get(container.id)

    def test_nothing_is_executed_before_the_start(self) -> None:
        rootfs = self.own_rootfs()
        container = self.create("write /data/ran", rootfs=rootfs)
        time.sleep(0.05)
        assert not (rootfs / "data/ran").exists()
        container.delete()
        assert not (rootfs / "data/ran").exists()

    def test_the_pid_is_the_commands(self) -> None:
        container = self.start_ready("sleep")
        assert container.state == "running"
        pid = self.first_process(container)
        assert host.alive(pid)
        assert Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3] == [b"/bin/probe", b"say", b"ready"]

    def test_a_second_start_is_refused(self) -> None:
        container = self.start_ready()
        with pytest.raises(InvalidState):
            container.start()
        assert container.state == "running"

    def test_start_after_the_end_is_refused(self) -> None:
        container = self.start("exit 0")
        container.wait(20)
        with pytest.raises(InvalidState):
            container.start()

    def test_wait_before_the_start_is_refused(self) -> None:
        container = self.create()
        with pytest.raises(InvalidState):
            container.wait()

    def test_wait_gives_up_and_the_container_runs_on(self) -> None:
        container = self.start_ready()
        with pytest.raises(ContainerTimeout):
            container.wait(timeout=0.01)
        assert container.state == "running" and container.exit is None
        assert host.alive(self.first_process(container))

    def test_wait_twice_says_the_same(self) -> None:
        container = self.start("exit 3")
        assert container.wait(20) == container.wait(20) == container.exit

    def test_poll(self) -> None:
        container = self.start("line", "exit 4")
        assert container.poll() is None
        container.communicate(b"\n")
        ended = container.poll()
        assert ended is not None and ended.code == 4

    def test_waited_for_by_several_threads(self) -> None:
        container = self.start_ready()
        exits = []
        threads = [threading.Thread(target=lambda: exits.append(container.wait(20))) for _ in range(4)]
        for thread in threads:
            thread.start()
        container.kill()
        for thread in threads:
            thread.join()
        assert len(exits) == 4 and len(set(exits)) == 1

    def test_kill_when_running(self) -> None:
        container = self.start_ready()
        pid = self.first_process(container)
        container.kill()
        ended = container.wait(20)
        assert (ended.reason, ended.signal, ended.code) == ("signaled", 9, None)
        assert not host.alive(pid)

    def test_kill_twice_and_after_the_end(self) -> None:
        container = self.start_ready()
        container.kill()
        container.kill()
        container.wait(20)
        container.kill()

    def test_delete_before_the_start(self) -> None:
        container = self.create()
        container.delete()
        container.delete()
        with pytest.raises(InvalidState):
            container.start()

    def test_delete_when_running_takes_force(self) -> None:
        container = self.start_ready()
        pid = self.first_process(container)
        with pytest.raises(InvalidState):
            container.delete()
        assert host.alive(pid)
        container.delete(force=True)
        assert not host.alive(pid)

    def test_delete_after_the_end(self) -> None:
        container = self.start("exit 0")
        container.wait(20)
        container.delete()

    def test_leaving_the_with_block_deletes(self) -> None:
        with self.start_ready() as container:
            pid = self.first_process(container)
        assert not host.alive(pid)

    def test_closing_the_engine_deletes(self) -> None:
        container = self.start_ready()
        pid = self.first_process(container)
        self.engine.close()
        assert not host.alive(pid)

    def test_stop_asks_first(self) -> None:
        container = self.start("catch 1", "exit 6")
        assert host.read_line(container.stdout) == "ready"
        assert container.stop(timeout=20).code == 6
        assert container.stdout is not None and container.stdout.read(100) == b"15\n"

    def test_stop_kills_what_does_not_listen(self) -> None:
        container = self.start_ready("ignore 15", "say set", "sleep")
        assert host.read_line(container.stdout) == "set"
        ended = container.stop(timeout=0.05)
        assert (ended.reason, ended.signal) == ("signaled", 9)

    def test_stop_signal_of_the_spec(self) -> None:
        container = self.start("catch 1", "exit 6", stop_signal="SIGUSR2")
        assert host.read_line(container.stdout) == "ready"
        container.stop(timeout=20)
        assert container.stdout is not None and container.stdout.read(100) == b"12\n"

    def test_a_name_is_taken_while_the_container_is_there(self) -> None:
        first = self.create(name=self.id)
        with pytest.raises(ContainerExists):
            self.create(name=self.id)
        assert first.state == "created"
        first.delete()
        self.create("exit 0", name=self.id).delete()

    def test_two_at_a_time_in_one_rootfs(self) -> None:
        one, two = self.start("line", "exit 1"), self.start("line", "exit 2")
        assert one.pid != two.pid
        two.communicate(b"\n")
        assert one.state == "running" and two.exit is not None and two.exit.code == 2
        one.communicate(b"\n")
        assert one.exit is not None and one.exit.code == 1

    def test_many_one_after_the_other(self) -> None:
        for number in range(10):
            assert self.run(f"exit {number}").returncode == number

    def test_many_at_once(self) -> None:
        failures: list[object] = []

        def work(number: int) -> None:
            try:
                for _ in range(2):
                    done = self.run(f"say {number}", f"exit {number}")
                    assert (done.returncode, done.stdout) == (number, f"{number}\n".encode())
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    def test_others_see_it_by_name(self) -> None:
        container = self.start_ready(name=self.id)
        with self.new_engine() as other:
            assert [(item.id, item.state) for item in other.list()] == [(self.id, "running")]
            assert other.get(self.id).pid == container.pid
            container.kill()
            container.wait(20)
            assert other.get(self.id).state == "stopped"

    def test_kept_containers_tell_their_exit(self) -> None:
        self.run("exit 9", name=self.id, keep=True)
        found = self.engine.get(self.id)
        assert found.state == "stopped" and found.exit is not None and found.exit.code == 9
        found.delete()

    def test_ends_by_itself_while_nobody_looks(self) -> None:
        container = self.start("exit 8")
        pid = container.pid
        host.until(lambda: pid is None or not host.alive(pid), "it ended")
        assert host.until(lambda: container.state == "stopped", "its end was seen")
        assert container.exit is not None and container.exit.code == 8

    @needs("pids")
    def test_pids(self) -> None:
        container = self.start("spread 3", "say ready", "sleep")
        assert host.read_line(container.stdout) == "ready"
        pid = self.first_process(container)
        found = set(container.pids())
        assert pid in found
        assert {other for other in found if host.status(other)["Name"] == "probe"} >= host.descendants(pid)
        assert len(host.descendants(pid)) == 4
        container.kill()
        container.wait(20)
        assert list(container.pids()) == []

    def test_runs_without_a_name_get_different_ones(self) -> None:
        assert len({self.run().name for _ in range(3)}) == 3

    def test_engines_of_one_program_do_not_disturb_each_other(self) -> None:
        with Engine(self.tmp / "other", registry=self.new_registry()) as other:
            here = self.start("line", "exit 1", name=self.id)
            there = other.create(self.spec("line", "exit 2"), driver=self.name, name=f"{self.id}-b", stdin=PIPE)
            there.start()
            here.communicate(b"\n")
            assert there.state == "running"
            there.communicate(b"\n")
            assert (here.returncode, there.returncode) == (1, 2)
            there.delete()
