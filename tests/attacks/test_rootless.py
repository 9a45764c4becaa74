"""The attacks of a single process once more, in containers that an ordinary user makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .report import ATTACK, lost, won

pytestmark = pytest.mark.needs("root", "busybox")

#: In one program, for its start is what takes time: reads lists of arguments, prints what the attacker does.
_ATTACK = """
import json, sys, execdrivers
rootfs, state = sys.argv[1:]
with execdrivers.Engine(root=state) as engine:
    for command in json.load(sys.stdin):
        done = engine.run(["/bin/attack", *command], rootfs=rootfs, driver="native", capture_output=True, text=True)
        print(json.dumps([done.returncode, done.stdout]))
"""


@pytest.fixture
def place(rootfs: Path, attack_program: Path) -> Iterator[Path]:
    """A directory of the ordinary user's, with the hostile rootfs in it."""
    place = Path(tempfile.mkdtemp(prefix="replay-"))
    shutil.copytree(rootfs, place / "rootfs", symlinks=True)
    shutil.copy(attack_program, place / "rootfs" / ATTACK.lstrip("/"))
    subprocess.run(["chown", "-Rh", "4321:4321", place], check=True)
    yield place
    shutil.rmtree(place)


def test_nothing_is_gained(ordinary: tuple[str, ...], place: Path, no_leaks: None) -> None:
    pattern = "/proc/sys/kernel/core_pattern"
    (place / "witness").touch()
    attacks = {
        "a device": ["node", "c", "1", "1"],
        "a file of the kernel's": ["write", pattern, Path(pattern).read_text()],
        "masked files": ["read", "/proc/interrupts", "/proc/keys", "/proc/kcore", "/proc/timer_list"],
        "the log": ["kmsg"],
        "keys": ["keyring", "replay", "1"],
        "a socket": ["abstract", "replay"],
        "directories": ["reach", str(place / "witness")],
        "handles": ["shocker", "1", "0200000000000000"],
        "cgroups": ["release-agent", "none,name=replay", "/bin/false"],
    }
    command = [*ordinary, sys.executable, "-c", _ATTACK, place / "rootfs", place / "state"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/"}
    done = subprocess.run(
        command, input=json.dumps([*attacks.values()]), capture_output=True, text=True, env=environment, timeout=100
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(attacks)
    for name, (code, output) in zip(attacks, results, strict=True):
        assert code == 0, name
        lines = output.splitlines()
        assert lost(lines), name
        # A user namespace in one is no gain; whatever it opens is.
        assert set(won(lines)) <= {"unshare(CLONE_NEWUSER)"}, name
