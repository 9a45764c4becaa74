"""What the process is given: arguments, environment, directory, umask, signal dispositions."""

from __future__ import annotations

import os
import signal
import string
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis import strategies

from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit
from execdrivers.testing.program import Report

__all__ = ["TestEnvironment"]

_ODD = [
    "",
    " ",
    "two words",
    "a=b=c",
    "#comment",
    "line\nbreak",
    "tab\tand\rreturn",
    "'single' \"double\" `back`",
    "$HOME ${HOME} $(id)",
    "back\\slash \\n \\x41",
    "-n",
    "--",
    "*?[a-z]{1,2}~",
    "%s %d %%",
    "grün ☃ \U0001f40d",
    "<&>;|!",
    "{json: [1]}",
    "\x01\x1b[31m\x7f",
    "trailing space ",
    "lxc.init.cmd = /bin/sh",
    "x" * 5000,
]

_TEXT = strategies.text(strategies.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
_NAMES = strategies.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=12)


class TestEnvironment(Kit):
    """The process gets what the spec says, byte for byte, and nothing of the caller's."""

    # --- arguments

    def test_arguments_arrive_as_given(self) -> None:
        done = self.run("report", ["say", *_ODD])
        assert Report.parse(done.stdout.split(b"\n")[0])["argv"] == ["/bin/probe", "report", ",", "say", *_ODD]

    def test_the_first_argument_is_the_command_as_given(self) -> None:
        report = Report.parse(self.run(args=["probe", "report"], env={"PATH": "/bin"}).stdout)
        assert report["argv"][0] == "probe"

    def test_bytes_that_are_no_text_arrive(self) -> None:
        word = os.fsdecode(b"\xff\xfe\x80x")
        assert self.run(["say", word]).stdout == b"\xff\xfe\x80x\n"

    def test_a_long_argument_and_many(self) -> None:
        assert self.run(["say", "x" * 100_000]).stdout == b"x" * 100_000 + b"\n"
        assert len(self.run(["say", *["y"] * 3000]).stdout) == 6000

    # --- environment

    def test_values_arrive_as_given(self) -> None:
        env = {f"V{number}": value for number, value in enumerate(_ODD)}
        seen = self.report(env=env).env
        assert {name: seen.get(name) for name in env} == env

    def test_names_arrive_as_given(self) -> None:
        env = {"lower": "1", "with.dot": "2", "with-dash": "3", "_": "4", "Ünï": "5", "with space": "6"}
        seen = self.report(env=env).env
        assert {name: seen.get(name) for name in env} == env

    def test_a_thousand_variables(self) -> None:
        env = {f"VARIABLE_{number}": str(number) for number in range(1000)}
        assert env.items() <= self.report(env=env).env.items()

    def test_the_callers_environment_stays_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KIT_SECRET", "x")
        monkeypatch.setenv("LD_PRELOAD_KIT", "x")
        seen = self.report().env
        assert "KIT_SECRET" not in seen and "TMPDIR" not in seen
        assert not set(seen) - {"PATH", "HOME", "HOSTNAME", "container", "TERM", "LANG"}, seen

    def test_defaults(self) -> None:
        seen = self.by_default().env
        assert "/bin" in seen["PATH"].split(":")
        assert seen["HOME"] == "/root"
        assert "TERM" not in seen

    def test_defaults_give_way(self) -> None:
        env = {"PATH": "/x", "HOME": "/y", "HOSTNAME": "z"}
        assert env.items() <= self.report(env=env).env.items()

    def test_without_defaults_there_is_what_the_spec_says(self) -> None:
        assert self.report(default_env=False, env={"ONLY": "this"}).env == {"ONLY": "this"}
        assert self.report(default_env=False).env == {}

    def test_hostname_is_in_the_environment(self) -> None:
        report = self.by_default()
        assert report.env["HOSTNAME"] == report["hostname"]

    def test_whatever_the_text(self) -> None:
        """Arguments and values that nobody thought of."""

        @hypothesis.settings(max_examples=12, deadline=None, database=None)
        @hypothesis.given(
            strategies.lists(_TEXT.filter(lambda word: word != ","), max_size=8),
            strategies.dictionaries(_NAMES, _TEXT, max_size=8),
        )
        def check(words: list[str], env: dict[str, str]) -> None:
            report = Report.parse(self.run("report", ["say", *words], env=env).stdout.split(b"\n")[0])
            assert report["argv"][4:] == words
            assert env.items() <= report.env.items()

        check()

    # --- directory

    def test_directory_by_default(self) -> None:
        assert self.by_default()["cwd"] == "/"

    @needs("cwd")
    @pytest.mark.parametrize("path", ["/", "/usr/bin", "/tmp", "/home/alice"])
    def test_directory(self, path: str) -> None:
        assert self.report(cwd=path)["cwd"] == path

    @needs("cwd")
    def test_directory_through_a_link(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "link").symlink_to("/usr/bin")
        assert self.report(cwd="/link", rootfs=rootfs)["cwd"] == "/usr/bin"

    @needs("cwd")
    def test_directory_leads_nowhere_outside(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "out").symlink_to("../../../../../..")
        report = self.report(cwd="/out", rootfs=rootfs)
        assert report["cwd"] == "/"
        assert "bin" in report["root"] and sorted(report["root"]) == sorted(os.listdir(rootfs))

    @needs("cwd")
    def test_directory_with_odd_characters(self) -> None:
        rootfs = self.own_rootfs()
        for name in ("with space", "grün", "a=b#c", "quote'\""):
            (rootfs / "srv" / name).mkdir()
            assert self.report(cwd=f"/srv/{name}", rootfs=rootfs)["cwd"] == f"/srv/{name}"

    # --- umask

    def test_umask_by_default(self) -> None:
        before = os.umask(0o077)
        try:
            assert self.report()["umask"] == 0o022
        finally:
            os.umask(before)

    @needs("umask")
    @pytest.mark.parametrize("mask", [0, 0o022, 0o027, 0o077, 0o777])
    def test_umask(self, mask: int) -> None:
        assert self.report(umask=mask)["umask"] == mask

    @needs("umask")
    def test_umask_makes_files(self) -> None:
        rootfs = self.own_rootfs()
        self.run("write /data/file", umask=0o027, rootfs=rootfs)
        assert (rootfs / "data/file").stat().st_mode & 0o777 == 0o640

    # --- signals, sessions

    def test_no_signal_is_blocked_or_ignored(self) -> None:
        report = self.by_default()
        assert report["blocked"] == [] and report["ignored"] == []

    def test_signals_that_the_caller_ignores_are_not_ignored(self) -> None:
        assert (
            self._report_of_caller(lambda: [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 13, 25)])["ignored"]
            == []
        )

    def test_signals_that_the_caller_blocks_are_not_blocked(self) -> None:
        blocked = {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGRTMIN}
        assert self._report_of_caller(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, blocked))["blocked"] == []

    def _report_of_caller(self, prepare: Callable[[], object]) -> Report:
        """What a container finds whose caller has done that to itself."""

        def body() -> None:
            prepare()
            with self.new_engine() as engine, open(self.tmp / "report", "wb") as file:
                engine.run(self.spec("report"), driver=self.name, stdout=file)

        host.in_child(body)
        return Report.parse((self.tmp / "report").read_bytes())

    def test_it_is_not_in_the_callers_session(self) -> None:
        container = self.start_ready()
        assert os.getsid(self.first_process(container)) != os.getsid(0)

    def test_no_secure_bits(self) -> None:
        assert self.by_default()["securebits"] == 0

    def test_limits_of_the_caller_that_it_lowered_for_itself(self) -> None:
        """A soft limit on open files is the caller's own; the hard one is what everybody has."""
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        report = self.by_default()
        assert report["rlimits"]["NOFILE"][1] >= min(soft, 1024)
