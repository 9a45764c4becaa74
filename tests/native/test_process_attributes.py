"""Scheduling, processors, personality and keyrings on native: what the conformance kit cannot know of."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from execdrivers import DEVNULL, PIPE, ContainerSpec, Engine, LaunchError, Registry, SpecError, Stdio, pidfd
from execdrivers.launcher import Launch, operation, spawn_launcher
from execdrivers_native import compile, host

ROOT = attrs.evolve(host.look(), uid=0, gid=0, capabilities=(1 << 41) - 1, bounding=(1 << 41) - 1)

#: Runs keyctl(2) calls, given as JSON; -errno where one fails. Text arguments are passed as such.
KEYCTL = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def keyctl(*args):
    given = [a.encode() if isinstance(a, str) else ctypes.c_long(a) for a in args]
    result = libc.syscall(ctypes.c_long(%d), *given, *[ctypes.c_long(0)] * (5 - len(given)))
    return result if result >= 0 else -ctypes.get_errno()
""" % (219 if platform.machine() == "aarch64" else 250)  # noqa: UP031 - braces are Python's there
GET_ID, SETPERM, DESCRIBE, LINK, SEARCH, READ = 0, 5, 6, 8, 10, 11
SESSION, USER = -3, -4
PYTHON = "/usr/bin/python3"

needs_keys = pytest.mark.skipif(not os.path.exists("/proc/keys"), reason="needs a kernel with keys")


def order(**fields: Any) -> list[str]:
    compiled = compile.compile(ContainerSpec(["true"], **fields), "box", ROOT)
    return [item.name for item in compiled.operations]


def test_scheduling_comes_after_limits_and_before_privileges_go() -> None:
    found = order(
        scheduler={"policy": "other", "nice": -1},
        io_priority={"io_class": "rt"},
        personality="LINUX32",
        rlimits={"nice": 30},
    )
    expected = ["rlimit", "scheduler", "io_priority", "personality", "identity", "capabilities", "exec"]
    assert [name for name in found if name in expected] == expected


def test_nothing_asked_nothing_done() -> None:
    assert not {"scheduler", "io_priority", "personality", "affinity"} & set(order())


def test_a_further_command_has_them_too() -> None:
    spec = ContainerSpec(
        ["true"],
        scheduler={"policy": "batch"},
        io_priority={"io_class": "idle"},
        personality="LINUX32",
        cpu_affinity={"initial": "0", "final": "1"},
        oom_score_adj=7,
    )
    operations = compile.compile_exec(spec, "box", ROOT, compile.compile(spec, "box", ROOT).guarantees)
    names = [item.name for item in operations]
    assert names[:3] == ["write", "affinity", "join"]
    assert names.index("join") < names.index("keyring") < names.index("scheduler") < names.index("capabilities")
    assert {"io_priority", "personality"} <= set(names)
    # Only then has its caller moved it into the container's cgroups, whose processors it is to have.
    assert names[-3:] == ["ready", "affinity", "exec"]
    assert [item.args for item in operations if item.name == "affinity"] == [("0",), ("1",)]


@pytest.mark.parametrize(
    ("scheduler", "field"),
    [
        ({"policy": "batch", "flags": ["RESET_ON_FORK"]}, "scheduler.flags"),
        ({"policy": "deadline", "runtime": 10**6, "deadline": 10**7, "period": 10**7}, "scheduler.policy"),
    ],
)
def test_what_an_init_would_keep_from_the_command_is_refused(scheduler: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        order(scheduler=scheduler, init=True)
    assert caught.value.field == field
    assert "scheduler" in order(scheduler=scheduler)


@pytest.mark.needs("root", "chrt")
@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"policy": "fifo", "priority": 5}, ["SCHED_FIFO", "priority: 5"]),
        ({"policy": "rr", "priority": 9, "flags": ["RESET_ON_FORK"]}, ["SCHED_RR|SCHED_RESET_ON_FORK", "priority: 9"]),
        (
            {"policy": "deadline", "runtime": 10**6, "deadline": 10**7, "period": 2 * 10**7},
            ["SCHED_DEADLINE", "parameters: 1000000/10000000/20000000"],
        ),
    ],
)
def test_policies_that_take_privilege(engine: Engine, scheduler: dict[str, Any], expected: list[str]) -> None:
    done = engine.run(["chrt", "-p", "1"], driver="native", scheduler=scheduler, capture_output=True, check=True)
    assert all(text in done.stdout.decode() for text in expected), done.stdout


