"""How it ended, told truly: code, signal, memory, timeout, and commands that could not be executed."""

from __future__ import annotations

import signal
import time

import pytest

from execdrivers import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerError,
    ContainerTimeout,
    LaunchError,
    SpecError,
)
from execdrivers.exit import Exit
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestExit"]


class TestExit(Kit):
    """`Exit` in each case; a command not found is not an exit of the command."""

    @pytest.mark.parametrize("code", [0, 1, 2, 42, 124, 125, 126, 127, 128, 129, 137, 143, 254, 255])
    def test_codes(self, code: int) -> None:
        assert self.run(f"exit {code}").exit == Exit(reason="exited", code=code)

    def test_exit_137_is_not_sigkill(self) -> None:
        exited = self.run("exit 137").exit
        container = self.start_ready()
        container.kill()
        killed = container.wait(20)
        assert (exited.reason, exited.code, exited.signal) == ("exited", 137, None)
        assert (killed.reason, killed.code, killed.signal) == ("signaled", None, 9)
        assert exited.status == killed.status == 137

    @pytest.mark.parametrize("number", [signal.SIGKILL])
    def test_ended_by_a_signal_from_outside(self, number: int) -> None:
        import os

        container = self.start_ready()
        os.kill(self.first_process(container), number)
        assert container.wait(20) == Exit(reason="signaled", signal=number)

    @needs("init")
    @pytest.mark.parametrize(
        "name", "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM XCPU".split()
    )
    def test_ended_by_a_signal_from_inside(self, name: str) -> None:
        number = getattr(signal, f"SIG{name}")
        assert self.run(f"raise {number}", init=True, rlimits=self._no_core()).exit == Exit(
            reason="signaled", signal=number
        )

    @needs("init")
    def test_ended_by_a_real_time_signal(self) -> None:
        number = int(signal.SIGRTMIN) + 3
        assert self.run(f"raise {number}", init=True).exit == Exit(reason="signaled", signal=number)

    @needs("namespace.host.pid")
    def test_ended_by_its_own_signal_without_a_pid_namespace(self) -> None:
        done = self.run("raise 9", namespaces={"pid": "host"})
        assert done.exit == Exit(reason="signaled", signal=9)
        assert (done.returncode, done.exit.status) == (-9, 137)

    def test_returncode_is_as_subprocess(self) -> None:
        assert self.run("exit 5").returncode == 5
        container = self.start_ready()
        container.kill()
        container.wait(20)
        assert container.returncode == -9

    def test_check(self) -> None:
        with pytest.raises(ContainerError) as caught:
            self.run("say out", "exit 3", check=True)
        assert caught.value.returncode == 3 and caught.value.stdout == b"out\n"
        self.run("exit 0", check=True)

    # --- timeouts

    def test_timeout(self) -> None:
        began = time.monotonic()
        with pytest.raises(ContainerTimeout) as caught:
            self.run("say begun", "spread 2", "sleep", timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 10
        assert caught.value.stdout == b"begun\n"
        assert caught.value.exit.reason == "timeout" and caught.value.exit.status == 124

    def test_timeout_of_one_that_does_not_listen(self) -> None:
        with pytest.raises(ContainerTimeout):
            self.run("ignore 1 2 3 15", "sleep", timeout=0.1)

    def test_ended_in_time(self) -> None:
        assert self.run("exit 1", timeout=30).exit.reason == "exited"

    # --- what cannot be executed

    @pytest.mark.parametrize("command", ["no-such", "/no/such", "./no-such", "/etc/passwd/x", "../no/such"])
    def test_command_not_found(self, command: str) -> None:
        with pytest.raises(CommandNotFound) as caught:
            self.run(args=[command, "x"])
        self._assert_launch_failed(caught.value, 127)
        assert caught.value.errno in (2, 20)

    @pytest.mark.parametrize("command", ["/etc/passwd", "/etc", "/data/plain", "/data/garbage"])
    def test_command_not_executable(self, command: str) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "data/plain").write_text("#!/bin/probe\n")
        (rootfs / "data/garbage").write_bytes(b"\x01\x02\x03")
        (rootfs / "data/garbage").chmod(0o755)
        with pytest.raises(CommandNotExecutable) as caught:
            self.run(args=[command], rootfs=rootfs)
        self._assert_launch_failed(caught.value, 126)

    def test_command_without_its_interpreter_is_not_found(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "bin/script").write_text("#!/no/such/interpreter\n")
        (rootfs / "bin/script").chmod(0o755)
        with pytest.raises(CommandNotFound):
            self.run(args=["/bin/script"], rootfs=rootfs)

    def test_script_with_an_interpreter_runs(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "bin/script").write_text("#!/bin/probe say\n")
        (rootfs / "bin/script").chmod(0o755)
        # The kernel makes it: /bin/probe say /bin/script
        assert self.run(args=["/bin/script"], rootfs=rootfs).returncode in (0, 2)

    @needs("user", "other-users")
    def test_command_of_another_user_is_not_executable(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "bin/private").write_bytes((rootfs / "bin/probe").read_bytes())
        (rootfs / "bin/private").chmod(0o700)
        with pytest.raises(CommandNotExecutable):
            self.run(args=["/bin/private"], rootfs=rootfs, user="1000:1000")

    @needs("init")
    def test_not_found_and_not_executable_with_init(self) -> None:
        with pytest.raises(CommandNotFound):
            self.run(args=["no-such"], init=True)
        with pytest.raises(CommandNotExecutable):
            self.run(args=["/etc/passwd"], init=True)

    def test_command_is_looked_up_in_the_containers_path(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "bin/probe").rename(rootfs / "srv/only-here")
        done = self.run(args=["only-here", "say", "found"], rootfs=rootfs, env={"PATH": "/bin:/srv"})
        assert done.stdout == b"found\n"
        with pytest.raises(CommandNotFound):
            self.run(args=["only-here"], rootfs=rootfs, env={"PATH": "/bin:/usr/bin"})

    def test_commands_of_the_host_are_not_found(self) -> None:
        with pytest.raises(CommandNotFound):
            self.run(args=["cat"])

    @needs("cwd")
    def test_missing_directory_is_not_a_missing_command(self) -> None:
        with pytest.raises(LaunchError) as caught:
            self.run("say x", cwd="/no/such")
        assert not isinstance(caught.value, (CommandNotFound, CommandNotExecutable))
        self._assert_launch_failed(caught.value, 125)
        assert "/no/such" in str(caught.value)

    @pytest.mark.parametrize("kind", ["missing", "file"])
    def test_bad_rootfs(self, kind: str) -> None:
        (self.tmp / "file").touch()
        with pytest.raises(SpecError) as caught:
            self.run("say x", rootfs=self.tmp / kind)
        assert caught.value.field == "rootfs"

    def test_too_many_arguments_are_a_launch_error(self) -> None:
        with pytest.raises(LaunchError) as caught:
            self.run(args=["/bin/probe", *["x" * 100_000] * 100])
        assert caught.value.exit.reason == "launch-failed"

    def test_after_a_failed_start_the_container_is_gone(self) -> None:
        try:
            container = self.create(args=["/no/such"])
        except CommandNotFound:
            return
        with pytest.raises(CommandNotFound):
            container.start()
        assert container.exit is not None and container.exit.reason == "launch-failed"
        assert self.stored() == []

    def test_end_of_the_first_process_from_outside_is_seen(self) -> None:
        import os

        container = self.start_ready("spread 1", "sleep")
        os.kill(self.first_process(container), signal.SIGKILL)
        assert container.wait(20).signal == 9

    def test_reasons_are_in_the_record(self) -> None:
        container = self.start("exit 137", name=self.id)
        container.wait(20)
        with self.new_engine() as other:
            found = other.get(self.id).exit
        assert found == Exit(reason="exited", code=137)

    def _no_core(self) -> dict[str, int] | None:
        return {"core": 0} if "rlimits" in self.features else None

    def _assert_launch_failed(self, error: LaunchError, code: int) -> None:
        assert (error.exit.reason, error.exit.code) == ("launch-failed", code), error
        assert error.step and error.remedy, repr(error)
        host.until(lambda: self.stored() == [], "nothing is stored")
