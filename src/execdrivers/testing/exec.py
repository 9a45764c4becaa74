"""Further processes in a running container."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from execdrivers import PIPE, CommandNotExecutable, CommandNotFound, InvalidState, LaunchError
from execdrivers.container import Container
from execdrivers.exit import Exit
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Command, Kit, args_of
from execdrivers.testing.program import Report, emitted

__all__ = ["TestExec"]


class TestExec(Kit):
    """`Container.exec`: the same container, another process, its own end."""

    def execute(
        self, container: Container, *commands: Command, input: bytes | None = None, **options: Any
    ) -> tuple[Exit, bytes, bytes]:
        """Run commands in it to their end: the exit, output and errors."""
        with container.exec(args_of(*commands), stdin=PIPE, stdout=PIPE, stderr=PIPE, **options) as process:
            out, err = process.communicate(input, timeout=TIMEOUT)
            ended = process.wait(TIMEOUT)
        return ended, out or b"", err or b""

    def executed_report(self, container: Container, **options: Any) -> Report:
        """What such a process finds out about itself."""
        ended, out, err = self.execute(container, "report", **options)
        assert ended.ok and not err, (ended, err)
        return Report.parse(out)

    @needs("exec")
    def test_output_and_exit(self) -> None:
        container = self.start_ready()
        assert self.execute(container, "say out", "complain err", "exit 7") == (
            Exit(reason="exited", code=7), b"out\n", b"err\n",
        )  # fmt: skip
        assert container.state == "running"

    @needs("exec")
    @pytest.mark.parametrize("code", [0, 1, 126, 127, 137, 255])
    def test_codes(self, code: int) -> None:
        assert self.execute(self.start_ready(), f"exit {code}")[0] == Exit(reason="exited", code=code)

    @needs("exec")
    @pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV", "USR1", "RTMIN"])
    def test_ended_by_a_signal_is_told(self, name: str) -> None:
        number = int(getattr(signal, f"SIG{name}"))
        ended = self.execute(self.start_ready(), f"raise {number}")[0]
        assert (ended.reason, ended.signal, ended.code) == ("signaled", number, None)

    @needs("exec")
    def test_input(self) -> None:
        assert self.execute(self.start_ready(), "cat", input=emitted(200_000))[1] == emitted(200_000)

    @needs("exec")
    def test_much_output(self) -> None:
        assert len(self.execute(self.start_ready(), f"emit {1 << 20}", f"emit {1 << 18} 2")[1]) == 1 << 20

    @needs("exec")
    def test_signals_arrive(self) -> None:
        container = self.start_ready()
        numbers = [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGRTMIN + 2]
        with container.exec(args_of(f"catch {len(numbers)}", "exit 3"), stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            for number in numbers:
                process.signal(number)
                assert host.read_line(process.stdout) == str(int(number))
            assert process.wait(TIMEOUT).code == 3
        assert container.state == "running"

    @needs("exec")
    def test_kill_ends_only_it(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("say ready", "sleep"), stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            process.kill()
            assert process.wait(TIMEOUT) == Exit(reason="signaled", signal=9)
        assert container.state == "running"

    @needs("exec")
    def test_pid_and_poll(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("say ready", "line", "exit 4"), stdin=PIPE, stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            assert process.poll() is None and process.returncode is None
            assert process.pid is not None and process.pid != container.pid
            assert host.status(process.pid)["Name"] == "probe"
            process.communicate(b"\n", timeout=TIMEOUT)
            ended = process.poll()
            assert ended is not None and ended.code == 4 and process.returncode == 4

    @needs("exec")
    def test_same_namespaces_root_and_cgroups(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("say ready", "sleep"), stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            assert process.pid is not None
            first = self.first_process(container)
            assert host.namespaces(process.pid) == host.namespaces(first)
            ours, theirs = host.cgroup_paths(process.pid), host.cgroup_paths(first)
            for controller in ("memory", "pids", "cpu", "freezer", "devices"):
                assert ours.get(controller) == theirs.get(controller), controller
            process.kill()

    @needs("exec", "cgroup.pids")
    def test_under_the_containers_limits(self) -> None:
        container = self.start_ready(pids=8)
        out = self.execute(container, "fork 30")[1]
        assert b'"errno":11' in out

    @needs("exec", "cgroup.memory")
    def test_out_of_memory_ends_it(self) -> None:
        options: dict[str, Any] = {"memory": "32M"}
        if "cgroup.swap" in self.features:
            options["memory_swap"] = "32M"
        container = self.start_ready(**options)
        ended, out, _ = self.execute(container, f"eat {256 << 20}", "say survived")
        assert ended.signal == 9 and b"survived" not in out

    @needs("exec")
    def test_sees_the_containers_files(self) -> None:
        rootfs = self.own_rootfs()
        container = self.start_ready("write /data/first x", "say wrote", "sleep", rootfs=rootfs)
        assert '"errno":0' in host.read_line(container.stdout)
        assert b'"result":"x"' in self.execute(container, "read /data/first")[1]

    @needs("exec")
    def test_environment(self) -> None:
        container = self.start_ready(env={"A": "first", "B": "two"})
        env = self.executed_report(container, env={"A": "other", "C": "new one"}).env
        assert (env["A"], env["B"], env["C"]) == ("other", "two", "new one")
        assert "/bin" in env["PATH"] and "PYTEST_CURRENT_TEST" not in env

    @needs("exec")
    def test_arguments(self) -> None:
        words = ["", "two words", "a=b", "'\"$x\\", "#", "line\nbreak", "grün"]
        report = Report.parse(self.execute(self.start_ready(), "report", ["say", *words])[1].split(b"\n")[0])
        assert report["argv"][4:] == words

    @needs("exec", "cwd")
    def test_directory(self) -> None:
        assert self.executed_report(self.start_ready(cwd="/usr"), cwd="/home/alice")["cwd"] == "/home/alice"
        assert self.executed_report(self.start_ready(cwd="/usr"))["cwd"] == "/usr"

    @needs("exec", "user", "other-users")
    def test_user(self) -> None:
        report = self.executed_report(self.start_ready(), user="alice")
        assert report["uid"] == [1000] * 3 and report["gid"] == [1000] * 3
        assert set(report["groups"]) - {1000} == {10, 100}
        assert not report.capabilities("effective")

    @needs("exec", "user", "other-users")
    def test_user_by_number(self) -> None:
        report = self.executed_report(self.start_ready(), user="4321:1234")
        assert (report["uid"], report["gid"]) == ([4321] * 3, [1234] * 3)

    @needs("exec", "user", "groups")
    def test_groups(self) -> None:
        report = self.executed_report(self.start_ready(), user="4321:1234", additional_gids=[7, 8])
        assert set(report["groups"]) - {1234} == {7, 8}

    @needs("exec", "user")
    def test_user_is_the_containers_otherwise(self) -> None:
        assert self.executed_report(self.start_ready(user="1000:1000"))["uid"] == [1000] * 3

    @needs("exec", "umask")
    def test_umask(self) -> None:
        assert self.executed_report(self.start_ready(), umask=0o077)["umask"] == 0o077

    @needs("exec", "rlimits")
    def test_rlimits(self) -> None:
        container = self.start_ready(rlimits={"nofile": 99})
        assert self.executed_report(container)["rlimits"]["NOFILE"] == [99, 99]
        assert self.executed_report(container, rlimits={"nofile": (44, 55)})["rlimits"]["NOFILE"] == [44, 55]

    @needs("exec", "capabilities")
    def test_capabilities_are_the_containers(self) -> None:
        container = self.start_ready(capabilities={"drop": ["ALL"], "add": ["KILL"]})
        report = self.executed_report(container)
        for kind in ("effective", "permitted", "bounding"):
            assert report.capabilities(kind) == {"CAP_KILL"}, kind

    @needs("exec", "capabilities")
    def test_capabilities(self) -> None:
        report = self.executed_report(self.start_ready(), capabilities={"drop": ["ALL"]})
        for kind in ("effective", "permitted", "bounding"):
            assert not report.capabilities(kind), kind

    @needs("exec", "no-new-privileges")
    def test_no_new_privileges(self) -> None:
        assert self.executed_report(self.start_ready())["no_new_privs"] == 1

    @needs("exec", "seccomp", asked={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}})
    def test_seccomp_is_the_containers(self) -> None:
        container = self.start_ready()
        assert self.executed_report(container)["seccomp"] == int(host.status(self.first_process(container))["Seccomp"])

    @needs("exec")
    def test_no_descriptors_but_the_three(self) -> None:
        assert sorted(self.executed_report(self.start_ready())["fds"]) == ["0", "1", "2"]

    @needs("exec")
    def test_signals_are_neither_blocked_nor_ignored(self) -> None:
        report = self.executed_report(self.start_ready())
        assert (report["blocked"], report["ignored"]) == ([], [])

    @needs("exec", "tty")
    def test_terminal(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("report"), tty=True, console_size=(7, 77), stdout=PIPE) as process:
            report = Report.parse(host.read_line(process.stdout).encode())
            assert process.wait(TIMEOUT).code == 0
        assert report["winsize"] == [7, 77] and report["controlling"]
        assert {item["tty"] for item in report["fds"].values()} == {1}

    @needs("exec", "tty")
    def test_terminal_input_and_interrupt(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("catch 1"), tty=True, stdin=PIPE, stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            assert process.terminal is not None
            process.terminal.write(b"\x03")
            host.until(lambda: host.read_line(process.stdout).endswith("2"), "SIGINT came")
            assert process.wait(TIMEOUT).code == 0

    @needs("exec", "tty")
    def test_terminal_resize(self) -> None:
        with self.start_ready().exec(args_of("resize"), tty=True, stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            assert process.terminal is not None
            process.terminal.resize(12, 34)
            assert host.read_line(process.stdout) == "12 34"

    @needs("exec")
    @pytest.mark.parametrize("command", ["no-such", "/no/such"])
    def test_command_not_found(self, command: str) -> None:
        container = self.start_ready()
        with pytest.raises(CommandNotFound) as caught:
            container.exec([command])
        assert caught.value.exit.code == 127
        assert container.state == "running"

    @needs("exec")
    def test_command_not_executable(self) -> None:
        container = self.start_ready()
        with pytest.raises(CommandNotExecutable) as caught:
            container.exec(["/etc/passwd"])
        assert caught.value.exit.code == 126

    @needs("exec", "cwd")
    def test_missing_directory(self) -> None:
        container = self.start_ready()
        with pytest.raises(LaunchError) as caught:
            container.exec(args_of("say x"), cwd="/no/such")
        assert caught.value.exit.code == 125
        assert container.state == "running"

    @needs("exec")
    def test_ends_with_the_container(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("spread 2", "say ready", "sleep"), stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            pid = process.pid
            container.kill()
            container.wait(TIMEOUT)
            host.until(lambda: pid is None or not host.alive(pid), "it ended")
            assert process.wait(TIMEOUT).reason in ("signaled", "unknown")

    @needs("exec")
    def test_several_at_once(self) -> None:
        container = self.start_ready()
        processes = [container.exec(args_of("line", f"exit {number}"), stdin=PIPE, stdout=PIPE) for number in range(4)]
        for process in reversed(processes):
            process.communicate(b"\n", timeout=TIMEOUT)
        assert [process.wait(TIMEOUT).code for process in processes] == [0, 1, 2, 3]
        for process in processes:
            process.close()

    @needs("exec")
    def test_after_the_end_is_refused(self) -> None:
        container = self.start("exit 0")
        container.wait(TIMEOUT)
        with pytest.raises(InvalidState):
            container.exec(args_of("say x"))

    @needs("exec")
    def test_before_the_start_is_refused(self) -> None:
        with pytest.raises(InvalidState):
            self.create().exec(args_of("say x"))

    @needs("exec", "init")
    def test_with_init(self) -> None:
        container = self.start_ready(init=True)
        assert self.execute(container, "exit 9")[0].code == 9
        assert self.execute(container, "raise 9")[0].signal == 9

    @needs("exec", "recover")
    def test_from_another_program(self) -> None:
        self.start_ready(name=self.id)

        def other() -> None:
            words = args_of("say x", "exit 5")
            with self.new_engine() as engine, engine.get(self.id).exec(words, stdout=PIPE) as process:
                assert process.communicate(timeout=TIMEOUT)[0] == b"x\n"
                assert process.wait(TIMEOUT).code == 5

        host.in_child(other)

    @needs("exec", "pids")
    def test_its_pid_is_among_the_containers(self) -> None:
        container = self.start_ready()
        with container.exec(args_of("say ready", "sleep"), stdout=PIPE) as process:
            assert host.read_line(process.stdout) == "ready"
            assert process.pid in container.pids()
            process.kill()
