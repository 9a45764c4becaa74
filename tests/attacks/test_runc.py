"""The same attacks on Debian's runc 1.1.5, with Docker's capabilities and masks and without a filter of system calls.

What is asserted is what happens: "fell" tests document where that version falls and ours does not (docs/attacks.md).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from execdrivers import defaults

from .report import ATTACK, won

pytestmark = pytest.mark.needs("root", "busybox", "runc")


def _version() -> str:
    done = subprocess.run(["runc", "--version"], capture_output=True, text=True)
    return done.stdout.split()[2] if done.returncode == 0 else ""


class Runc:
    """A copy of runc, which may come to harm, and a bundle."""

    def __init__(self, directory: Path, rootfs: Path) -> None:
        found = shutil.which("runc", path=os.environ["PATH"] + ":/usr/sbin")
        assert found
        self.program = Path(shutil.copy(found, directory / "runc-copy"))
        self.rootfs = rootfs
        self._directory = directory
        self._number = 0

    def config(self, args: Sequence[object], capabilities: Sequence[str], **process: Any) -> dict[str, Any]:
        """OCI's config.json, in Docker's manner."""
        names = [*defaults.CAPABILITIES, *capabilities]
        sets = dict.fromkeys(("bounding", "effective", "permitted"), names)
        return {
            "ociVersion": "1.0.2",
            "process": {
                "args": list(map(str, args)),
                "user": {"uid": 0, "gid": 0},
                "cwd": "/",
                "env": [f"PATH={defaults.PATH}"],
                "capabilities": sets,
                "noNewPrivileges": True,
                **process,
            },
            "root": {"path": str(self.rootfs)},
            "mounts": [
                {"destination": m.destination, "type": m.type, "source": m.source, "options": list(m.options)}
                for m in defaults.MOUNTS
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "uts", "ipc", "network", "cgroup")],
                "maskedPaths": list(defaults.MASKED_PATHS),
                "readonlyPaths": list(defaults.READONLY_PATHS),
                "cgroupsPath": "/ed-replay-runc",
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            },
        }

    @contextlib.contextmanager
    def container(
        self,
        *args: object,
        capabilities: Sequence[str] = (),
        change: Callable[[Any], object] = bool,
        inherit: Sequence[int] = (),
        **process: Any,
    ) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        """Run a command; its id and the runc in front of it."""
        self._number += 1
        bundle = self._directory / f"bundle-{self._number}"
        bundle.mkdir()
        config = self.config(args, capabilities, **process)
        change(config)
        (bundle / "config.json").write_text(json.dumps(config))
        id = f"replay-{os.getpid()}-{self._number}"
        command = [*self.command(), "run", "--bundle", bundle, id]
        with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True, pass_fds=inherit) as running:
            yield id, running
            running.communicate(timeout=60)
        subprocess.run([*self.command(), "delete", "--force", id], stderr=-3)

    def command(self) -> list[object]:
        return [self.program, "--root", self._directory / "runc-state"]

    def run(self, *args: object, **options: Any) -> list[str]:
        """What a command prints."""
        with self.container(*args, **options) as (_, running):
            output, self.error = running.communicate(timeout=60)
        return output.splitlines()


@pytest.fixture
def runc(tmp_path: Path, hostile: Path) -> Runc:
    if not _version().startswith("1.1.5"):
        pytest.skip("needs runc 1.1.5")
    return Runc(tmp_path, hostile)


#: Races that are won once in a hundred starts of runc, which take 50 ms each.
patience = pytest.mark.skipif("EXECDRIVERS_RACES" not in os.environ, reason="takes minutes: set EXECDRIVERS_RACES=1")


@pytest.mark.parametrize("capabilities", [[], ["CAP_SYS_PTRACE"]], ids=str)
def test_joining_withstood_but_a_tracer_gains_all(runc: Runc, witness: Path, capabilities: list[str]) -> None:
    with runc.container(ATTACK, "watch", witness, capabilities=capabilities) as (id, running):
        assert running.stdout is not None
        assert running.stdout.readline() == "watching\n"
        for _ in range(15):
            subprocess.run([*runc.command(), "exec", id, "/bin/true"], check=True)
        lines = running.communicate(timeout=60)[0].splitlines()
    assert "overwrite" not in won(lines)
    assert runc.program.read_bytes()[:4] == b"\x7fELF"
    assert set(won(lines)) == ({"trace"} if capabilities else set())
    assert int(lines[-1].split()[-1], 16) >> 21 & 1  # CAP_SYS_ADMIN, of the process that joins


def test_directories_withstood(runc: Runc, witness: Path) -> None:
    for number in range(3, 12):
        assert not won(runc.run(ATTACK, "reach", witness, cwd=f"/proc/self/fd/{number}"))


def test_inheritance_withstood(runc: Runc) -> None:
    with runc.container("sh", "-c", "echo on; read line") as (id, running):
        assert running.stdout is not None
        assert running.stdout.readline() == "on\n"
        output = subprocess.check_output([*runc.command(), "exec", id, ATTACK, "capabilities"], text=True)
    assert output.splitlines()[0] == "CapInh:\t0000000000000000"


def test_a_link_for_proc_withstood(runc: Runc) -> None:
    (runc.rootfs / "evil/proc").mkdir(parents=True)
    (runc.rootfs / "proc").rmdir()
    (runc.rootfs / "proc").symlink_to("evil/proc")
    assert runc.run(ATTACK, "read", "/proc/interrupts") == []
    assert "must be mounted on ordinary directory" in runc.error


def test_a_single_process_withstood(runc: Runc) -> None:
    """Devices, the kernel's log, a user namespace's /proc."""
    assert not won(runc.run(ATTACK, "node", "c", "1", "1"))
    assert not won(runc.run(ATTACK, "kmsg"))
    assert not {"mount proc", "mount sysfs", "unmask"} & set(won(runc.run(ATTACK, "userns")))


def test_the_callers_own_withstood(runc: Runc, secret: str, key: tuple[str, int]) -> None:
    """Its memory, environment, keys and descriptors."""
    assert runc.run(ATTACK, "scan", secret) == ["scanned"]
    assert not {"session", "user", "request_key"} & set(won(runc.run(ATTACK, "keyring", *key)))
    leaked = os.open("/", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    with runc.container("sh", "-c", "ls /proc/$$/fd; true", inherit=(leaked,)) as (_, running):
        assert running.communicate(timeout=60)[0].split() == ["0", "1", "2"]
    os.close(leaked)


@pytest.mark.needs("cgroup-v1")
def test_limits_fell(runc: Runc) -> None:
    """Unless the engine above brings a filter of system calls, as Docker does."""

    def change(config: Any) -> None:
        config["linux"]["resources"]["pids"] = {"limit": 50}

    assert "raise the limit" in won(runc.run(ATTACK, "cgroup", "pids", "pids.max", "max", change=change))


@patience
def test_directories_outside_fell(runc: Runc, tmp_path: Path, swapping: Callable[..., None]) -> None:
    """CVE-2024-45310."""
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    outside.mkdir()
    (volume / "sub").mkdir(parents=True)
    (volume / "link").symlink_to(outside)
    swapping(volume / "sub", volume / "link")

    def change(config: Any) -> None:
        config["mounts"] += [
            {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["bind"]},
            {"destination": "/volume/sub", "type": "tmpfs", "source": "replay", "options": []},
            {"destination": "/volume/sub/made/by", "type": "tmpfs", "source": "replay", "options": []},
        ]

    assert any(runc.run("true", change=change) or [*outside.iterdir()] for _ in range(1000))


@patience
def test_renames_fell(runc: Runc, swapping: Callable[..., None]) -> None:
    swapping(runc.rootfs / "proc", runc.rootfs / "run")
    assert any(won(runc.run(ATTACK, "read", "/proc/interrupts", "/run/interrupts")) for _ in range(500))


@patience
def test_null_fell(runc: Runc, swapping: Callable[..., None]) -> None:
    """CVE-2025-31133, where /dev is a directory of the rootfs: the mask comes to be a file of the kernel's."""
    os.mknod(runc.rootfs / "dev/null", 0o20666, os.makedev(1, 3))
    (runc.rootfs / "dev/link").symlink_to("/proc/sys/kernel/core_pattern")
    swapping(runc.rootfs / "dev/null", runc.rootfs / "dev/link")

    def change(config: Any) -> None:
        config["mounts"] = [m for m in config["mounts"] if m["destination"] in ("/proc", "/sys")]
        config["linux"]["maskedPaths"] = ["/etc/group"]

    pattern = Path("/proc/sys/kernel/core_pattern").read_text().splitlines()
    assert any(runc.run("cat", "/etc/group", change=change) == pattern for _ in range(500))
