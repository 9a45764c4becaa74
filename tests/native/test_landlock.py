"""Landlock, as the launcher applies it; what the kit asks of every driver is not repeated here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from execdrivers import ContainerSpec, Engine, LaunchError, Registry, SpecError, UnsupportedFeature
from execdrivers.launcher import landlock
from execdrivers.launcher import landlock_features as features

pytestmark = pytest.mark.skipif(
    any(features().values()), reason="needs all of Landlock: " + "; ".join(str(p) for p in features().values() if p)
)

#: What busybox needs.
_BUSYBOX = {"execute": ["/bin"]}


def sh(engine: Engine, script: str, rootfs: Path | None, **fields: object) -> str:
    done = engine.run(
        ["sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True, timeout=30, **fields
    )
    return str(done.stdout) + str(done.stderr)


@pytest.mark.needs("root")
def test_rules_are_in_force_and_told(engine: Engine, rootfs: Path) -> None:
    rules = {**_BUSYBOX, "write": ["/tmp"], "connect": []}
    spec = ContainerSpec.build(
        ["sh", "-c", "cat /etc/passwd; ls /; cp /bin/sh /tmp/x; /tmp/x"], rootfs=rootfs, landlock=rules
    )
    done = engine.run(spec, driver="native", capture_output=True, text=True)
    assert done.stdout == ""
    assert [line.rsplit(": ", 1)[1] for line in done.stderr.splitlines()] == ["Permission denied"] * 3
    assert done.guarantees["landlock"] == {"abi": landlock.landlock_abi(), **rules}


@pytest.mark.needs("root")
def test_nothing_is_in_force_unasked(engine: Engine, rootfs: Path) -> None:
    done = engine.run(["cat", "/etc/passwd"], rootfs=rootfs, driver="native", capture_output=True)
    assert done.returncode == 0
    assert done.guarantees["landlock"] is None


@pytest.mark.needs("root")
def test_nothing_takes_it_back(engine: Engine, rootfs: Path) -> None:
    """Neither another root, nor another name for the file, nor a way through the init's /proc."""
    script = (
        "chroot / cat /etc/passwd; ln /etc/passwd /tmp/p; cat /tmp/p; cat /proc/self/root/etc/passwd; mv /etc /tmp/e"
    )
    told = sh(engine, script, rootfs, ephemeral=True, init=True, landlock={**_BUSYBOX, "write": ["/tmp"]})
    assert "root:" not in told
    assert len(told.splitlines()) == 5


@pytest.mark.needs("root")
def test_paths_are_the_containers(engine: Engine, own_rootfs: Path, tmp_path: Path) -> None:
    """A link of a hostile rootfs leads to what the container has there, not the host."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (own_rootfs / "etc/link").symlink_to(secret)
    with pytest.raises(LaunchError, match="/etc/link") as raised:
        sh(engine, "cat /etc/link", own_rootfs, landlock={**_BUSYBOX, "read": ["/etc/link"]})
    assert raised.value.step == "landlock"


@pytest.mark.needs("root")
def test_stdio_is_the_containers_own_null_device(engine: Engine, rootfs: Path) -> None:
    """Also where the rules would keep the launcher from opening it: the host's could have its mode changed."""
    mode = Path("/dev/null").stat().st_mode
    told = engine.run(
        ["sh", "-c", "chmod 600 /proc/self/fd/0; stat -c %d /proc/self/fd/0 -L"],
        rootfs=rootfs,
        driver="native",
        capture_output=True,
        text=True,
        landlock={**_BUSYBOX, "read": ["/proc"]},
    )
    assert Path("/dev/null").stat().st_mode == mode
    assert int(told.stdout) != Path("/dev").stat().st_dev


def test_the_plan_says_it(rootfs: Path) -> None:
    spec = ContainerSpec.build(["true"], rootfs=rootfs, landlock={**_BUSYBOX, "bind": [80], "scopes": ["signal"]})
    with Engine() as engine:
        steps = engine.explain(spec, driver="native").to_dict()["steps"]
    (place,) = [number for number, step in enumerate(steps) if step["op"] == "landlock"]
    assert steps[place] == {
        "op": "landlock",
        "abi": landlock.landlock_abi(),
        "restricts": ["files", "bind", "signal"],
        "execute": ["/bin"],
        "bind": [80],
    }
    assert [step["op"] for step in steps[place - 1 :]] == ["no-new-privileges", "landlock", "seccomp", "ready", "exec"]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({}, "landlock: {} restricts nothing"),
        ({"read": ["etc"]}, r"landlock.read\[0\]: 'etc' is not an absolute path"),
        ({"read": ["/a/../b"]}, r"contains '..'"),
        ({"bind": [70000]}, r"landlock.bind\[0\]: 70000 is not a TCP port"),
        ({"scopes": ["signals"]}, r"landlock.scopes\[0\]: 'signals' is not a scope of Landlock; did you mean 'signal'"),
    ],
)
def test_what_cannot_be_meant(rules: dict[str, object], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        ContainerSpec(["true"], landlock=rules)


def test_new_privileges_and_landlock_exclude_each_other() -> None:
    with pytest.raises(SpecError, match="leave no_new_privileges unset"):
        ContainerSpec(["true"], landlock={"bind": []}, no_new_privileges=False)


def test_what_an_older_kernel_lacks_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rootfs: Path
) -> None:
    """As on Linux 6.1, whose ABI 2 knows neither of truncating nor of ports."""
    monkeypatch.setattr(landlock, "landlock_abi", lambda: 2)
    engine = Engine(tmp_path / "state", registry=Registry())
    with pytest.raises(UnsupportedFeature, match=r"landlock.ports \(asked for by landlock.bind\).*ABI 2.*takes 4"):
        sh(engine, "true", rootfs, landlock={"bind": []})
    with pytest.raises(UnsupportedFeature, match=r"landlock \(asked for by landlock.read\).*ABI 2.*Linux 6.2"):
        sh(engine, "true", rootfs, landlock={"read": ["/"]})


def test_by_command_line(rootfs: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({**_BUSYBOX, "read": ["/etc"]}))
    options = ["--root", tmp_path / "state", "--rm", "--rootfs", rootfs, "--security-opt", f"landlock={rules}"]
    words = [sys.executable, "-m", "execdrivers", "run", *options, "--", "sh", "-c", "cat /etc/hostname /proc/version"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "/proc/version: Permission denied" in done.stderr or "/proc/version': Permission denied" in done.stderr
