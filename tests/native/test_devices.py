"""The host's devices stay closed, by what mounts are and by rules; in both forms that rules have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from execdrivers import PIPE, ContainerSpec, Engine, Registry, Resources, cgroups
from execdrivers.cgroups.layout import look

pytestmark = pytest.mark.needs("root", "busybox")

#: Nothing but capabilities and rules is to stand between a process and a device.
_ADMIN: dict[str, Any] = {
    "capabilities": {"add": ["SYS_ADMIN", "SYSLOG"]},
    "apparmor_profile": "unconfined",
    "seccomp": "unconfined",
}
#: The kernel's log, which can be opened on every machine, and the standard devices have it not.
_LOG = {"type": "c", "major": 1, "minor": 11}


@pytest.fixture(params=["list", "program"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rules as a list of v1, or as a program of v2, which a hybrid host can have both."""
    layout = cgroups.look()
    if request.param == "program" and "devices" in layout.v1:
        layout = attrs.evolve(layout, v1={name: point for name, point in layout.v1.items() if name != "devices"})
        monkeypatch.setattr(cgroups, "look", lambda: layout)
    if request.param == "list" and "devices" not in layout.v1:
        pytest.skip("needs the devices controller of cgroup v1")
    if problem := cgroups.device_rules_problem(layout):
        pytest.skip(f"needs device rules: {problem}")
    return str(request.param)


@pytest.fixture
def ruled(no_leaks: None, form: str, tmp_path: Path) -> Iterator[Engine]:
    """An engine whose driver has the rules in that form."""
    with Engine(root=tmp_path / "state", registry=Registry()) as engine:
        yield engine


