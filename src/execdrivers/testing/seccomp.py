"""Filters of system calls: the default one, OCI's profiles, and the decisions of a supervisor."""

from __future__ import annotations

import fcntl
import os
import select
import struct
from typing import Any

import pytest

from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestSeccomp"]

#: Numbers of system calls on x86_64 and aarch64.
_NUMBERS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone3": (435, 435),
    "fsopen": (430, 430),
    "getpgid": (121, 155),
    "getppid": (110, 173),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "perf_event_open": (298, 241),
    "setns": (308, 268),
    "swapon": (167, 224),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWUTS = 0x04000000


def _call(name: str, *args: int) -> str:
    """The command of the probe program that makes this system call."""
    return " ".join(map(str, ("syscall", _NUMBERS[name][os.uname().machine != "x86_64"], *args)))


def _rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": f"SCMP_ACT_{action}", **more}


def _profile(*rules: dict[str, Any], default: str = "ALLOW", **more: Any) -> dict[str, Any]:
    return {"defaultAction": f"SCMP_ACT_{default}", "syscalls": list(rules), **more}


_NO_MKDIR = _profile(_rule("ERRNO", "mkdir", "mkdirat", errnoRet=1))
_ASKED = {"seccomp": _NO_MKDIR}


class TestSeccomp(Kit):
    """What the probe program is allowed, whoever installs the filter."""

    # --- by default

    @needs("seccomp", asked=_ASKED)
    def test_filtered_by_default(self) -> None:
        assert self.by_default()["seccomp"] == 2
        assert self.attempt("unshare", str(_CLONE_NEWUSER)).errno == "EPERM"

    @needs("seccomp", asked=_ASKED)
    def test_what_the_default_denies(self) -> None:
        names = [name for name in _NUMBERS if name not in ("clone3", "getpgid", "getppid")]
        errors = [attempt.errno for attempt in self.attempts(*map(_call, names))]
        assert dict(zip(names, errors, strict=True)) == dict.fromkeys(names, "EPERM")

    @needs("seccomp", asked=_ASKED)
    def test_what_the_default_says_is_not_there(self) -> None:
        """A C library falls back on ENOSYS alone."""
        assert self.attempts(_call("clone3"))[0].errno == "ENOSYS"

    @needs("seccomp", asked=_ASKED)
    def test_the_default_allows_what_programs_need(self) -> None:
        commands = ["mkdir /dev/shm/new", "fork 2", "threads 2", "nice 1", _call("getppid")]
        assert [attempt.errno for attempt in self.attempts(*commands)] == [""] * len(commands)

    @needs("seccomp", "capabilities", asked=_ASKED)
    def test_a_capability_opens_what_it_is_for(self) -> None:
        if not host.capable("CAP_SYS_ADMIN"):
            host.lacking("CAP_SYS_ADMIN")
        commands = (_call("unshare", _CLONE_NEWUTS), _call("keyctl", 99))
        errors = [attempt.errno for attempt in self.attempts(*commands, capabilities={"add": ["SYS_ADMIN"]})]
        assert errors == ["", "EPERM"]

    @needs("seccomp", asked=_ASKED)
    def test_unconfined(self) -> None:
        assert self.report(seccomp="unconfined")["seccomp"] == 0

    # --- a profile

    @needs("seccomp")
    def test_by_profile(self) -> None:
        attempts = self.attempts("mkdir /dev/shm/new", "write /dev/shm/file x", seccomp=_NO_MKDIR)
        assert [attempt.errno for attempt in attempts] == ["EPERM", ""]

    @needs("seccomp")
    def test_another_errno(self) -> None:
        profile = _profile(_rule("ERRNO", "mkdir", "mkdirat", errnoRet=38))
        assert self.attempt("mkdir", "/dev/shm/new", seccomp=profile).errno == "ENOSYS"

    @needs("seccomp")
    def test_errno_without_a_number(self) -> None:
        profile = _profile(_rule("ERRNO", "mkdir", "mkdirat"))
        assert self.attempt("mkdir", "/dev/shm/new", seccomp=profile).errno == "EPERM"

    @needs("seccomp", "init")
    @pytest.mark.parametrize("action", ["KILL_PROCESS", "KILL", "TRAP"])
    def test_deadly_actions(self, action: str) -> None:
        done = self.run(
            "mkdir /dev/shm/new", "say alive", seccomp=_profile(_rule(action, "mkdir", "mkdirat")), init=True
        )
        assert (done.exit.reason, done.exit.signal, done.stdout) == ("signaled", 31, b"")

    @needs("seccomp")
    def test_logged_is_allowed(self) -> None:
        profile = _profile(_rule("LOG", "mkdir", "mkdirat"))
        assert self.attempt("mkdir", "/dev/shm/new", seccomp=profile).errno == ""

    @needs("seccomp")
    @pytest.mark.parametrize(
        ("op", "value", "denied"),
        [
            ("EQ", 5, {5}),
            ("NE", 5, {0, 4, 6}),
            ("LT", 5, {0, 4}),
            ("LE", 5, {0, 4, 5}),
            ("GT", 5, {6}),
            ("GE", 5, {5, 6}),
        ],
    )
    def test_operators(self, op: str, value: int, denied: set[int]) -> None:
        self._compare({"index": 0, "value": value, "op": f"SCMP_CMP_{op}"}, denied)

    @needs("seccomp")
    def test_masked_operator(self) -> None:
        self._compare({"index": 0, "value": 4, "valueTwo": 4, "op": "SCMP_CMP_MASKED_EQ"}, {4, 5, 6})

    @needs("seccomp")
    def test_conditions_on_one_argument_are_alternatives(self) -> None:
        conditions = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (4, 6)]
        self._compare(*conditions, {4, 6})

    def _compare(self, *conditions: Any) -> None:
        """getpgid(2) of these pids is denied, the last of the arguments, and of no others."""
        *args, denied = conditions
        profile = _profile(_rule("ERRNO", "getpgid", errnoRet=28, args=args))
        values = (0, 4, 5, 6)
        errors = [item.errno for item in self.attempts(*[_call("getpgid", value) for value in values], seccomp=profile)]
        assert {value for value, error in zip(values, errors, strict=True) if error == "ENOSPC"} == denied

    @needs("seccomp", "capabilities")
    def test_a_profile_in_dockers_form(self) -> None:
        rules = (
            _rule("ERRNO", "mkdir", "mkdirat", errnoRet=28, excludes={"caps": ["CAP_KILL"]}),
            _rule("ERRNO", "getpgid", errnoRet=28, includes={"caps": ["CAP_KILL"]}),
        )
        commands = ("mkdir /dev/shm/new", _call("getpgid", 0))
        for capabilities, expected in (({"drop": ["KILL"]}, ["ENOSPC", ""]), ({}, ["", "ENOSPC"])):
            attempts = self.attempts(*commands, seccomp=_profile(*rules), capabilities=capabilities)
            assert [attempt.errno for attempt in attempts] == expected

    @needs("seccomp", "init", "user")
    def test_under_an_init_and_as_another_user(self) -> None:
        attempts = self.attempts("mkdir /dev/shm/new", seccomp=_NO_MKDIR, init=True, user="1000:1000")
        assert attempts[0].errno == "EPERM"

    @needs("seccomp", "no-new-privileges")
    def test_without_no_new_privileges(self) -> None:
        assert self.attempt("mkdir", "/dev/shm/new", seccomp=_NO_MKDIR, no_new_privileges=False).errno == "EPERM"

    # --- decided outside

    @needs("seccomp", "seccomp.notify")
    def test_a_supervisor_answers(self) -> None:
        profile = _profile(_rule("NOTIFY", "mkdir", "mkdirat"))
        container = self.start("mkdir /dev/shm/new", "stat /dev/shm/new", seccomp=profile)
        assert container.seccomp_listener is not None
        _answer(container.seccomp_listener)
        out, _ = container.communicate(timeout=20)
        attempt, found = (out or b"").splitlines()
        assert (b'"errno":0' in attempt, found) == (True, b"{}"), "it was said to be done, and was not"

    @needs("seccomp", "seccomp.notify", "exec")
    def test_of_further_processes_too(self) -> None:
        container = self.start_ready(seccomp=_profile(_rule("NOTIFY", "mkdir", "mkdirat")))
        with container.exec(["/bin/probe", "mkdir", "/dev/shm/new"], stdout=-1) as process:
            assert process.seccomp_listener is not None
            _answer(process.seccomp_listener, errno=28)
            out, _ = process.communicate(timeout=20)
        assert b'"errno":28' in (out or b"")


def _answer(listener: int, errno: int = 0) -> None:
    """Receive one system call, and say what came of it: seccomp_unotify(2)."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    assert poll.poll(20_000), "no system call came"
    notification = bytearray(80)
    fcntl.ioctl(listener, 0xC0502100, notification)
    (identity,) = struct.unpack_from("=Q", notification)
    fcntl.ioctl(listener, 0xC0182101, bytearray(struct.pack("=QqiI", identity, 0, -errno, 0)))