@pytest.mark.needs("root", "busybox")
def test_a_nice_value_below_the_callers(engine: Engine, rootfs: Path) -> None:
    command = ["sh", "-c", "cut -d' ' -f19 /proc/self/stat; nice -n -1 true"]
    scheduler = {"policy": "other", "nice": -7}
    done = engine.run(command, rootfs=rootfs, driver="native", scheduler=scheduler, capture_output=True, text=True)
    assert done.stdout == "-7\n"
    assert done.returncode != 0  # the command itself has no CAP_SYS_NICE


@pytest.mark.needs("root", "busybox")
def test_what_the_kernel_refuses_is_told(engine: Engine, rootfs: Path) -> None:
    bad = {"policy": "deadline", "runtime": 10**7, "deadline": 10**6, "period": 10**7}
    with pytest.raises(LaunchError, match=r"^scheduler: Invalid argument; the kernel does not take these values"):
        engine.run(["true"], rootfs=rootfs, driver="native", scheduler=bad)


@pytest.mark.needs("root", "busybox")
def test_processors_that_are_not_there(engine: Engine, rootfs: Path) -> None:
    spec = ContainerSpec(["sleep", "60"], rootfs=str(rootfs), init=True, cpu_affinity={"final": "8000"})
    with engine.create(spec, driver="native", stdin=DEVNULL) as container:
        container.start()
        with pytest.raises(LaunchError, match=r"^affinity: Invalid argument; none of these processors is there"):
            container.exec(["true"])
        assert len(container.pids()) == 2


