"""Detached containers: they outlive the program that made them, and their output and exit are kept."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import (
    DEVNULL,
    PIPE,
    CommandNotFound,
    Container,
    ContainerNotFound,
    Engine,
    InvalidState,
    SpecError,
)
from execdrivers.exit import Exit
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Command, Kit, args_of

__all__ = ["TestDetach"]


def fork(body: Callable[[], int]) -> int:
    """The pid of a fork that ends with what the body returns."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(body())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(9)
    return pid


class TestDetach(Kit):
    """The maker is, where it says so, a fork of this program that SIGKILL ends; another program is one more engine."""

    def detached(self, *commands: Command, start: bool = True, **options: Any) -> Container:
        """A detached container of this program."""
        given = {key: options.pop(key) for key in ("stdin", "stdout", "stderr", "log", "remove") if key in options}
        container = self.engine.create(
            self.spec(*(commands or ("sleep",)), **options), driver=self.name, name=self.id, detach=True, **given
        )
        self.orphans.append(container)
        if start:
            container.start()
        return container

    def abandoned(
        self,
        *commands: Command,
        start: bool = True,
        before: Callable[[Container], object] | None = None,
        **options: Any,
    ) -> Container:
        """One whose maker is dead."""

        def make() -> object:
            engine = Engine(self.engine.root, registry=self.new_registry())
            given = {key: options.pop(key) for key in ("stdin", "stdout", "stderr", "log", "remove") if key in options}
            container = engine.create(
                self.spec(*(commands or ("sleep",)), **options), driver=self.name, name=self.id, detach=True, **given
            )
            if start:
                container.start()
            if before is not None:
                before(container)
            return engine, container

        host.in_child(make, killed=True)
        return self.again()

    def again(self) -> Container:
        """As another program finds it."""
        container = self.engine.get(self.id)
        self.orphans.append(container)
        return container

    def gone(self, container: Container) -> None:
        """Delete it, whatever its state."""
        container.delete(force=True)
        with pytest.raises(ContainerNotFound):
            self.engine.get(self.id)

    def output(self, container: Container, stream: str = "stdout") -> bytes:  # type: ignore[override]
        """What was logged of a stream."""
        return b"".join(entry.data for entry in container.logs() if entry.stream == stream)

    def monitor_of(self, container: Container) -> int:
        """The monitor's pid."""
        monitor = container._record.monitor
        assert monitor is not None
        return monitor[0]

    # --- its life

    @needs("detach")
    def test_it_outlives_its_maker(self) -> None:
        container = self.abandoned("say out", "complain err", "sleep")
        assert container.detached and self.state_of(container) == "running"
        pid = self.first_process(container)
        assert host.alive(pid) and host.status(pid)["Name"] == "probe"
        host.until(lambda: self.logged(container) == (b"out\n", b"err\n"), "its output was logged")
        self.gone(container)
        host.until(lambda: not host.alive(pid), "it ended")

    @needs("detach")
    def test_its_monitor_is_above_it(self) -> None:
        """Before Linux 6.15 the kernel tells of an end only to the parent."""
        container = self.abandoned()
        assert self.first_process(container) in host.descendants(self.monitor_of(container))
        self.gone(container)

    def logged(self, container: Container) -> tuple[bytes, bytes]:
        """stdout and stderr so far."""
        return self.output(container), self.output(container, "stderr")

    @needs("detach")
    @pytest.mark.parametrize("code", [0, 3, 137])
    def test_its_code_is_told_after_all_have_died(self, code: int) -> None:
        container = self.abandoned("say last words", f"exit {code}")
        host.until(lambda: self.state_of(container) == "stopped", "it ended")
        assert container.wait(TIMEOUT) == Exit(reason="exited", code=code)
        assert self.output(container) == b"last words\n"
        self.gone(container)

    @needs("detach")
    def test_its_signal_is_told(self) -> None:
        container = self.abandoned()
        os.kill(self.first_process(container), signal.SIGKILL)
        ended = container.wait(TIMEOUT)
        assert (ended.reason, ended.signal, ended.code) == ("signaled", 9, None)
        self.gone(container)

    @needs("detach", "cgroup.memory")
    def test_out_of_memory_is_told(self) -> None:
        options: dict[str, Any] = {"memory_swap": "32M"} if "cgroup.swap" in self.features else {}
        container = self.abandoned(f"eat {256 << 20}", memory="32M", **options)
        ended = container.wait(TIMEOUT)
        assert ended.reason == "oom" and ended.oom_kills >= 1
        self.gone(container)

    @needs("detach", "init")
    def test_with_init(self) -> None:
        container = self.abandoned("raise 9", init=True)
        ended = container.wait(TIMEOUT)
        assert (ended.reason, ended.signal, ended.code) == ("signaled", 9, None)
        self.gone(container)

    @needs("detach", "namespace.user", "user-mappings")
    def test_in_a_user_namespace(self) -> None:
        container = self.abandoned("say in", "exit 6", namespaces={"user": "private"})
        assert container.wait(TIMEOUT) == Exit(reason="exited", code=6)
        assert self.output(container) == b"in\n"
        self.gone(container)

    @needs("detach", "namespace.join")
    @pytest.mark.parametrize("kind", ["pid", "network", "ipc"])
    def test_in_namespaces_of_another(self, kind: str) -> None:
        if not host.capable("CAP_SYS_ADMIN"):
            host.lacking("CAP_SYS_ADMIN")
        other = self.start_ready("sleep")
        name = {"network": "net"}.get(kind, kind)
        path = f"/proc/{self.first_process(other)}/ns/{name}"
        if f"namespace.{kind}" not in self.features:
            host.lacking(f"namespace.{kind}")
        container = self.abandoned("say in", "exit 6", namespaces={kind: path})
        assert container.wait(TIMEOUT) == Exit(reason="exited", code=6)
        assert self.output(container) == b"in\n"
        self.gone(container)
        assert other.state == "running"

    @needs("detach", "namespace.host.pid", "kill-all")
    def test_all_of_it_ends_with_the_first(self) -> None:
        container = self.detached("spread 3 orphan", "exit 4", namespaces={"pid": "host"}, env={"KIT": self.id})
        assert container.wait(TIMEOUT).code == 4
        host.until(lambda: not host.with_variable(f"KIT={self.id}"), "all ended")
        self.gone(container)

    @needs("detach")
    def test_this_program_finds_it_as_others_do(self) -> None:
        container = self.detached("say out", "exit 3")
        assert container.stdin is container.stdout is container.stderr is None
        with self.new_engine() as other:
            again = other.get(self.id)
            assert again is not container and again.detached
            assert again.wait(TIMEOUT) == container.wait(TIMEOUT) == Exit(reason="exited", code=3)
            assert list(again.logs()) == list(container.logs())
        self.gone(container)

    @needs("detach")
    def test_it_outlives_its_engine_and_its_block(self) -> None:
        with self.new_engine() as engine:
            spec = self.spec("sleep")
            with engine.create(spec, driver=self.name, name=self.id, detach=True) as container:
                container.start()
        assert self.state_of(self.again()) == "running"

    @needs("detach")
    def test_one_that_was_not_started_ends_with_its_block(self) -> None:
        with self.new_engine() as engine:
            with engine.create(self.spec("sleep"), driver=self.name, name=self.id, detach=True):
                pass
            assert not self.stored()
            container = engine.create(self.spec("sleep"), driver=self.name, name=self.id, detach=True)
        assert not self.stored() and "deleted" in repr(container)

    @needs("detach")
    def test_who_waits_is_told_at_once(self) -> None:
        rootfs = self.own_rootfs()
        os.mkfifo(rootfs / "data/fifo")
        container = self.abandoned("read /data/fifo", "exit 7", rootfs=rootfs)
        engines = [self.new_engine() for _ in range(2)]
        ends: list[Exit] = []
        waiters = [container, container, *(engine.get(self.id) for engine in engines)]
        threads = [threading.Thread(target=lambda each=each: ends.append(each.wait(TIMEOUT))) for each in waiters]
        for thread in threads:
            thread.start()
        with open(rootfs / "data/fifo", "w"):
            pass
        for thread in threads:
            thread.join()
        assert ends == 4 * [Exit(reason="exited", code=7)]
        self.gone(container)

    @needs("detach", "recover")
    def test_waiters_in_two_programs_and_one_that_deletes(self) -> None:
        container = self.abandoned()
        read, write = os.pipe()

        def wait() -> int:
            found = self.new_engine().get(self.id)
            os.write(write, b".")
            ended = found.wait(TIMEOUT)
            return 0 if (ended.signal, ended.reason) in ((9, "signaled"), (None, "unknown")) else 1

        pids = [fork(wait) for _ in range(2)]
        assert len(os.read(read, 1) + os.read(read, 1)) == 2
        self.gone(container)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
        for fd in (read, write):
            os.close(fd)

    # --- what can be done with it

    @needs("detach", "exec")
    def test_exec_by_another_program(self) -> None:
        container = self.abandoned()
        with container.exec(args_of("say in", "exit 8"), stdin=DEVNULL, stdout=PIPE, stderr=PIPE) as process:
            assert process.communicate(timeout=TIMEOUT) == (b"in\n", b"")
            assert process.wait(TIMEOUT).code == 8
        assert self.state_of(container) == "running"
        self.gone(container)

    @needs("detach")
    def test_stop_by_another_program(self) -> None:
        container = self.abandoned("ignore 15", "sleep")
        ended = container.stop(timeout=0.05)
        assert ended.signal == 9
        self.gone(container)

    @needs("detach", "signal")
    def test_signal_by_another_program(self) -> None:
        rootfs = self.own_rootfs()
        container = self.abandoned("block", "write /data/ready", "catch 1", "exit 6", rootfs=rootfs)
        host.until((rootfs / "data/ready").exists, "it is ready")
        container.signal("USR1")
        assert container.wait(TIMEOUT) == Exit(reason="exited", code=6)
        self.gone(container)

    @needs("detach", "pause")
    def test_pause_by_another_program(self) -> None:
        container = self.abandoned("tick")
        container.pause()
        assert self.state_of(container) == "paused"
        container.resume()
        assert self.state_of(container) == "running"
        container.pause()
        self.gone(container)

    @needs("detach")
    def test_deleting_takes_its_monitor_along(self) -> None:
        container = self.abandoned()
        monitor = self.monitor_of(container)
        with pytest.raises(InvalidState):
            container.delete()
        assert host.alive(monitor)
        self.gone(container)
        assert not host.alive(monitor)

    @needs("detach")
    def test_a_monitor_that_hangs_is_no_obstacle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from execdrivers import supervision

        monkeypatch.setattr(supervision, "DEATH", 0.3)
        container = self.abandoned()
        monitor = self.monitor_of(container)
        os.kill(monitor, signal.SIGSTOP)
        self.gone(container)
        host.until(lambda: not host.alive(monitor), "the monitor ended")

    # --- deaths

    @needs("detach")
    def test_its_monitor_is_killed(self) -> None:
        container = self.abandoned()
        os.kill(self.monitor_of(container), signal.SIGKILL)
        time.sleep(0.1)
        assert self.state_of(container) == "running"
        assert container.poll() is None and host.alive(self.first_process(container))
        container.kill()
        ended = container.wait(TIMEOUT)
        assert ended.signal == 9 or ended.reason == "unknown"
        assert self.state_of(container) == "stopped"
        self.gone(container)

    @needs("detach")
    def test_its_monitor_is_killed_while_somebody_waits(self) -> None:
        container = self.abandoned()
        ends: list[Exit] = []
        thread = threading.Thread(target=lambda: ends.append(container.wait(TIMEOUT)))
        thread.start()
        os.kill(self.monitor_of(container), signal.SIGKILL)
        time.sleep(0.1)
        assert not ends and self.state_of(container) == "running"
        os.kill(self.first_process(container), signal.SIGKILL)
        thread.join()
        assert ends[0].signal == 9 or ends[0].reason == "unknown"
        self.gone(container)

    @needs("detach")
    def test_never_started(self) -> None:
        monitors: list[int] = []

        def make() -> object:
            engine = Engine(self.engine.root, registry=self.new_registry())
            return engine, engine.create(self.spec("sleep"), driver=self.name, name=self.id, detach=True)

        host.in_child(make, killed=True)
        try:
            container = self.again()
            monitors.append(self.monitor_of(container))
            assert self.state_of(container) in ("created", "stopped")
            with pytest.raises(InvalidState):
                container.start()
        except ContainerNotFound:
            pass  # the guard was faster
        self.engine.gc()
        host.until(lambda: not self.stored(), "it went")
        assert not any(map(host.alive, monitors))

    @needs("detach")
    def test_its_maker_is_killed_as_it_starts_it(self) -> None:
        """Nobody was told that it runs: it is none that ran."""

        def start(container: Container) -> None:
            handle = container._hold()
            monkey: Any = handle
            monkey.start = lambda: os.kill(os.getpid(), signal.SIGKILL)
            container.start()

        container = self.abandoned("say out", "sleep", start=False, before=start)
        ended = container.wait(TIMEOUT)
        assert ended.reason == "launch-failed" and "killed" in ended.error
        assert self.output(container) == b""
        self.gone(container)

    @needs("detach")
    def test_its_maker_is_killed_at_any_moment(self) -> None:
        chance = random.Random(self.name)
        for number in range(8):
            name = f"{self.id}-{number}"

            def make(name: str = name) -> None:
                registry = self.new_registry()
                registry.probe(self.name)  # which may try it out, and is not what is tested here
                engine = Engine(self.engine.root, registry=registry)
                timer = threading.Timer(chance.uniform(0, 0.08), lambda: os.kill(os.getpid(), signal.SIGKILL))
                timer.daemon = True
                timer.start()
                spec = self.spec("say out", "exit 4", env={"KIT": self.id})
                engine.create(spec, driver=self.name, name=name, detach=True).start()
                time.sleep(1)

            host.in_child(make, killed=True)
        host.until(lambda: not host.with_variable(f"KIT={self.id}"), "all ended")
        # What was made only in part goes, by the makers' guards or now; what was let go ran to its end.
        self.engine.gc()
        for container in self.engine.recover():
            if container.state in ("creating", "created"):
                continue
            ended = container.wait(TIMEOUT)
            assert ended == Exit(reason="exited", code=4) or ended.reason == "launch-failed", ended
            container.delete()
        host.until(lambda: self.engine.gc() or not self.stored(), "all went")
        host.until(lambda: not self.stored(), "all went")

    @needs("detach")
    def test_a_command_that_is_not_there_leaves_nothing(self) -> None:
        container = self.engine.create(
            self.spec(args=["/nosuch"]), driver=self.name, name=self.id, detach=True, remove=True
        )
        monitor = self.monitor_of(container)
        with pytest.raises(CommandNotFound):
            container.start()
        assert not self.stored() and not host.alive(monitor)
        assert container.exit is not None and container.exit.reason == "launch-failed"

    # --- what is left of it

    @needs("detach")
    def test_its_resources_are_freed_with_nobody_there(self) -> None:
        limits: dict[str, Any] = {"memory": "64M"} if "cgroup.memory" in self.features else {}
        container = self.abandoned("exit 3", **limits)
        record = Path(self.engine.root, self.id, "state.json")
        host.until(lambda: '"status":"stopped"' in record.read_text(), "it was concluded by its aftermath")
        assert '"handle"' not in record.read_text()
        assert self.engine.gc() == []
        assert container.exit == Exit(reason="exited", code=3)
        self.gone(container)

    @needs("detach")
    def test_its_record_goes_where_that_was_asked_for(self) -> None:
        container = self.detached("exit 3", remove=True)
        assert container.wait(TIMEOUT) == Exit(reason="exited", code=3)
        host.until(lambda: not self.stored(), "its record went")
        with pytest.raises(ContainerNotFound):
            self.engine.get(self.id)
        self.detached("exit 3", remove=True)
        host.until(lambda: not self.stored(), "its record went with nobody there")
        self.orphans.clear()

    @needs("detach")
    def test_nobody_but_gc_is_there(self) -> None:
        """The monitor is killed with the container, so that nothing is started after its end."""
        container = self.abandoned()
        pid, monitor = self.first_process(container), self.monitor_of(container)
        os.kill(monitor, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        host.until(lambda: not host.alive(pid) and not host.alive(monitor), "both ended")
        assert [(item.id, item.what) for item in self.engine.gc(dry_run=True)] == [(self.id, "resources")]
        assert [(item.id, item.what, item.error) for item in self.engine.gc()] == [(self.id, "resources", None)]
        assert self.engine.gc() == []
        assert self.state_of(container) == "stopped"
        self.gone(container)

    @needs("detach")
    def test_all_are_recovered(self) -> None:
        self.abandoned()
        found = {container.id: container for container in self.engine.recover()}
        assert found[self.id].state == "running" and found[self.id].detached
        assert self.engine.gc() == []
        self.gone(found[self.id])

    # --- stdio

    @needs("detach")
    def test_nothing_of_its_output_is_lost(self) -> None:
        container = self.abandoned(f"emit {3 << 20}", log=self.much())
        assert container.wait(TIMEOUT).ok
        assert len(self.output(container)) == 3 << 20
        self.gone(container)

    def much(self) -> Any:
        """Log options."""
        from execdrivers.monitor import LogOptions

        return LogOptions(max_size="64M")

    @needs("detach")
    def test_followers_see_the_end(self) -> None:
        rootfs = self.own_rootfs()
        os.mkfifo(rootfs / "data/fifo")
        container = self.abandoned("say one", "read /data/fifo", "say two", rootfs=rootfs)
        entries = container.logs(follow=True)
        assert next(entries).data == b"one\n"
        with open(rootfs / "data/fifo", "w"):
            pass
        assert [entry.data for entry in entries][-1] == b"two\n"
        self.gone(container)

    @needs("detach")
    def test_files_are_written_directly(self) -> None:
        path = self.tmp / "out"
        with open(path, "wb") as file:
            container = self.abandoned("say out", "complain err", stdout=file, stderr=DEVNULL)
        assert container.wait(TIMEOUT).ok
        assert path.read_bytes() == b"out\n" and not list(container.logs())
        self.gone(container)

    @needs("detach")
    def test_its_input_is_empty_unless_asked_for(self) -> None:
        container = self.detached("cat")
        assert container.wait(TIMEOUT).ok and self.output(container) == b""
        self.gone(container)

    @needs("detach")
    def test_its_input_stays_open(self) -> None:
        container = self.abandoned("line", "line", stdin=PIPE)
        with container.attach() as first:
            first.write(b"one\n")
            assert next(iter(first))[0] == "stdout"
        with self.new_engine() as other, other.get(self.id).attach() as second:
            second.write(b"two\n")
            assert b"two" in b"".join(data for _, data in second)
            assert second.exit is None or second.exit.ok
        assert container.wait(TIMEOUT).ok
        assert b"one" in self.output(container)
        self.gone(container)

    @needs("detach")
    def test_the_end_of_its_input(self) -> None:
        container = self.abandoned("cat", stdin=PIPE)
        with container.attach() as attachment:
            attachment.write(b"all")
            attachment.close_stdin()
            assert b"".join(data for _, data in attachment) == b"all"
        assert container.wait(TIMEOUT).ok
        self.gone(container)

    @needs("detach", "tty")
    def test_its_terminal(self) -> None:
        container = self.abandoned("block 28", "say ready", "resize", stdin=PIPE, tty=True, console_size=(7, 11))
        host.until(lambda: b"ready" in self.output(container), "it is ready")
        container.resize(20, 80)
        assert container.wait(TIMEOUT).ok
        seen = self.output(container)
        assert b"ready\r\n" in seen and b"20" in seen and b"80" in seen, seen
        self.gone(container)

    @needs("detach", "tty")
    def test_typing_into_its_terminal(self) -> None:
        container = self.abandoned("line", stdin=PIPE, tty=True)
        with container.attach() as attachment:
            attachment.write(b"typed\r")
            assert b"typed" in b"".join(data for _, data in attachment)
        assert container.wait(TIMEOUT).ok
        self.gone(container)

    @needs("detach")
    def test_nobody_attaches_after_the_end(self) -> None:
        container = self.abandoned("exit 0")
        container.wait(TIMEOUT)
        with pytest.raises(InvalidState):
            container.attach()
        with pytest.raises(InvalidState):
            container.resize(20, 80)
        self.gone(container)

    @needs("detach")
    @pytest.mark.parametrize("given", [{"stdin": b"x"}, {"stdout": lambda data: None}, {"stderr": print}])
    def test_what_needs_this_program_is_refused(self, given: dict[str, Any]) -> None:
        with pytest.raises(SpecError, match="outlive"):
            self.detached(**given)
        assert not self.stored()

    def test_the_options_are_for_detached_ones(self) -> None:
        with pytest.raises(SpecError, match="detach"):
            self.create("sleep", log=self.much())
        with pytest.raises(SpecError, match="detach"):
            self.create("sleep", remove=True)
        with pytest.raises(InvalidState, match="detach=True"):
            list(self.create("sleep").logs())
