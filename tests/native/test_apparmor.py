"""AppArmor: the default profile, others, and what a hostile rootfs makes of it. Most of it in the VM (make test-vm)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from execdrivers import (
    PIPE,
    ContainerSpec,
    Engine,
    ExecDriverError,
    LaunchError,
    Registry,
    SpecError,
    UnsupportedFeature,
    apparmor,
)
from execdrivers.launcher import operation
from execdrivers_native import host
from execdrivers_native.compile import compile

here = pytest.mark.skipif(apparmor.problem() is not None, reason=f"needs AppArmor: {apparmor.problem()} (make test-vm)")

_OTHER = "execdrivers-test"


def label(engine: Engine, rootfs: Path | None, **fields: object) -> str:
    """What a container's command is confined by."""
    command = ["cat", "/proc/self/attr/current"]
    done = engine.run(command, rootfs=rootfs, driver="native", capture_output=True, text=True, timeout=60, **fields)
    assert done.returncode == 0, done.stderr
    assert done.guarantees["apparmor"] == (None if done.stdout == "unconfined\n" else done.stdout.split()[0])
    return str(done.stdout).strip()


@pytest.fixture
def other() -> Iterator[str]:
    """Another profile, which keeps a command from /etc/passwd."""
    text = f"profile {_OTHER} flags=(attach_disconnected) {{ file, deny /etc/passwd r, }}"
    for action in ("--replace", "--remove"):
        subprocess.run(["apparmor_parser", action, "--skip-cache"], input=text, text=True, check=True)
        if action == "--replace":
            yield _OTHER