@pytest.mark.needs("root")
def test_an_ordinary_user_is_told_what_takes_privilege(nobody: dict[str, Any]) -> None:
    program = (
        "import execdrivers as x\n"
        "for fields in ({'oom_score_adj': -500}, {'scheduler': {'policy': 'other', 'nice': -9}},"
        "               {'io_priority': {'io_class': 'rt'}}, {'oom_score_adj': 500}):\n"
        "    try: print(x.run(['true'], driver='native', **fields).returncode)\n"
        "    except x.LaunchError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, **nobody)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("write: /proc/self/oom_score_adj: Permission denied; "), done.stderr
    assert lines[1].startswith("scheduler: Operation not permitted; ")
    assert lines[2].startswith("io-priority: Operation not permitted; ")
    assert lines[3:] == ["0"]


# --- keyrings


def test_a_keyring_counts_against_who_started_the_container() -> None:
    """Containers with the same mappings have one user on the host, who may have 200 keys: kernel.keys.maxkeys."""
    mapping = [{"container_id": 0, "host_id": 100_000, "size": 1000}]
    fields: dict[str, Any] = {"namespaces": {"user": "private"}, "uid_mappings": mapping, "gid_mappings": mapping}
    spec = ContainerSpec.build(["true"], user="0:0", **fields)
    compiled = compile.compile(spec, "box", ROOT)
    for operations in (compiled.operations, compile.compile_exec(spec, "box", ROOT, compiled.guarantees)):
        names = [item.name for item in operations]
        assert names.index("keyring") < names.index("identity")


def calls(*lines: str) -> list[str]:
    """A command that evaluates expressions with ``keyctl`` and prints the results as JSON."""
    return [PYTHON, "-c", KEYCTL + f"print(json.dumps([{', '.join(lines)}]))"]


def inside(engine: Engine, *lines: str, **fields: Any) -> list[Any]:
    done = engine.run(
        calls(*lines), driver="native", seccomp="unconfined", capture_output=True, check=True, timeout=60, **fields
    )
    result: list[Any] = json.loads(done.stdout)
    return result


@needs_keys
@pytest.mark.needs("root", PYTHON)
def test_the_session_keyring_is_its_own(engine: Engine) -> None:
    """And even the same user's processes elsewhere may not so much as see it: keyrings(7), "possession"."""
    (ours,) = json.loads(subprocess.run(calls(f"keyctl({GET_ID}, {SESSION})"), stdout=PIPE, check=True).stdout)
    text = "(b := ctypes.create_string_buffer(200), keyctl(6, -3, ctypes.addressof(b), 200), b.value.decode())[2]"
    first, described = inside(engine, f"keyctl({GET_ID}, {SESSION})", text, user="0:0")
    second = inside(engine, f"keyctl({GET_ID}, {SESSION})", user="0:0")[0]
    assert len({ours, first, second}) == 3
    assert described.split(";")[3] == "3f000000"


@needs_keys
@pytest.mark.needs("root", PYTHON)
def test_keys_of_the_caller_and_of_other_containers_are_out_of_reach(engine: Engine) -> None:
    command = KEYCTL + (
        f"add = libc.syscall(ctypes.c_long({217 if platform.machine() == 'aarch64' else 248}), b'user', b'kit', b'x',"
        f" ctypes.c_long(1), ctypes.c_long({SESSION}))\n"
        f"print(json.dumps([keyctl({GET_ID}, {SESSION}), add]), flush=True)\n"
        "sys.stdin.read()\n"
    )
    spec = ContainerSpec([PYTHON, "-c", command], user="0:0", seccomp="unconfined")
    with engine.create(spec, driver="native", stdin=PIPE, stdout=PIPE) as container:
        container.start()
        assert container.stdout is not None
        ring, key = json.loads(container.stdout.readline())
        assert ring > 0
        assert key > 0
        attempts = [f"keyctl({LINK}, {ring}, {SESSION})", f"keyctl({READ}, {key})", f"keyctl({LINK}, {key}, {SESSION})"]
        for results in (
            inside(engine, *attempts, user="0:0"),
            json.loads(subprocess.run(calls(*attempts), stdout=PIPE, check=True).stdout),
            json.loads(container.exec(calls(*attempts), stdout=PIPE).communicate()[0] or b""),
        ):
            assert results == [-13, -13, -13]


# --- labels


def test_selinux_is_looked_for() -> None:
    probe = Registry().probe("native")
    there = os.path.exists("/sys/fs/selinux/enforce")
    assert ("selinux" in probe.features) == there
    if not there:
        assert "has no SELinux" in probe.missing["selinux"].reason


@pytest.mark.needs("root", "busybox")
@pytest.mark.skipif(os.path.exists("/sys/fs/selinux/enforce"), reason="needs a kernel without SELinux")
def test_a_label_is_written_where_the_kernel_takes_it(rootfs: Path) -> None:
    """One without SELinux takes none, and says so of the step that asked for it."""
    spec = ContainerSpec(["true"], rootfs=str(rootfs), selinux_label="system_u:system_r:container_t:s0")
    operations = compile.compile(spec, "box", host.look()).operations
    assert [item.args for item in operations if item.name == "selinux"] == [(spec.selinux_label,)]
    plan = [
        operation("selinux", spec.selinux_label),
        operation("ready"),
        operation("exec", 0, ("/bin/true",), ("x",), ()),
    ]
    launch = Launch(plan)
    child = spawn_launcher(launch, Stdio(-1, -1, -1))
    try:
        launch.started()
        with pytest.raises(LaunchError, match=r"^selinux: Invalid argument; the policy has no such label"):
            launch.ready()
    finally:
        launch.close()
        pidfd.wait(child.pidfd)
        pidfd.wait_status(child.pidfd)
        os.close(child.pidfd)
