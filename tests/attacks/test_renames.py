"""A rootfs that others share while a container starts: names are exchanged between any two steps of the launcher.

The class of CVE-2019-19921, CVE-2021-30465, CVE-2024-45310, CVE-2025-31133 and CVE-2025-52565. A mount goes along when
the directory below it is renamed, so a decoy in its place is all it takes to have the masks land elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from execdrivers import Engine, LaunchError, Mount
from execdrivers.launcher import Operation, operation

from .report import ATTACK, won

pytestmark = pytest.mark.needs("root", "busybox")

Alter = Callable[..., None]


def exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) < 0:  # AT_FDCWD, RENAME_EXCHANGE
        raise OSError(ctypes.get_errno(), f"exchange {one} and {other}")


def at_each_step(
    alter: Alter, first: str, act: Callable[[int], object], undo: Callable[[int], object]
) -> Iterator[str]:
    """Have the next launch stopped before one operation, the next time before the next one, and so on, from the first
    mount at ``first`` until all paths are hidden and the host's root is gone: ``act`` there, and ``undo`` then."""
    before = {"at": 0, "steps": 1}

    def change(operations: tuple[Operation, ...]) -> list[Operation]:
        names = [item.args[2] if item.name == "mount" else item.name for item in operations]
        start = names.index(first) + 1
        end = max(index for index, name in enumerate(names) if name in ("pivot", "mask", "readonly"))
        before["steps"] = end - start
        at = start + before["at"]
        return [
            *operations[:at],
            operation("sync", "act"),
            *operations[at:end],
            operation("sync", "undo"),
            *operations[end:],
        ]

    alter(change, {"act": act, "undo": undo})
    while before["at"] < before["steps"]:
        yield f"step {before['at']} after {first}"
        before["at"] += 1


def run(engine: Engine, rootfs: Path, *command: str, **options: object) -> list[str]:
    """What the attacker prints; nothing where the launcher refuses to go on."""
    with contextlib.suppress(LaunchError):
        done = engine.run(
            [ATTACK, *command], rootfs=rootfs, driver="native", capture_output=True, text=True, timeout=20, **options
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout).splitlines()
    return []


@pytest.mark.parametrize(("victim", "decoy"), [("proc", "run"), ("sys", "run"), ("dev", "run"), ("dev", "proc")])
def test_masks_land_in_the_mount_itself(engine: Engine, alter: Alter, hostile: Path, victim: str, decoy: str) -> None:
    def swap(_: int) -> None:
        exchange(hostile / victim, hostile / decoy)

    started = 0
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    for step in at_each_step(alter, f"/{victim}", swap, swap):
        lines = run(engine, hostile, "write", "/proc/sys/kernel/core_pattern", pattern)
        started += bool(lines)
        assert not won(lines), step
        assert not won(run(engine, hostile, "read", "/proc/interrupts", "/proc/kcore", "/sys/firmware/acpi")), step
        assert not won(run(engine, hostile, "node", "c", "1", "5")), step
    assert started > (0 if victim == "sys" else 5)  # of which little is hidden


def test_nor_in_a_race(engine: Engine, hostile: Path, swapping: Callable[..., None]) -> None:
    """The same, without knowing when. (runc 1.1.5 loses one in twenty of these.)"""
    swapping(hostile / "proc", hostile / "run")
    started = 0
    for _ in range(120):
        lines = run(engine, hostile, "read", "/proc/interrupts", "/run/interrupts", "/proc/keys", "/run/keys")
        assert not won(lines)
        started += bool(lines)
    assert started > 20


def naive_steps(naive: Path, rootfs: Path, act: dict[str, Callable[[], object]], *command: str) -> list[str]:
    """Run the old-fashioned runtime, and do something after steps of it; its command's output."""
    with subprocess.Popen([naive, "start", rootfs, *command], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            act.get(line.strip(), lambda: None)()
            process.stdin.write(".")
            process.stdin.flush()
            if line == "root\n":
                break
        return process.stdout.read().splitlines()


def test_control_masks_by_name_are_evaded(naive: Path, hostile: Path) -> None:
    read = (ATTACK, "read", "/proc/interrupts")
    assert not won(naive_steps(naive, hostile, {}, *read))
    swap = lambda: exchange(hostile / "proc", hostile / "run")  # noqa: E731
    assert won(naive_steps(naive, hostile, {"dev": swap, "masked": swap}, *read)) == ["/proc/interrupts"]


def other_node(hostile: Path) -> Path:
    """A node that a container may make on its rootfs, yet cannot open: where it lies devices are dead."""
    node = hostile / "other"
    os.mknod(hostile / "new", 0o20666, os.makedev(1, 7))
    return (hostile / "new").rename(node)


#: Starts containers with a device on the rootfs, while the kernel is slow to return from mknod(2).
_SLOWLY = """
import os, sys, execdrivers
rootfs, state = sys.argv[1:]
null = execdrivers.Device("/node", "c", 1, 3, 0o666)
for _ in range(60):
    os.mknod(f"{rootfs}/new", 0o20666, os.makedev(1, 7))
    os.rename(f"{rootfs}/new", f"{rootfs}/other")
    with execdrivers.Engine(root=state) as engine:
        try:
            command = ["/bin/attack", "read", "/node", "/other"]
            engine.run(command, rootfs=rootfs, driver="native", devices=[null])
        except execdrivers.LaunchError as error:
            print(error)
            break
"""


@pytest.mark.needs("strace")
def test_a_node_is_not_exchanged_for_another(
    hostile: Path, tmp_path: Path, no_leaks: None, swapping: Callable[..., None]
) -> None:
    """A device that the spec gives gets a mount on which devices work. It must not be another that came in its way."""
    (hostile / "node").touch()
    swapping(hostile / "node", other_node(hostile))
    delay = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=mknodat:delay_exit=5000"]
    command = [*delay, sys.executable, "-c", _SLOWLY, str(hostile), str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert not won(done.stdout.splitlines())
    assert "another file took its place" in done.stdout


def test_control_another_node_is_bound(naive: Path, hostile: Path) -> None:
    read = (ATTACK, "read", "/node", "/other")
    other_node(hostile)
    assert not won(naive_steps(naive, hostile, {}, *read))
    swap = lambda: exchange(hostile / "node", other_node(hostile))  # noqa: E731
    assert won(naive_steps(naive, hostile, {"node": swap}, *read)) == ["/node"]


def test_masks_below_mounts_of_the_spec(engine: Engine, own_rootfs: Path, tmp_path: Path) -> None:
    """Also through a mount on a mount, and through a link that leads from one to another."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "secret").write_text("secret")
    (volume / "link").symlink_to("/etc/group")
    done = engine.run(
        ["sh", "-c", "cat /data/volume/secret /etc/group"],
        rootfs=own_rootfs,
        driver="native",
        mounts=[Mount("/data", "tmpfs", "tmpfs", ()), Mount("/data/volume", "bind", str(volume), ("bind",))],
        masked_paths=["/data/volume/secret", "/data/volume/link"],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
