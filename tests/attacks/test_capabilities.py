"""Capabilities that come back: by inheritance (CVE-2022-29162), by a user namespace, by a set-user-ID program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers import DEVNULL, PIPE, ContainerSpec, Engine

from .report import ATTACK, UNCONFINED, won

pytestmark = pytest.mark.needs("root", "busybox")

Attack = Callable[..., list[str]]

#: Prints the capabilities of the first process and of one that joined; its caller has inheritable ones to give.
_INHERIT = """
import sys, execdrivers
command = ["grep", "Cap", "/proc/self/status"]
with execdrivers.Engine(root=sys.argv[2]) as engine:
    for user in ("0", "1000"):
        engine.run(command, rootfs=sys.argv[1], driver="native", user=user)
        spec = execdrivers.ContainerSpec.build(["sleep", "60"], rootfs=sys.argv[1], user=user)
        with engine.create(spec, driver="native", stdin=-3) as container:
            container.start()
            container.exec(command, stdin=-3).wait(20)
"""


def capabilities(text: str) -> list[dict[str, int]]:
    """The five sets, for each process that printed its own."""
    rows = [line.split(":\t") for line in text.splitlines()]
    sets = [dict(rows[at : at + 5]) for at in range(0, len(rows), 5)]
    return [{name: int(mask, 16) for name, mask in each.items()} for each in sets]


@pytest.mark.needs("setpriv")
def test_nothing_is_inherited(own_rootfs: Path, tmp_path: Path, no_leaks: None) -> None:
    inherit = ["setpriv", "--inh-caps=+sys_admin,+chown", "--ambient-caps=+sys_admin,+chown"]
    command = [*inherit, sys.executable, "-c", _INHERIT, own_rootfs, tmp_path / "state"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    seen = capabilities(done.stdout)
    assert len(seen) == 4
    for sets in seen:
        assert sets["CapInh"] == sets["CapAmb"] == 0
        assert sets["CapPrm"] in (0, 0xA80425FB)
        assert sets["CapBnd"] == 0xA80425FB


@pytest.mark.needs("setpriv")
def test_control_a_mere_child_inherits(tmp_path: Path) -> None:
    command = ["setpriv", "--inh-caps=+chown", "--reuid=1000", "--clear-groups", "grep", "Cap", "/proc/self/status"]
    (sets,) = capabilities(subprocess.check_output(command, text=True))
    assert sets["CapInh"]


def test_a_user_namespace_gains_nothing(attack: Attack) -> None:
    assert not won(attack("userns"))


def test_nor_without_the_filter_and_apparmor(attack: Attack) -> None:
    """One can be had then, and in it the kernel mounts no /proc or /sys that shows more than those that are there."""
    lines = attack("userns", **UNCONFINED)
    assert "unshare(CLONE_NEWUSER)" in won(lines)
    assert not {"mount proc", "mount sysfs", "unmask"} & set(won(lines))


def test_control_without_masks_proc_is_mounted_anew(attack: Attack) -> None:
    options = {"masked_paths": (), "readonly_paths": (), **UNCONFINED}
    assert {"unshare(CLONE_NEWUSER)", "mount proc"} <= set(won(attack("userns", **options)))


@pytest.mark.parametrize("no_new_privileges", [None, False])
def test_a_set_user_id_program(engine: Engine, hostile: Path, no_new_privileges: bool | None) -> None:
    """Only where it is asked for does one work, and then within the container's bounds."""
    (hostile / "bin/attack").chmod(0o4755)
    spec = ContainerSpec.build(
        [ATTACK, "capabilities"],
        rootfs=hostile,
        user="alice",
        no_new_privileges=no_new_privileges,
    )
    with engine.create(spec, driver="native", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL) as container:
        container.start()
        (sets,) = capabilities((container.communicate(timeout=20)[0] or b"").decode())
    assert bool(sets["CapEff"]) == (no_new_privileges is False)
    assert sets["CapBnd"] == 0xA80425FB
