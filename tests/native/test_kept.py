"""Plans that are kept are those that would be compiled anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from execdrivers import CommandNotFound, ContainerSpec, Engine, SpecError
from execdrivers_native import host
from execdrivers_native.compile import compile
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
        plan = self.kept.find(spec, id, False)
        if plan is None or not self.kept.fits(spec, plan):
            self.count += 1
            self.kept.keep(spec, id, False, anew)
            plan = anew
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
