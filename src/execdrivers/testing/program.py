"""The probe program: what a process in a container finds out about itself, and what it may do.

It is the kit's oracle inside, as `execdrivers.testing.host` is outside; neither asks the driver.
"""

from __future__ import annotations

import errno
import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from execdrivers.defaults import ALL_CAPABILITIES

__all__ = ["COMMAND", "Attempt", "MountPoint", "Report", "build", "emitted", "fnv", "make_rootfs"]

#: Where it is in the kit's rootfs.
COMMAND = "/bin/probe"

_SOURCE = Path(__file__).with_name("probe.c")

_PASSWD = """\
root:x:0:0:root:/root:{shell}
daemon:x:1:1:daemon:/:/bin/false
alice:x:1000:1000:Alice:/home/alice:{shell}
nobody:x:65534:65534:nobody:/:/bin/false
"""
_GROUP = """\
root:x:0:
daemon:x:1:
wheel:x:10:root,alice
users:x:100:alice
alice:x:1000:
nogroup:x:65534:
"""


def build(directory: Path) -> Path:
    """The program as a file in ``directory``. Skips the test where there is no compiler for static programs."""
    target = directory / "probe"
    target.write_bytes(_compiled())
    target.chmod(0o755)
    return target


@functools.cache
def _compiled() -> bytes:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler (Debian: gcc libc6-dev)")
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory, "probe")
        command = [compiler, "-static", "-O1", "-pthread", "-s", "-o", str(target), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs a C compiler and a static libc (Debian: gcc libc6-dev): {done.stderr.strip()[-300:]}")
        return target.read_bytes()


def make_rootfs(path: Path, program: Path, command: str = COMMAND) -> Path:
    """A root file system with a program in it, as ``command``, and users root, daemon, alice (1000) and nobody."""
    for directory in "bin data dev etc home/alice proc root run srv sys tmp usr/bin var".split():
        (path / directory).mkdir(parents=True)
    for place in (path, *path.rglob("*")):
        place.chmod(0o755)
    (path / "tmp").chmod(0o1777)
    (path / "etc/passwd").write_text(_PASSWD.format(shell=command))
    (path / "etc/group").write_text(_GROUP)
    (path / "etc/hostname").write_text("kit\n")
    for name in ("passwd", "group", "hostname"):
        (path / "etc" / name).chmod(0o644)
    place = path / command.lstrip("/")
    shutil.copy(program, place)
    place.chmod(0o755)
    return path


def emitted(count: int) -> bytes:
    """What ``emit COUNT`` writes."""
    return bytes((i ^ i >> 8 ^ i >> 16) & 0xFF for i in range(count))


def fnv(data: bytes) -> str:
    """The checksum that ``swallow`` prints."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


@attrs.frozen
class Attempt:
    """What came of a thing that the program tried: ``errno`` by name ("" when it worked), and what it brought."""

    command: str
    errno: str
    result: str | None

    @classmethod
    def parse(cls, line: bytes) -> Attempt:
        """From a line of the program's output."""
        data = _decode(line)
        number = data["errno"]
        return cls(data["command"], errno.errorcode.get(number, str(number)) if number else "", data["result"])

    @property
    def ok(self) -> bool:
        """It worked."""
        return not self.errno


@attrs.frozen
class MountPoint:
    """A line of /proc/self/mountinfo: proc_pid_mountinfo(5)."""

    root: str
    point: str
    options: frozenset[str]
    propagation: frozenset[str]
    type: str
    source: str
    super_options: frozenset[str]

    @classmethod
    def parse(cls, line: str) -> MountPoint:
        """From such a line."""
        head, _, tail = line.partition(" - ")
        fields = head.split()
        kind, source, options = tail.split(" ", 2)
        return cls(
            root=_unescape(fields[3]),
            point=_unescape(fields[4]),
            options=frozenset(fields[5].split(",")),
            propagation=frozenset(field.partition(":")[0] for field in fields[6:]),
            type=kind,
            source=source,
            super_options=frozenset(options.split(",")),
        )


class Report(dict[str, Any]):
    """What ``report`` prints, by name, with the parts that take reading as properties."""

    @classmethod
    def parse(cls, line: bytes) -> Report:
        """From the program's output."""
        return cls(_decode(line))

    @property
    def env(self) -> dict[str, str]:
        """The environment."""
        return dict(item.split("=", 1) for item in self["env"])

    @property
    def mounts(self) -> dict[str, MountPoint]:
        """Mount point → the mount that is seen there. None without /proc."""
        lines = (self["mountinfo"] or "").splitlines()
        return {mount.point: mount for mount in map(MountPoint.parse, lines)}

    def capabilities(self, kind: str) -> frozenset[str]:
        """One of the five sets, by names of capabilities(7)."""
        mask = int(self["capabilities"][kind], 16)
        known = frozenset(name for name, bit in ALL_CAPABILITIES.items() if mask >> bit & 1)
        return known | frozenset(f"bit {bit}" for bit in range(64) if mask >> bit & 1 and bit >= len(ALL_CAPABILITIES))

    @property
    def processes(self) -> list[int] | None:
        """The pids it sees in /proc; None without one."""
        return None if self["proc"] is None else sorted(int(name) for name in self["proc"] if name.isdigit())


def _decode(line: bytes) -> Mapping[str, Any]:
    data: Mapping[str, Any] = json.loads(line.decode("utf-8", "surrogateescape"))
    return data


def _unescape(path: str) -> str:
    for code in ("040", "011", "012", "134"):
        path = path.replace(f"\\{code}", chr(int(code, 8)))
    return path