@here
@pytest.mark.needs("root", "apparmor_parser")
class TestInForce:
    """Where the kernel has it."""

    def test_the_default_profile(self, engine: Engine, rootfs: Path) -> None:
        """Loaded for the first container, whoever removed it before."""
        if apparmor.loaded(apparmor.DEFAULT):
            apparmor.unload()
        engine = Engine(engine.root, registry=Registry())
        confined = f"{apparmor.DEFAULT} (enforce)"
        assert label(engine, rootfs) == label(engine, rootfs, init=True) == label(engine, None) == confined
        assert apparmor.loaded(apparmor.DEFAULT)
        assert label(engine, rootfs, apparmor_profile="unconfined") == "unconfined"

    def test_what_the_default_profile_denies(self, engine: Engine, rootfs: Path) -> None:
        """To root with every capability, and nothing masked; as it works without the profile."""
        script = """
            mount -t tmpfs none /tmp && echo mount
            umount /dev/shm && echo umount
            (echo 1 >/proc/sys/net/ipv4/ip_forward) && echo sysctl
            (echo 3 >/proc/sys/kernel/printk_ratelimit_burst) && echo kernel
            head -c 1 /proc/kcore >/dev/null && echo kcore
            (echo x >/sys/kernel/mm/ksm/run) 2>&1 | grep -q ermission || echo sys
            echo x >/proc/self/comm && echo comm
        """
        fields = {"capabilities": {"add": ["ALL"]}, "masked_paths": [], "readonly_paths": [], "user": "0"}
        mounts = [{"destination": "/sys", "type": "sysfs", "options": ["rw"]}]

        def done(profile: str | None) -> list[str]:
            words = ["sh", "-c", script]
            options = {"apparmor_profile": profile, "seccomp": "unconfined", **fields}
            ran = engine.run(
                words, rootfs=rootfs, mounts=mounts, driver="native", capture_output=True, text=True, **options
            )
            return str(ran.stdout).split()

        assert done(None) == ["comm"]
        assert done("unconfined") == ["mount", "umount", "sysctl", "kernel", "kcore", "sys", "comm"]

    def test_another_profile(self, engine: Engine, rootfs: Path, other: str) -> None:
        """Also one that lets no signal through, ours included."""
        assert label(engine, rootfs, apparmor_profile=other) == f"{other} (enforce)"
        spec = ContainerSpec.build(["sleep", "60"], rootfs=rootfs, apparmor_profile=other)
        with engine.create(spec, driver="native") as container:
            container.start()
            with container.exec(["cat", "/etc/passwd"], stderr=PIPE) as process:
                assert b"Permission denied" in (process.communicate()[1] or b"")
            with pytest.raises(PermissionError):
                container.signal("TERM")
            container.kill()
            assert container.wait(30).signal == 9

    def test_a_hostile_proc_redirects_nothing(self, engine: Engine, own_rootfs: Path) -> None:
        """CVE-2019-16884, CVE-2019-19921, CVE-2025-52881: not what the container shows as /proc is written to."""
        fake = own_rootfs / "fake/self/attr/apparmor"
        fake.mkdir(parents=True)
        (fake / "exec").write_text("")
        (own_rootfs / "fake/thread-self").symlink_to("self")
        mounts = [
            {"destination": "/real", "type": "proc"},
            {"destination": "/proc", "type": "bind", "source": str(own_rootfs / "fake"), "options": ["rw"]},
        ]
        done = engine.run(
            ["cat", "/real/self/attr/current"], rootfs=own_rootfs, mounts=mounts, driver="native", capture_output=True
        )
        assert done.stdout == f"{apparmor.DEFAULT} (enforce)\n".encode(), done
        assert (fake / "exec").read_text() == ""

    def test_a_hostile_proc_redirects_nothing_of_more_processes(self, engine: Engine, own_rootfs: Path) -> None:
        """Who joins has to take the container's /proc, and takes nothing else for one."""
        spec = ContainerSpec.build(["sleep", "60"], rootfs=own_rootfs)
        with engine.create(spec, driver="native") as container:
            container.start()
            assert container.pid is not None
            inside = ["nsenter", "--mount", f"--target={container.pid}", "--root", "/bin/sh", "-c"]
            for hostile in ("mount -t tmpfs none /proc", "mount -o bind /proc/1 /proc"):
                subprocess.run([*inside, hostile], check=True)
                with pytest.raises(LaunchError, match="has no procfs") as raised:
                    container.exec(["true"])
                assert raised.value.step == "apparmor"
                subprocess.run([*inside, "umount /proc"], check=True)
            with container.exec(["true"]) as process:
                assert process.wait(30).code == 0
            container.kill()

    def test_one_that_is_not_loaded(self, engine: Engine, rootfs: Path) -> None:
        with pytest.raises(SpecError, match=r"apparmor_profile: 'nosuch' is not loaded; load it: apparmor_parser"):
            label(engine, rootfs, apparmor_profile="nosuch")

    def test_as_an_ordinary_user(self, ordinary: tuple[str, ...]) -> None:
        apparmor.load()
        program = (
            "import execdrivers; r = execdrivers.run(['cat', '/proc/self/attr/current'], driver='native',"
            " capture_output=True, text=True); print(r.guarantees['apparmor'], r.stdout)"
        )
        words = [*ordinary, sys.executable, "-c", program]
        done = subprocess.run(words, capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": "/tmp"})
        assert done.stdout.split() == [apparmor.DEFAULT, apparmor.DEFAULT, "(enforce)"], done.stderr
        shutil.rmtree("/tmp/execdrivers-4321", ignore_errors=True)

    def test_by_command_line(self) -> None:
        program = [sys.executable, "-m", "execdrivers", "apparmor"]
        for action in ("unload", "load"):
            done = subprocess.run([*program, action], capture_output=True, text=True)
            assert done.stdout == f"{apparmor.DEFAULT} {action}ed\n", done.stderr
            assert apparmor.loaded(apparmor.DEFAULT) is (action == "load")


@pytest.mark.skipif(apparmor.problem() is None, reason="needs a kernel without AppArmor")
@pytest.mark.needs("root")
def test_asked_for_where_there_is_none(engine: Engine, rootfs: Path) -> None:
    with pytest.raises(UnsupportedFeature, match=r"apparmor.*the kernel has no AppArmor") as raised:
        label(engine, rootfs, apparmor_profile="docker-default")
    assert raised.value.field == "apparmor_profile"
    with pytest.raises(ExecDriverError, match="the kernel has no AppArmor"):
        apparmor.load()
    assert engine.run(["true"], rootfs=rootfs, driver="native").guarantees["apparmor"] is None


@pytest.mark.needs("apparmor_parser")
def test_the_default_profile_is_one() -> None:
    """Compiled only: the kernel here need not have AppArmor."""
    words = [shutil.which("apparmor_parser", path=os.defpath + ":/usr/sbin:/sbin") or "", "--skip-kernel-load", "-K"]
    done = subprocess.run(words, input=apparmor.PROFILE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("root")
def test_the_plan(rootfs: Path) -> None:
    """As on a host that has the default profile: it is taken before the root is left, and no profile means none."""
    import attrs

    facts = attrs.evolve(host.look(), apparmor_label="unconfined", apparmor_default=apparmor.DEFAULT)

    def profiles(**fields: object) -> list[object]:
        plan = compile(ContainerSpec.build(["true"], rootfs=rootfs, **fields), "id", facts)
        names = [item.name for item in plan.operations]
        assert "apparmor" not in names or names.index("apparmor") == names.index("pivot") - 1
        return [item for item in plan.operations if item.name == "apparmor"]

    assert profiles() == [operation("apparmor", apparmor.DEFAULT)]
    assert profiles(apparmor_profile="mine") == [operation("apparmor", "mine")]
    assert profiles(apparmor_profile="unconfined") == []
