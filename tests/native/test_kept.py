"""Plans that are kept are those that would be compiled anew."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import CommandNotFound, ContainerSpec, Engine, SpecError, pidfd
from execdrivers.launcher import Started
from execdrivers_native import host
from execdrivers_native.compile import compile
from execdrivers_native.handle import NativeHandle
from execdrivers_native.kept import KeptPlans
from execdrivers_native.plan import NativePlan

pytestmark = pytest.mark.needs("root", "busybox")


class Compiler:
    """Compiles through kept plans, and counts what is compiled anew."""

    def __init__(self) -> None:
        self.host = host.look()
        self.kept = KeptPlans(self.host)
        self.count = 0

    def __call__(self, id: str, rootfs: Path, **fields: Any) -> NativePlan:
        spec = ContainerSpec.build(["true"], rootfs=rootfs, **fields)
        anew = compile(spec, id, self.host)
        kept = self.kept.find(spec, False)
        if kept is None or not self.kept.fits(spec, kept):
            self.count += 1
            self.kept.keep(spec, id, False, anew)
            plan = anew
        else:
            plan = kept.named(id)
        assert plan == anew, "as if it was compiled"
        return plan


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"env": {"A": "b"}},
        {"hostname": "one"},
        {"env": {"HOSTNAME": "one"}},
        {"hostname": "two", "domainname": "one"},
        {"user": "7:8", "cwd": "/tmp"},
        {"network": "host"},
        {"namespaces": {"uts": "host"}},
        {"memory": "64M"},
        {"ephemeral": True},
        {"mounts": [{"type": "tmpfs", "destination": "/mnt"}]},
        {"readonly": True, "init": True},
    ],
    ids=str,
)
def test_plans_of_three(rootfs: Path, fields: dict[str, Any]) -> None:
    compiler = Compiler()
    for id in ("one", "two", "x" * 100, "one"):
        compiler(id, rootfs, **fields)


def test_one_compilation_for_many(rootfs: Path) -> None:
    compiler = Compiler()
    for number in range(10):
        compiler(f"c{number}", rootfs)
    assert compiler.count == 1
    for number in range(100):
        compiler("a", rootfs, env={"N": str(number)})
    assert compiler.count == 101


def test_a_root_that_has_changed(own_rootfs: Path) -> None:
    compiler = Compiler()
    etc = own_rootfs / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "passwd").write_text("web:x:5:6::/home/web:\n")
    assert compiler("a", own_rootfs, user="web").guarantees["user"] == "5:6"
    (etc / "passwd").write_text("web:x:7:8::/home/web:\n")
    assert compiler("a", own_rootfs, user="web").guarantees["user"] == "7:8"
    (own_rootfs / "sys").rmdir()
    compiler("a", own_rootfs, user="web")
    assert compiler.count == 3


def wait_for_a_trace(compiler: Compiler, rootfs: Path, **fields: Any) -> None:
    """Until the root is known to tell of its changes by itself."""
    spec = ContainerSpec.build(["true"], rootfs=rootfs, **fields)
    deadline = time.monotonic() + 10
    while (kept := compiler.kept.find(spec, False)) is None or kept.trace is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        compiler("a", rootfs, **fields)


def change_passwd(root: Path) -> None:
    (root / "etc/passwd").write_text("web:x:7:8::/home/web:\n")


def replace_passwd(root: Path) -> None:
    (root / "new").write_text("web:x:7:8::/home/web:\n")
    (root / "new").rename(root / "etc/passwd")


def change_group(root: Path) -> None:
    (root / "etc/group").write_text("more:x:9:web\n")


def replace_etc(root: Path) -> None:
    (root / "etc").rename(root / "old")
    (root / "etc").mkdir()
    change_passwd(root)


def remove_sys(root: Path) -> None:
    (root / "sys").rmdir()


def replace_root(root: Path) -> None:
    root.rename(root.parent / "before")
    shutil.copytree(root.parent / "before", root, symlinks=True)
    change_passwd(root)


CHANGES = [change_passwd, replace_passwd, change_group, replace_etc, remove_sys, replace_root]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_tells_of_changes_tells_of_each(own_rootfs: Path, change: Callable[[Path], None]) -> None:
    """The user and the places are not looked up while a trace of the root is the same."""
    (own_rootfs / "etc").mkdir(exist_ok=True)
    (own_rootfs / "etc/passwd").write_text("web:x:5:6::/home/web:\n")
    compiler = Compiler()
    wait_for_a_trace(compiler, own_rootfs, user="web")
    before = compiler.count
    compiler("a", own_rootfs, user="web")
    assert compiler.count == before, "nothing has changed"
    change(own_rootfs)
    compiler("a", own_rootfs, user="web")
    assert compiler.count == before + 1


@pytest.mark.parametrize("place", ["etc", "etc/passwd", "proc"])
def test_a_root_with_links_tells_of_nothing(own_rootfs: Path, tmp_path: Path, place: str) -> None:
    """What is behind them may change, and the root looks the same."""
    (own_rootfs / "etc").mkdir(exist_ok=True)
    (own_rootfs / "etc/passwd").write_text("web:x:5:6::/home/web:\n")
    real = own_rootfs / place
    real.rename(own_rootfs / "real")
    real.symlink_to("../real" if "/" in place else "real")
    compiler = Compiler()
    spec = ContainerSpec.build(["true"], rootfs=own_rootfs, user="web")
    compiler("a", own_rootfs, user="web")
    time.sleep(0.2)
    compiler("a", own_rootfs, user="web")
    kept = compiler.kept.find(spec, False)
    assert kept is not None and kept.trace is None


def test_a_change_of_just_now_may_be_followed_by_one_at_the_same_time(own_rootfs: Path) -> None:
    (own_rootfs / "etc").mkdir(exist_ok=True)
    compiler = Compiler()
    for number in range(200):  # some of them within a tick of the clock that files are stamped by
        (own_rootfs / "etc/passwd").write_text(f"web:x:{number}:6::/home/web:\n")
        assert compiler("a", own_rootfs, user="web").guarantees["user"] == f"{number}:6"


def test_a_root_that_changes_between_two_runs(no_leaks: None, engine: Engine, own_rootfs: Path) -> None:
    """The second launcher has begun by the time when that is noticed."""
    etc = own_rootfs / "etc"
    etc.mkdir(exist_ok=True)

    def uid() -> bytes:
        args = ["sh", "-c", "while read -r key uid rest; do [ $key = Uid: ] && echo $uid; done < /proc/self/status"]
        output: bytes = engine.run(args, rootfs=own_rootfs, driver="native", user="web", capture_output=True).stdout
        return output

    for number in (5, 7, 7, 9):
        (etc / "passwd").write_text(f"web:x:{number}:8::/:\n")
        assert uid() == b"%d\n" % number
    (etc / "passwd").unlink()
    with pytest.raises(SpecError, match="web"):
        uid()
    (own_rootfs / "proc").rmdir()
    with pytest.raises(SpecError):
        uid()


@pytest.mark.parametrize("init", [False, True])
def test_a_command_that_is_not_there_any_more(no_leaks: None, engine: Engine, own_rootfs: Path, init: bool) -> None:
    """What is let go early is told of when it has ended."""
    for _ in range(2):
        assert engine.run(["sh", "-c", "exit 3"], rootfs=own_rootfs, driver="native", init=init).returncode == 3
    (own_rootfs / "bin/sh").unlink()
    for _ in range(2):
        with pytest.raises(CommandNotFound, match="sh: not found in PATH") as caught:
            engine.run(["sh", "-c", "exit 3"], rootfs=own_rootfs, driver="native", init=init)
        assert caught.value.step == "exec" and caught.value.exit.code == 127
    assert engine.list() == []


def test_each_container_has_its_own_name(engine: Engine, rootfs: Path) -> None:
    for name in ("one", "two"):
        done = engine.run(
            ["sh", "-c", "hostname; echo $HOSTNAME"], rootfs=rootfs, driver="native", name=name, capture_output=True
        )
        assert done.stdout == f"{name}\n{name}\n".encode()


def test_start_times_are_those_of_the_kernel(engine: Engine, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though they are not looked up: only where a tick of the clock has passed meanwhile."""
    told: list[tuple[int | None, int | None]] = []
    hold = NativeHandle.hold

    def noted(handle: NativeHandle, child: Started) -> None:
        hold(handle, child)
        told.append((child.start_time, pidfd.start_time(child.pid)))
        assert handle.identity() == (child.pid, told[-1][1])

    monkeypatch.setattr(NativeHandle, "hold", noted)
    for _ in range(60):
        engine.run(["true"], rootfs=rootfs, driver="native", check=True)
    known = [pair for pair in told if pair[0] is not None]
    assert len(known) > 30 and all(ours == kernels for ours, kernels in known)
