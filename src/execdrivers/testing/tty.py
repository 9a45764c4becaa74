"""Terminals: the process has one, and it behaves as one."""

from __future__ import annotations

import os

from execdrivers.container import Container
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Kit
from execdrivers.testing.program import Report

__all__ = ["TestTty"]

_ASKED = {"tty": True}


class TestTty(Kit):
    """``tty=True``, and what follows from it."""

    def lines(self, container: Container, count: int) -> list[str]:
        """So many lines of the terminal's output."""
        return [host.read_line(container.stdout) for _ in range(count)]

    def terminal_report(self, **options: object) -> Report:
        """What the process finds out about its terminal."""
        done = self.run("report", tty=True, **options)
        assert done.returncode == 0
        return Report.parse(done.stdout)

    @needs("tty")
    def test_all_three_streams_are_the_terminal(self) -> None:
        fds = self.terminal_report()["fds"]
        assert {name: item["tty"] for name, item in fds.items()} == {"0": 1, "1": 1, "2": 1}
        assert {item["flags"] & 3 for item in fds.values()} == {os.O_RDWR}

    @needs("tty")
    def test_it_is_the_controlling_terminal(self) -> None:
        report = self.terminal_report()
        assert report["controlling"] and report["foreground"]
        assert report["sid"] == report["pgid"] or report["pid"] == 1

    @needs("tty")
    def test_size(self) -> None:
        assert self.terminal_report(console_size=(33, 111))["winsize"] == [33, 111]

    @needs("tty")
    def test_resize(self) -> None:
        container = self.start("resize", tty=True, console_size=(10, 20))
        assert host.read_line(container.stdout) == "ready"
        assert container.terminal is not None
        container.terminal.resize(40, 132)
        assert host.read_line(container.stdout) == "40 132"

    @needs("tty")
    def test_environment_has_term(self) -> None:
        assert self.terminal_report().env["TERM"]
        assert self.terminal_report(env={"TERM": "vt52"}).env["TERM"] == "vt52"

    @needs("tty")
    def test_output_and_errors_are_one_stream(self) -> None:
        done = self.run("say out", "complain err", tty=True)
        assert sorted(done.stdout.replace(b"\r", b"").split()) == [b"err", b"out"] and not done.stderr

    @needs("tty")
    def test_line_ends_are_a_terminals(self) -> None:
        assert self.run("say x", tty=True).stdout == b"x\r\n"

    @needs("tty")
    def test_input_is_echoed_and_comes_by_line(self) -> None:
        container = self.start("line", tty=True)
        assert container.stdin is not None
        container.stdin.write(b"hello\n")
        assert self.lines(container, 2) == ["hello", "hello"]

    @needs("tty")
    def test_input_of_run(self) -> None:
        done = self.run("cat", tty=True, input=b"one\n")
        assert done.stdout.replace(b"\r", b"").count(b"one\n") == 2

    @needs("tty")
    def test_end_of_input(self) -> None:
        container = self.start("cat", "say end", tty=True)
        assert container.stdin is not None
        container.stdin.write(b"\x04")
        host.until(lambda: b"end" in host.read_line(container.stdout).encode(), "the input ended")

    @needs("tty")
    def test_interrupt_character(self) -> None:
        container = self.start("catch 1", tty=True)
        assert host.read_line(container.stdout) == "ready"
        assert container.stdin is not None
        container.stdin.write(b"\x03")
        host.until(lambda: host.read_line(container.stdout).endswith("2"), "SIGINT came")
        assert container.wait(TIMEOUT).code == 0

    @needs("tty")
    def test_much_output(self) -> None:
        done = self.run("emit 200000", tty=True)
        # Line feeds become two bytes.
        assert len(done.stdout.replace(b"\r\n", b"\n")) == 200_000

    @needs("tty")
    def test_exit_is_told_as_without(self) -> None:
        assert self.run("exit 137", tty=True).exit.code == 137
        container = self.start("say ready", "sleep", tty=True)
        assert host.read_line(container.stdout) == "ready"
        container.kill()
        assert container.wait(TIMEOUT).signal == 9

    @needs("tty")
    def test_command_not_found(self) -> None:
        import pytest

        from execdrivers import CommandNotFound

        with pytest.raises(CommandNotFound):
            self.run(args=["/no/such"], tty=True)

    @needs("tty", "user")
    def test_another_user_may_use_it(self) -> None:
        report = self.terminal_report(user="1000:1000")
        assert report["controlling"] and report["uid"][0] == 1000

    @needs("tty")
    def test_other_containers_have_others(self) -> None:
        one = self.start("say ready", "line", tty=True)
        two = self.start("say ready", "line", tty=True)
        for container in (one, two):
            assert host.read_line(container.stdout) == "ready"
        names = [os.readlink(f"/proc/{container.pid}/fd/0") for container in (one, two)]
        stats = [os.stat(f"/proc/{container.pid}/fd/0") for container in (one, two)]
        assert (stats[0].st_dev, stats[0].st_rdev) != (stats[1].st_dev, stats[1].st_rdev), names

    @needs("tty", asked=_ASKED)
    def test_none_unless_asked_for(self) -> None:
        report = self.by_default()
        assert not report["controlling"] and not any(item["tty"] for item in report["fds"].values())

    @needs("tty", "mount.devpts", "namespace.mount")
    def test_its_name_leads_to_it(self) -> None:
        container = self.start("say ready", "line", "report", tty=True)
        assert host.read_line(container.stdout) == "ready"
        assert container.stdin is not None
        container.stdin.write(b"\n")
        target = host.until(lambda: self._name(container), "the report came")
        assert target.startswith("/dev/pts/") or target == "/dev/console"

    def _name(self, container: Container) -> str:
        line = host.read_line(container.stdout)
        return Report.parse(line.encode())["fds"]["0"]["target"] or "" if line.startswith("{") else ""

    @needs("tty", "init")
    def test_with_init(self) -> None:
        report = self.terminal_report(init=True)
        assert report["controlling"] and report["foreground"] and report["fds"]["0"]["tty"]