def sh(engine: Engine, script: str, rootfs: Path, **fields: Any) -> str:
    done = engine.run(
        ["sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True, timeout=30, **fields
    )
    assert done.stderr == "", done.stderr
    return str(done.stdout)


def opens(path: str) -> str:
    """A script that says whether it can be opened, and why not."""
    return f"(: <{path}) 2>&1 && echo opened"


def node(path: str) -> str:
    """The same of a node that it makes."""
    return f"mknod {path} c 1 11 2>&1 && {opens(path)}"


def test_no_rules_where_nodev_says_it_all(engine: Engine, rootfs: Path) -> None:
    with engine.create(ContainerSpec(["true"], rootfs=str(rootfs)), driver="native") as container:
        assert container.guarantees["devices"] is None and container.guarantees["cgroups"] == {}


def test_a_node_in_a_mount_below_a_bind_is_dead(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    below = tmp_path / "shared" / "below"
    below.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", below], check=True)
    try:
        mount = {"type": "bind", "source": str(tmp_path / "shared"), "destination": "/mnt", "options": ["rbind"]}
        assert "Permission denied" in sh(
            engine, node("/mnt/below/log"), rootfs, mounts=[mount], capabilities={"add": ["SYSLOG"]}
        )
    finally:
        subprocess.run(["umount", below], check=True)


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_one_that_may_mount_has_rules(ruled: Engine, rootfs: Path, place: str) -> None:
    script = f"mount -o remount,dev {place} 2>/dev/null; {node(place + '/log')}; echo >/dev/null"
    said = sh(ruled, script, rootfs, ephemeral=True, **_ADMIN)
    assert "Operation not permitted" in said and "opened" not in said
    assert sh(ruled, script, rootfs, ephemeral=True, resources={"devices": []}, **_ADMIN) == "opened\n"


def test_the_hosts_dev_opens_nothing_more(ruled: Engine, rootfs: Path) -> None:
    mount = {"type": "bind", "source": "/dev", "destination": "/dev", "options": ["rbind"]}
    options: dict[str, Any] = {"mounts": [mount], "capabilities": {"add": ["SYSLOG"]}}
    said = sh(ruled, f"{opens('/dev/kmsg')}; head -c1 /dev/zero | wc -c; echo >/dev/null", rootfs, **options)
    assert "Operation not permitted" in said and said.endswith("1\n")
    assert sh(ruled, opens("/dev/kmsg"), rootfs, resources={"devices": []}, **options) == "opened\n"


def test_a_mount_that_comes_in_later_opens_nothing(ruled: Engine, rootfs: Path, tmp_path: Path) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        subprocess.run(["mount", "--make-shared", place], check=True)
        (place / "below").mkdir()
        mount = {"type": "bind", "source": str(place), "destination": "/mnt", "options": ["rbind", "rslave"]}
        script = ["sh", "-c", f"read x; {node('/mnt/below/log')}; echo >/dev/null"]
        spec = ContainerSpec(script, rootfs=str(rootfs), mounts=[mount], capabilities={"add": ["SYSLOG"]})
        with ruled.create(spec, driver="native", stdin=PIPE, stdout=PIPE) as container:
            container.start()
            subprocess.run(["mount", "-t", "tmpfs", "none", place / "below"], check=True)
            out, _ = container.communicate(b"\n", timeout=20)
            assert out is not None and out.endswith(b"Operation not permitted\n")
    finally:
        subprocess.run(["umount", "-R", place], check=True)


def test_a_node_gives_what_it_says_and_no_more(ruled: Engine, rootfs: Path) -> None:
    script = f"{opens('/dev/mine')}; (: >>/dev/mine) 2>&1; mknod /tmp/x b 7 7 2>&1"
    options: dict[str, Any] = {
        "devices": [{"path": "/dev/mine", "access": "r", **_LOG}],
        "capabilities": {"add": ["SYSLOG"]},
        "ephemeral": True,
    }
    for given in ({}, {"resources": {"devices": []}}):
        said = sh(ruled, script, rootfs, **options, **given)
        assert said.startswith("opened\n") and "/dev/mine: Operation not permitted" in said
        assert "mknod" not in said
    said = sh(ruled, script, rootfs, **options, resources={"devices": [{"allow": True, "type": "c", "major": 10}]})
    assert said.startswith("opened\n") and "mknod: /tmp/x: Operation not permitted" in said


def test_a_terminal_under_rules(ruled: Engine, rootfs: Path) -> None:
    resources = {"devices": [{"allow": False, "type": "b"}]}
    spec = ContainerSpec(["sh", "-c", "echo hello >/dev/tty; tty"], rootfs=str(rootfs), tty=True, resources=resources)
    with ruled.create(spec, driver="native", stdout=PIPE) as container:
        container.start()
        assert (container.communicate(timeout=20)[0] or b"").startswith(b"hello\r\n/dev/")


def test_rules_change_while_it_runs(ruled: Engine, rootfs: Path, form: str) -> None:
    """By another program too; further commands are under the same rules."""
    spec = ContainerSpec(
        ["sh", "-c", "mknod /tmp/log c 1 11; echo; exec sleep 60"],
        rootfs=str(rootfs),
        ephemeral=True,
        init=True,
        **_ADMIN,
    )
    with ruled.create(spec, driver="native", stdout=PIPE) as container:
        container.start()
        assert container.stdout is not None and container.stdout.read(1) == b"\n"

        def answer() -> bytes | None:
            with container.exec(["sh", "-c", opens("/tmp/log")], stdout=PIPE, stderr=PIPE) as process:
                return process.communicate(timeout=20)[0]

        closed = b"sh: can't open /tmp/log: Operation not permitted\n"
        assert answer() == closed
        container.update(Resources(devices=[{"allow": True, "access": "r", **_LOG}]))
        assert answer() == b"opened\n"
        container.update(Resources(devices=[{"allow": False}]))
        assert answer() == closed
        if form == "list" or "devices" not in look().v1:  # another program sees the host as it is
            program = (
                "import sys, execdrivers; from execdrivers import Resources;"
                "execdrivers.Engine(sys.argv[1]).get(sys.argv[2]).update(Resources(devices=[{'allow': True}]))"
            )
            subprocess.run([sys.executable, "-c", program, ruled.root, container.id], check=True)
            assert answer() == b"opened\n"
        container.update(Resources(devices=[]))
        assert answer() == b"opened\n"


def test_in_a_user_namespace(ruled: Engine, rootfs: Path) -> None:
    """There the nodes are the host's own, some of which anybody may open."""
    if not os.path.exists("/dev/fuse") or os.stat("/dev/fuse").st_mode & 0o006 != 0o006:
        pytest.skip("needs a /dev/fuse that anybody may open")
    mappings = [{"container_id": 0, "host_id": 100_000, "size": 1000}]
    options: dict[str, Any] = {"uid_mappings": mappings, "gid_mappings": mappings, "ephemeral": True}
    options["mounts"] = [{"type": "bind", "source": "/dev", "destination": "/dev", "options": ["rbind"]}]
    script = f"{opens('/dev/fuse')}; echo >/dev/null"
    assert "Operation not permitted" in sh(ruled, script, rootfs, **options)
    assert sh(ruled, script, rootfs, resources={"devices": []}, **options) == "opened\n"


def test_rules_come_with_an_update(ruled: Engine, rootfs: Path) -> None:
    """One that had none gets them, and its nodes stay open."""
    spec = ContainerSpec(["sleep", "60"], rootfs=str(rootfs), init=True)
    with ruled.create(spec, driver="native") as container:
        container.start()
        container.update(Resources(devices=[{"allow": True, **_LOG}]))
        with container.exec(["sh", "-c", "echo >/dev/null && head -c1 /dev/zero"], stdout=PIPE) as process:
            assert process.communicate(timeout=20)[0] == b"\0"


def test_a_further_command_that_may_mount_has_rules(ruled: Engine, rootfs: Path) -> None:
    open_wide = {"apparmor_profile": "unconfined", "seccomp": "unconfined"}
    spec = ContainerSpec(["sleep", "60"], rootfs=str(rootfs), init=True, ephemeral=True, **open_wide)
    with ruled.create(spec, driver="native") as container:
        container.start()
        argv = ["sh", "-c", f"mount -o remount,dev /dev/shm && {node('/dev/shm/log')}; echo >/dev/null"]
        with container.exec(argv, stdout=PIPE, capabilities=_ADMIN["capabilities"]) as process:
            assert (process.communicate(timeout=20)[0] or b"").endswith(b"Operation not permitted\n")


def test_rules_in_the_plan(rootfs: Path, form: str) -> None:
    spec = ContainerSpec(
        ["true"], rootfs=str(rootfs), resources={"devices": [{"allow": True, "type": "c", "major": 10}]}
    )
    (step,) = [step for step in Registry().get("native").plan(spec, "box").steps if step.op == "cgroup"]
    if form == "list":
        assert "c 10:* rwm" in step.args["devices.allow"].splitlines() and step.args["devices.deny"] == "a"
    else:
        assert step.args["devices"][0] == "allow c 10:* rwm"
    assert os.path.basename(str(step.args["path"])) == "box"
