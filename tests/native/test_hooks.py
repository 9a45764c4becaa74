"""OCI hooks on native: what the conformance kit cannot know of."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, ContainerSpec, Engine, LaunchError, Registry, pidfd
from execdrivers.testing import host as oracle

pytestmark = pytest.mark.needs("root", "busybox")


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def spec(rootfs: Path, **hooks: Any) -> ContainerSpec:
    return ContainerSpec.build(["true"], rootfs=rootfs, hooks=hooks)


def test_no_hook_no_step(rootfs: Path) -> None:
    driver = Registry().get("native")
    without = driver.plan(ContainerSpec.build(["true"], rootfs=rootfs), "box")
    assert driver.plan(spec(rootfs), "box") == without
    assert not {step.op for step in without.steps} & {"hook", "sync"}


def test_the_plan_shows_each_where_it_runs(rootfs: Path) -> None:
    hooks = {point: [shell(point)] for point in _POINTS}
    steps = Registry().get("native").plan(spec(rootfs, **hooks), "box").steps
    shown = [step.args["point"] if step.op == "hook" else step.op for step in steps]
    expected = ["root", "sync", "prestart", "create_runtime", "create_container", "mask", "pivot", "ready"]
    expected += ["start_container", "exec", "poststart", "poststop"]
    places = [shown.index(name) for name in expected]
    assert places == sorted(places)


_POINTS = ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")


@pytest.mark.parametrize("point", _POINTS[:4])
@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (shell("echo no such thing >&2; exit 3"), r"exited with 3: no such thing; it is given the container's state"),
        (shell("kill -9 $$"), r"was killed by (SIGKILL|signal 9)"),
        (
            {"path": "/no/hook"},
            r"cannot be executed: No such file or directory; the path is one (of the host|in the container)",
        ),
        ({"path": "/etc/passwd"}, r"cannot be executed: Permission denied; chmod"),
    ],
    ids=["code", "signal", "absent", "not executable"],
)
def test_a_failure_names_the_hook_and_says_how(
    engine: Engine, rootfs: Path, point: str, hook: dict[str, Any], message: str
) -> None:
    with pytest.raises(LaunchError, match=rf"^hooks\.{point}: {hook['path']} {message}") as caught:
        engine.run(spec(rootfs, **{point: [hook]}), driver="native")
    assert (caught.value.step, caught.value.path) == (f"hooks.{point}", hook["path"])


@pytest.mark.parametrize("point", _POINTS[:4])
def test_one_that_hangs_is_killed_with_all_that_it_has_started(engine: Engine, rootfs: Path, point: str) -> None:
    mark = f"hook-{os.getpid()}-{time.monotonic_ns()}"
    script = "setsid sleep 99 & sleep 99 & sleep 99"
    hook = shell(script, env={"MARK": mark, "PATH": "/bin"}, timeout=1)
    with pytest.raises(
        LaunchError, match=rf"^hooks\.{point}: /bin/sh did not end within 1 seconds and was killed; raise"
    ):
        engine.run(spec(rootfs, **{point: [hook]}), driver="native")
    oracle.until(lambda: not oracle.with_variable(f"MARK={mark}"), "all of it has ended")


@pytest.mark.parametrize("point", ["create_runtime", "create_container", "start_container"])
def test_one_that_floods_or_leaves_a_talker_behind_is_not_waited_for(engine: Engine, rootfs: Path, point: str) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; (while echo x; do :; done) & exit 4"
    with pytest.raises(LaunchError, match="exited with 4: "):
        engine.run(spec(rootfs, **{point: [shell(script)]}), driver="native", timeout=20)


def test_a_state_larger_than_a_pipe(engine: Engine, rootfs: Path) -> None:
    wanted = spec(rootfs, start_container=[shell('[ "$(wc -c)" -gt 200000 ]')])
    done = engine.run(wanted.replace(annotations={"large": "x" * 200_000}), driver="native")
    assert done.returncode == 0


def test_what_create_container_mounts_is_in_the_container(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    """Also below a root that the command finds read-only."""
    script = f"mount -t tmpfs -o size=1m hook {rootfs}/srv && echo made >{rootfs}/srv/file"
    command = ["sh", "-c", "cat /srv/file; touch /x"]
    done = engine.run(
        ContainerSpec.build(command, rootfs=rootfs, readonly=True, hooks={"create_container": [shell(script)]}),
        driver="native",
        capture_output=True,
    )
    assert done.stdout == b"made\n"
    assert b"Read-only file system" in done.stderr
    assert not os.path.ismount(rootfs / "srv")
    assert not (rootfs / "srv/file").exists()


def test_a_runtime_hook_finds_the_namespaces_by_the_pid(engine: Engine, rootfs: Path) -> None:
    """As hooks that make networks do."""
    script = "pid=$(sed 's/.*\"pid\": \\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip link set lo mtu 4321"
    done = engine.run(
        ContainerSpec.build(["cat", "/sys/class/net/lo/mtu"], rootfs=rootfs, hooks={"create_runtime": [shell(script)]}),
        driver="native",
        capture_output=True,
    )
    assert done.stdout == b"4321\n"


def test_late_failures_are_logged(engine: Engine, rootfs: Path, caplog: pytest.LogCaptureFixture) -> None:
    hooks = {"poststart": [shell("exit 1")], "poststop": [shell("exit 2")]}
    with caplog.at_level(logging.WARNING, "execdrivers"):
        assert engine.run(spec(rootfs, **hooks), driver="native").returncode == 0
    assert [text.split(": ", 1)[1].split(";")[0] for text in caplog.messages] == [
        "hooks.poststart: /bin/sh exited with 1",
        "hooks.poststop: /bin/sh exited with 2",
    ]


def test_poststop_runs_once_after_the_maker_was_killed(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        "import os, sys, execdrivers as x\n"
        "spec = x.ContainerSpec.from_json(sys.argv[2])\n"
        "container = x.Engine(sys.argv[1]).create(spec, driver='native', name='left', stdin=x.DEVNULL)\n"
        "container.start()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    wanted = ContainerSpec.build(
        ["sleep", "60"],
        rootfs=rootfs,
        hooks={"poststop": [shell(f"cat >>{log}; echo >>{log}")]},
        annotations={"a": "b"},
    )
    done = subprocess.run([sys.executable, "-c", program, engine.root, wanted.to_json()])
    assert done.returncode == -signal.SIGKILL
    first, second = engine.get("left"), engine.get("left")
    assert first.state == "running"
    assert not log.exists()
    first.delete(force=True)
    second.delete(force=True)
    (line,) = log.read_text().splitlines()
    state = json.loads(line)
    assert (state["status"], state["id"], state["annotations"]) == ("stopped", "left", {"a": "b"})
    assert "pid" not in state


def test_an_interrupted_launch_leaves_no_hook(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    """The maker is killed while a hook runs in the container: hook and container end by themselves."""
    mark = f"hook-{os.getpid()}-{time.monotonic_ns()}"
    program = (
        "import sys, execdrivers as x\n"
        "x.Engine(sys.argv[1]).create(x.ContainerSpec.from_json(sys.argv[2]), driver='native', name='left')\n"
    )
    wanted = spec(rootfs, create_container=[shell("sleep 99", env={"MARK": mark, "PATH": "/bin"})])
    with subprocess.Popen([sys.executable, "-c", program, engine.root, wanted.to_json()], stdin=DEVNULL) as maker:
        found = oracle.until(lambda: oracle.with_variable(f"MARK={mark}"), "the hook runs")
        holds = [pidfd.open(pid) for pid in found]
        maker.kill()
    for hold in holds:
        assert pidfd.wait(hold, 20)
        os.close(hold)
    engine.delete("left", force=True)


def test_in_a_user_namespace(engine: Engine, own_rootfs: Path) -> None:
    """Those in the container are its root, which does not get to the container's directory on the host."""
    mapping = [{"container_id": 0, "host_id": 100_000, "size": 1000}]
    inside = shell('[ "$(id -u)" = 0 ] && grep -q 100000 /proc/self/uid_map', env={"PATH": "/bin:/usr/bin"})
    outside = shell("grep -q 4294967295 /proc/self/uid_map && [ -e config.json ]", env={"PATH": "/bin:/usr/bin"})
    for place in (own_rootfs, *own_rootfs.parents):
        place.chmod(place.stat().st_mode | 0o055)
    wanted = spec(own_rootfs, create_runtime=[outside], create_container=[inside], start_container=[inside])
    wanted = wanted.replace(namespaces={"user": "private"}, uid_mappings=mapping, gid_mappings=mapping)
    assert engine.run(wanted, driver="native").returncode == 0


def test_without_privilege(nobody: dict[str, Any]) -> None:
    """An ordinary user's hooks run as the user; the one before pivot_root has the container's privileges."""
    program = (
        "import sys, execdrivers as x\n"
        "sh = lambda text: [{'path': '/bin/sh', 'args': ['sh', '-c', text], 'env': {'PATH': '/bin:/usr/bin'}}]\n"
        "x.run(['true'], driver='native', hooks={\n"
        "    'create_runtime': sh('grep CapEff /proc/self/status; id -u; exit 5')})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, **nobody)
    assert "exited with 5: CapEff:\t0000000000000000\n65534" in done.stderr
    program = program.replace("create_runtime", "create_container")
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, **nobody)
    assert "exited with 5: CapEff:\t000001ff" in done.stderr
