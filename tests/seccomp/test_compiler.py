"""What programs answer, for every part of OCI's object; and what is refused, by which property."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from execdrivers import ContainerSpec, SpecError, seccomp
from execdrivers.seccomp import _library

from . import bpf

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")

MKDIR, RMDIR, GETPPID = 83, 84, 110


def program(profile: Mapping[str, Any]) -> bpf.Program:
    compiled = seccomp.compile(ContainerSpec(["-"], seccomp=profile), ())
    assert compiled is not None
    return bpf.Program(compiled.program)


def rule(action: str, *args: tuple[Any, ...], names: tuple[str, ...] = ("mkdir",), **more: Any) -> dict[str, Any]:
    keys = ("index", "op", "value", "valueTwo")
    listed = [{**dict(zip(keys, item, strict=False)), "op": f"SCMP_CMP_{item[1]}"} for item in args]
    return {"names": list(names), "action": f"SCMP_ACT_{action}", **({"args": listed} if listed else {}), **more}


def profile(*rules: dict[str, Any], default: str = "ALLOW", **more: Any) -> dict[str, Any]:
    return {"defaultAction": f"SCMP_ACT_{default}", "syscalls": list(rules), **more}


@pytest.mark.parametrize(
    ("action", "more", "expected"),
    [
        ("ERRNO", {}, bpf.errno(1)),
        ("ERRNO", {"errnoRet": 38}, bpf.errno(38)),
        ("ERRNO", {"errnoRet": 0}, bpf.errno(0)),
        ("KILL", {}, bpf.KILL_THREAD),
        ("KILL_THREAD", {}, bpf.KILL_THREAD),
        ("KILL_PROCESS", {}, bpf.KILL_PROCESS),
        ("TRAP", {}, bpf.TRAP),
        ("TRACE", {}, bpf.trace(1)),
        ("TRACE", {"errnoRet": 7}, bpf.trace(7)),
        ("LOG", {}, bpf.LOG),
        ("NOTIFY", {}, bpf.NOTIFY),
    ],
)
def test_actions(action: str, more: Mapping[str, Any], expected: int) -> None:
    compiled = program(profile(rule(action, **more)))
    assert compiled(MKDIR) == expected
    assert compiled(RMDIR) == bpf.ALLOW


@pytest.mark.parametrize(
    ("action", "more", "expected"),
    [
        ("ERRNO", {}, bpf.errno(1)),
        ("ERRNO", {"defaultErrnoRet": 13}, bpf.errno(13)),
        ("KILL_PROCESS", {}, bpf.KILL_PROCESS),
        ("KILL", {}, bpf.KILL_THREAD),
        ("TRAP", {}, bpf.TRAP),
        ("LOG", {}, bpf.LOG),
        ("TRACE", {"defaultErrnoRet": 9}, bpf.trace(9)),
    ],
)
def test_default_actions(action: str, more: Mapping[str, Any], expected: int) -> None:
    compiled = program(profile(rule("ALLOW", names=("mkdir", "getppid")), default=action, **more))
    assert (compiled(MKDIR), compiled(RMDIR)) == (bpf.ALLOW, expected)


BIG = 0xFFFFFFFF00000001


@pytest.mark.parametrize(
    ("op", "datum", "hits", "misses"),
    [
        ("EQ", (7,), [7], [0, 6, 8, 7 | 1 << 32]),
        ("NE", (7,), [0, 6, 8, 7 | 1 << 32], [7]),
        ("LT", (7,), [0, 6], [7, 8, 1 << 63]),
        ("LE", (7,), [0, 7], [8, 1 << 63]),
        ("GT", (7,), [8, 1 << 63], [0, 7]),
        ("GE", (7,), [7, 1 << 63], [0, 6]),
        ("EQ", (BIG,), [BIG], [1, BIG - 1]),
        ("GT", (BIG,), [BIG + 1, 2**64 - 1], [BIG, 1]),
        ("LE", (BIG,), [BIG, 1], [BIG + 1]),
        ("MASKED_EQ", (0xF0, 0x30), [0x30, 0x3F, 1 << 40 | 0x30], [0x20, 0, 0xF0]),
        ("MASKED_EQ", (0xF0,), [0, 0xF], [0x10]),
    ],
)
@pytest.mark.parametrize("index", [0, 5])
def test_operators(op: str, datum: tuple[int, ...], hits: list[int], misses: list[int], index: int) -> None:
    compiled = program(profile(rule("ERRNO", (index, op, *datum))))
    for values, expected in ((hits, bpf.errno(1)), (misses, bpf.ALLOW)):
        for value in values:
            assert compiled(MKDIR, [*[99] * index, value]) == expected, value


def test_all_conditions_of_a_rule_must_hold() -> None:
    compiled = program(profile(rule("ERRNO", (0, "EQ", 1), (1, "GT", 5))))
    assert compiled(MKDIR, [1, 6]) == bpf.errno(1)
    assert compiled(MKDIR, [1, 5]) == compiled(MKDIR, [2, 6]) == bpf.ALLOW


def test_conditions_on_one_argument_are_alternatives_as_with_runc() -> None:
    compiled = program(profile(rule("ERRNO", (0, "EQ", 1), (0, "EQ", 3), (1, "EQ", 9))))
    assert compiled(MKDIR, [1]) == compiled(MKDIR, [3]) == compiled(MKDIR, [0, 9]) == bpf.errno(1)
    assert compiled(MKDIR, [2]) == bpf.ALLOW


def test_rules_of_one_name_add_up() -> None:
    compiled = program(profile(rule("ERRNO", (0, "EQ", 1)), rule("ERRNO", (0, "EQ", 2), errnoRet=5)))
    assert [compiled(MKDIR, [value]) for value in (0, 1, 2)] == [bpf.ALLOW, bpf.errno(1), bpf.errno(5)]


def test_a_rule_twice_or_as_the_default_is_no_harm() -> None:
    compiled = program(profile(rule("ERRNO"), rule("ERRNO"), rule("ALLOW", names=("rmdir",))))
    assert (compiled(MKDIR), compiled(RMDIR)) == (bpf.errno(1), bpf.ALLOW)


def test_a_condition_that_would_not_count_is_refused() -> None:
    """libseccomp lets a rule without conditions win, so that less would be forbidden than the profile says."""
    for rules in ([rule("ALLOW"), rule("ERRNO", (0, "EQ", 1))], [rule("ERRNO", (0, "EQ", 1)), rule("ALLOW")]):
        with pytest.raises(SpecError, match=r"seccomp\.syscalls\[[01]\].*mkdir"):
            program(profile(*rules, default="ERRNO", defaultErrnoRet=38))


# --- architectures, and what is younger or unknown


def test_architectures() -> None:
    alone = program(profile(rule("ERRNO")))
    assert alone(39, (), bpf.X86) == bpf.KILL_THREAD  # mkdir there
    both = program(profile(rule("ERRNO"), architectures=["SCMP_ARCH_X86", "SCMP_ARCH_X32"]))
    assert both(39, (), bpf.X86) == both(MKDIR) == both(MKDIR | bpf.X32_BIT) == bpf.errno(1)
    assert both(40, (), bpf.X86) == bpf.ALLOW


def test_beyond_what_the_profile_names_there_is_nothing() -> None:
    compiled = program(profile(rule("ALLOW", names=("mkdir", "openat2")), default="ERRNO"))
    assert compiled(436) == bpf.errno(1)
    assert compiled(438) == compiled(2**30 - 1) == bpf.errno(38)
    assert program(profile(rule("ERRNO")))(900) == bpf.ALLOW, "an open profile stays open"
    exact = profile(rule("ALLOW"), default="ERRNO", defaultErrnoRet=38)
    assert program(exact)(900) == bpf.errno(38)


def test_younger_than_libseccomp() -> None:
    compiled = program(profile(rule("ERRNO", names=("mseal", "cachestat"), errnoRet=5)))
    assert compiled(462) == compiled(451) == bpf.errno(5)


def test_unknown_names_are_passed_over_where_no_more_is_allowed_by_that() -> None:
    assert program(profile(rule("ALLOW", names=("mkdir", "no_such_call")), default="ERRNO"))(MKDIR) == bpf.ALLOW
    assert program(profile(rule("ERRNO", names=("mkdir", "arm_fadvise64_64"))))(MKDIR) == bpf.errno(1)
    with pytest.raises(SpecError, match=r"seccomp\.syscalls\[1\]\.names\[0\]: 'mkdirr' is no system call"):
        program(profile(rule("ERRNO"), rule("ERRNO", names=("mkdirr",))))


# --- Docker's form


def test_dockers_form() -> None:
    conditional = profile(
        rule("ALLOW", includes={"caps": ["CAP_SYS_ADMIN"]}),
        rule("ALLOW", names=("rmdir",), excludes={"caps": ["CAP_SYS_ADMIN"]}),
        rule("ALLOW", names=("getppid",), includes={"minKernel": "4.8", "arches": ["amd64"]}, comment="x"),
        rule("ALLOW", names=("getpid",), includes={"minKernel": "99.0"}),
        rule("ALLOW", names=("getuid",), excludes={"arches": ["amd64"]}),
        default="ERRNO",
        archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    )
    spec = ContainerSpec(["-"], seccomp=conditional)
    for capabilities, allowed in (({"CAP_SYS_ADMIN"}, MKDIR), (set(), RMDIR)):
        compiled = seccomp.compile(spec, capabilities)
        assert compiled is not None
        ask = bpf.Program(compiled.program)
        answers = {number: ask(number) == bpf.ALLOW for number in (MKDIR, RMDIR, GETPPID, 39, 102)}
        assert {number for number, answer in answers.items() if answer} == {allowed, GETPPID}
        assert ask(64, (), bpf.X86) == bpf.ALLOW  # getppid there


# --- flags


def test_flags() -> None:
    def flags(*names: str, action: str = "ERRNO") -> set[str]:
        prefix = "SECCOMP_FILTER_FLAG_"
        given = profile(rule(action), flags=[prefix + name for name in names])
        compiled = seccomp.compile(ContainerSpec(["-"], seccomp=given), ())
        assert compiled is not None
        return {flag.removeprefix(prefix) for flag in compiled.flags}

    assert flags("LOG", "SPEC_ALLOW", "TSYNC") == {"LOG", "SPEC_ALLOW", "TSYNC"}
    # The launcher is one thread, and the kernel takes these two together no more.
    assert flags("TSYNC", "WAIT_KILLABLE_RECV", action="NOTIFY") == {"WAIT_KILLABLE_RECV", "NEW_LISTENER"}
    with pytest.raises(SpecError, match=r"seccomp\.flags"):
        flags("WAIT_KILLABLE_RECV")


# --- without the library


def test_without_libseccomp_nothing_runs_unfiltered(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_library, "_load", _missing)
    seccomp._default.cache_clear()
    with pytest.raises(SpecError, match=r"there is no libseccomp.*install libseccomp2, or say seccomp=\"unconfined\""):
        seccomp.compile(ContainerSpec(["-"]), ())
    assert seccomp.compile(ContainerSpec(["-"], seccomp="unconfined"), ()) is None


def test_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seccomp.problem() is None
    monkeypatch.setattr(os.path, "exists", lambda path: "/proc/" in path)
    assert seccomp.problem() is None, "it is elsewhere, and found all the same"
    monkeypatch.setattr(_library, "_load", _missing)
    assert "libseccomp.so.2" in str(seccomp.problem())
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert "the kernel has no seccomp" in str(seccomp.problem())


def _missing() -> Any:
    raise _library.LibraryMissing(2, "libseccomp.so.2: cannot open shared object file")
