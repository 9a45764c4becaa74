"""Filters in force: on whom, from when, and what becomes of a launcher whose own calls they forbid."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from execdrivers import (
    PIPE,
    CommandNotFound,
    CompletedContainer,
    ContainerSpec,
    Engine,
    LaunchError,
    Registry,
    UnsupportedFeature,
    seccomp,
)
from execdrivers.driver import Problem
from execdrivers.testing import host

pytestmark = [
    pytest.mark.needs("root"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64"),
]


def deny(*names: str, action: str = "SCMP_ACT_ERRNO") -> Mapping[str, Any]:
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": list(names), "action": action}]}


@pytest.fixture(params=["native", "lxc"])
def run(request: pytest.FixtureRequest, engine: Engine, rootfs: Path, driver_probe: Any) -> Any:
    driver_probe(request.param)

    def run(script: str, **fields: Any) -> CompletedContainer:
        args = ["sh", "-c", script]
        return engine.run(args, rootfs=rootfs, driver=request.param, stdout=PIPE, stderr=PIPE, timeout=30, **fields)

    return run


#: The init restricts itself as soon as the command runs.
AWAIT_INIT = "until grep -q 'Seccomp:.2' /proc/1/status; do :; done; "
SHOW = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status /proc/1/status"


def shown(done: CompletedContainer) -> list[str]:
    return [line.split()[-1] for line in (done.stdout or b"").decode().splitlines()]


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("user", [None, "1000:1000"])
def test_everybody_in_a_container_is_filtered(run: Any, init: bool, user: str | None) -> None:
    assert shown(run(AWAIT_INIT + SHOW, init=init, user=user)) == ["1", "2", "1", "2"]


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("user", [None, "1000:1000"])
def test_without_no_new_privs_too(run: Any, init: bool, user: str | None) -> None:
    done = run(
        "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; mkdir /dev/shm/x",
        init=init,
        user=user,
        no_new_privileges=False,
        seccomp=deny("mkdir", "mkdirat"),
    )
    assert shown(done) == ["0", "2"]
    assert b"Operation not permitted" in (done.stderr or b"")


def test_nobody_where_it_was_given_up(run: Any) -> None:
    assert shown(run(SHOW, init=True, seccomp="unconfined")) == ["1", "0", "1", "0"]


def test_a_terminal_works_under_it(engine: Engine, rootfs: Path) -> None:
    done = engine.run(["sh", "-c", "tty && stty size"], rootfs=rootfs, tty=True, stdout=PIPE, console_size=(33, 44))
    assert done.stdout == b"/dev/pts/0\r\n33 44\r\n"


def test_an_executed_process_has_the_containers(engine: Engine, rootfs: Path) -> None:
    with engine.create(ContainerSpec(["sleep", "1000"], rootfs=rootfs, seccomp=deny("mkdir", "mkdirat"))) as container:
        container.start()
        assert host.status(container.pid or 0)["Seccomp"] == "2"
        with container.exec(["mkdir", "/dev/shm/x"], stderr=PIPE) as process:
            assert b"not permitted" in (process.communicate(timeout=20)[1] or b"")


def test_a_created_one_is_not_filtered_yet(engine: Engine, rootfs: Path) -> None:
    with engine.create(ContainerSpec(["true"], rootfs=rootfs, seccomp=deny("read", "sendmsg"))) as container:
        assert host.status(container.pid or 0)["Seccomp"] == "0"
        container.start()
        assert container.wait(20).code == 0


@pytest.mark.parametrize("init", [False, True])
def test_the_default_one_is_in_force_before_the_launcher_waits(engine: Engine, rootfs: Path, init: bool) -> None:
    """Which it allows, and takes a tenth of a millisecond."""
    with engine.create(ContainerSpec(["true"], rootfs=rootfs, init=init)) as container:
        assert host.status(container.pid or 0)["Seccomp"] == ("0" if init else "2")
        container.start()
        assert container.wait(20).code == 0


def test_the_default_one_and_a_command_that_is_not_there(engine: Engine, rootfs: Path) -> None:
    """Under it the launcher tells what fails."""
    container = engine.create(ContainerSpec(["nothing"], rootfs=rootfs))
    with pytest.raises(CommandNotFound, match="nothing: not found in PATH"):
        container.start()


def test_guarantees_and_plan_say_so(engine: Engine, rootfs: Path) -> None:
    for given, expected in ((None, "default"), ("unconfined", None), (deny("mkdir"), "custom")):
        spec = ContainerSpec(["true"], rootfs=rootfs, seccomp=given)
        with engine.create(spec) as container:
            assert container.guarantees["seccomp"] == expected
        steps = [step for step in engine.explain(spec).to_dict()["steps"] if step["op"] == "seccomp"]
        assert [set(step) for step in steps] == ([{"op", "instructions", "when"}] if expected else [])
        assert [step["when"] for step in steps] == {"default": ["ready"], "custom": ["last"], None: []}[expected]


# --- what the launcher itself does


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def test_a_filter_that_forbids_execution(run: Any, init: bool, action: str) -> None:
    profile = deny("execve", action=action)
    if action == "SCMP_ACT_ERRNO":
        with pytest.raises(LaunchError, match=r"Operation not permitted.*seccomp"):
            run("true", init=init, seccomp=profile)
        return
    done = run("true", init=init, seccomp=profile)
    assert done.exit.signal == 31


@pytest.mark.parametrize("init", [False, True])
def test_a_filter_that_forbids_all(run: Any, init: bool) -> None:
    """Neither a hang nor a launcher that spins: the end comes by a trap, which no filter forbids."""
    for default in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"):
        try:
            done = run("true", init=init, seccomp={"defaultAction": default})
        except LaunchError:
            continue
        assert done.returncode != 0


@pytest.mark.parametrize(
    "name", ["exit_group", "sendmsg", "rt_sigaction", "clone", "wait4", "rt_sigtimedwait", "prctl"]
)
@pytest.mark.parametrize("init", [False, True])
def test_a_filter_that_forbids_what_the_launcher_does_is_no_hindrance(run: Any, name: str, init: bool) -> None:
    done = run("echo hello", seccomp=deny(name), init=init)
    assert done.stdout == b"hello\n"


@pytest.mark.parametrize("name", ["sendmsg", "capset", "read", "execve", "wait4", "rt_sigtimedwait"])
@pytest.mark.parametrize("init", [False, True])
def test_without_no_new_privs_it_is_one_and_ends(run: Any, name: str, init: bool) -> None:
    """As with runc the filter is there before the launcher has done its work; what it cannot do it does not survive."""
    try:
        done = run("exec true", seccomp=deny(name), init=init, no_new_privileges=False)
    except LaunchError:
        return
    assert done.exit.reason != "timeout"


def test_the_init_is_confined_to_what_it_does(engine: Engine, rootfs: Path) -> None:
    with engine.create(ContainerSpec(["sleep", "1000"], rootfs=rootfs, init=True), stdout=PIPE) as container:
        container.start()
        first = host.status(container.pid or 0)
        assert (first["Name"], first["Seccomp"], first["NoNewPrivs"]) == ("init", "2", "1")
        container.signal("TERM")
        assert container.wait(20).signal == 15


# --- where there is no libseccomp


def test_refused_by_name_where_there_is_none(tmp_path: Path, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "problem", lambda: Problem("there is none", "install it"))
    engine = Engine(tmp_path / "state", registry=Registry())
    with engine, pytest.raises(UnsupportedFeature, match=r"seccomp.*there is none"):
        engine.run(["true"], rootfs=rootfs, driver="native", seccomp=deny("mkdir"))


def test_a_name_that_no_filter_can_have(engine: Engine, rootfs: Path) -> None:
    with pytest.raises(ValueError, match=r"seccomp\.syscalls\[0\]\.names\[0\]: 'mkdirr' is no system call"):
        engine.run(["true"], rootfs=rootfs, driver="native", seccomp=deny("mkdirr"))


def test_a_profile_in_dockers_form(engine: Engine, rootfs: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        "syscalls": [
            {
                "names": ["mkdir", "mkdirat"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 28,
                "excludes": {"caps": ["CAP_SYS_ADMIN"]},
            }
        ],
    }
    profile = json.loads(json.dumps(profile))
    for capabilities, code in ((None, 1), ({"add": ["SYS_ADMIN"]}, 0)):
        done = engine.run(
            ["mkdir", "/dev/shm/x"],
            rootfs=rootfs,
            driver="native",
            seccomp=profile,
            capabilities=capabilities,
            stderr=PIPE,
        )
        assert done.returncode == code, done
