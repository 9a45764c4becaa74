"""Landlock: files, ports, sockets and signals, restricted beside all other containment."""

from __future__ import annotations

import socket

import pytest

from execdrivers import PIPE, CommandNotExecutable, Container, LaunchError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Command, Kit, args_of
from execdrivers.testing.program import COMMAND, Attempt

__all__ = ["TestLandlock"]

#: Enough for the probe program, which is static.
_PROBE = {"execute": [COMMAND]}


class TestLandlock(Kit):
    """What the rules do not list is denied with EACCES (EPERM where a scope ends); all else goes on."""

    @needs("landlock")
    def test_only_what_is_listed_can_be_read(self) -> None:
        rules = {**_PROBE, "read": ["/etc/passwd"]}
        tried = self.attempts("read /etc/passwd", "read /etc/group", "truncate /etc/passwd", landlock=rules)
        assert [attempt.errno for attempt in tried] == ["", "EACCES", "EACCES"]

    @needs("landlock")
    def test_only_what_is_listed_can_be_written(self) -> None:
        commands = ("mkdir /tmp/d", "write /tmp/f x", "read /tmp/f", "unlink /tmp/f", "mkdir /run/d", "write /tmp/f x")
        tried = self.attempts(*commands, landlock={**_PROBE, "write": ["/tmp"]}, rootfs=self.own_rootfs())
        assert [attempt.errno for attempt in tried] == ["", "", "", "", "EACCES", ""]

    @needs("landlock")
    def test_what_can_be_read_cannot_be_truncated(self) -> None:
        root = self.own_rootfs()
        tried = self.attempt("truncate", "/etc/passwd", landlock={**_PROBE, "read": ["/"]}, rootfs=root)
        assert tried.errno == "EACCES"
        assert (root / "etc/passwd").stat().st_size

    @needs("landlock")
    def test_only_what_is_listed_can_be_executed(self) -> None:
        root = self.own_rootfs()
        other = root / "bin/other"
        other.write_bytes((root / "bin/probe").read_bytes())
        other.chmod(0o755)
        tried = self.attempt("spawn", "/bin/other", landlock={**_PROBE, "read": ["/"]}, rootfs=root)
        assert tried.errno == "EACCES"
        assert self.attempt("spawn", "/bin/other", landlock={"execute": ["/bin"]}, rootfs=root).errno == ""

    @needs("landlock")
    def test_a_command_that_is_not_listed_is_not_executable(self) -> None:
        with pytest.raises(CommandNotExecutable, match="Permission denied"):
            self.run(landlock={"read": ["/"]})

    @needs("landlock")
    def test_a_path_that_is_not_there_is_named(self) -> None:
        with pytest.raises(LaunchError, match="/nowhere") as raised:
            self.run(landlock={**_PROBE, "read": ["/nowhere"]})
        assert raised.value.step == "landlock"

    @needs("landlock", "capabilities")
    def test_mounts_and_roots_stay_as_they_are(self) -> None:
        if not host.capable("CAP_SYS_ADMIN"):
            host.lacking("CAP_SYS_ADMIN")
        rules = {"execute": ["/"], "write": ["/"]}
        tried = self.attempt("mount", "none", "/tmp", "tmpfs", landlock=rules, capabilities={"add": ["SYS_ADMIN"]})
        assert tried.errno == "EPERM"

    @needs("landlock", "exec")
    def test_more_processes_are_restricted_too(self) -> None:
        container = self.start_ready(landlock={**_PROBE, "read": ["/etc/passwd"]})
        tried = self.executed(container, "read /etc/passwd", "read /etc/group")
        assert [attempt.errno for attempt in tried] == ["", "EACCES"]

    @needs("landlock", "init")
    def test_under_an_init(self) -> None:
        tried = self.attempts("read /etc/passwd", "write /tmp/x y", landlock={**_PROBE, "read": ["/etc"]}, init=True)
        assert [attempt.errno for attempt in tried] == ["", "EACCES"]

    @needs("landlock.ports")
    def test_only_ports_that_are_listed(self) -> None:
        """Nobody listens there: where the rules allow it the connection is refused by the network."""
        tried = self.attempts("connect", "connect 7", "connect 8", landlock={"bind": [], "connect": [8]})
        assert [attempt.errno for attempt in tried] == ["EACCES", "EACCES", "ECONNREFUSED"]

    @needs("landlock.ports")
    def test_a_port_of_the_kernels_choice(self) -> None:
        assert self.attempt("connect", landlock={"bind": [0]}).errno == ""

    @needs("landlock.scopes", "network.host")
    def test_abstract_sockets_outside(self) -> None:
        name = f"execdrivers-{self.id}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{name}")
            listener.listen()
            assert self.attempt("connect-abstract", name, network="host").errno == ""
            scoped = {"scopes": ["abstract-unix-socket"]}
            assert self.attempt("connect-abstract", name, network="host", landlock=scoped).errno == "EPERM"

    @needs("landlock.scopes", "exec")
    def test_signals_to_others(self) -> None:
        """Each process that joins the container has rules of its own, and the first is outside of them."""
        container = self.start_ready(landlock={"scopes": ["signal"]})
        assert self.executed(container, "kill 1 0")[0].errno == "EPERM"

    def executed(self, container: Container, *commands: Command) -> list[Attempt]:
        """What comes of these commands, executed in the container."""
        with container.exec(args_of(*commands), stdout=PIPE) as process:
            output = process.communicate()[0]
        assert isinstance(output, bytes)
        return [Attempt.parse(line) for line in output.splitlines()]
