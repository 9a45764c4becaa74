"""What all tests share: root file systems, an engine that is checked for leaks, and skips that say why.

Fixtures: ``rootfs`` (busybox, shared, leave it as it is), ``own_rootfs`` (the same, to be broken), ``engine``
(its own state root; leak-checked), ``no_leaks`` (the check alone). Marker: ``needs("root", "runc", …)``.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

import execdrivers

# --- what a test needs ------------------------------------------------------------------------------------------


def _need_program(name: str) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return "" if shutil.which(name, path=path) else f"the program {name}"


#: Name in ``needs()`` → function that returns what is lacking, or "". Any other name is a program.
_NEEDS: dict[str, Callable[[], str]] = {
    "root": lambda: "" if os.geteuid() == 0 else "root",
    "non-root": lambda: "" if os.geteuid() != 0 else "an ordinary user",
    "cgroup-v1": lambda: "" if any(kind == "cgroup" for kind, _ in _cgroup_mounts()) else "cgroup v1",
    "cgroup-v2": lambda: (
        "" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "cgroup v2 at /sys/fs/cgroup (tests/vm has it)"
    ),
}


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores these, and what it starts inherits that: the tests are about their effect.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    config.addinivalue_line("markers", f"needs(*names): skip, saying why, unless all are here: {', '.join(_NEEDS)}, …")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            lacking = _NEEDS.get(name, functools.partial(_need_program, name))()
            if lacking:
                pytest.skip(f"needs {lacking}")


# --- root file systems ------------------------------------------------------------------------------------------

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
alice:x:1000:1000:Alice:/home/alice:/bin/sh
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


def _build_busybox(path: Path) -> Path:
    """A root file system of busybox and nothing else."""
    busybox = shutil.which("busybox")
    if not busybox:
        pytest.skip("needs busybox (Debian package busybox-static; make test installs it when root)")
    for directory in "bin dev etc home/alice proc root srv sys tmp usr/bin var".split():
        (path / directory).mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)
    (path / "tmp").chmod(0o1777)
    (path / "etc/passwd").write_text(_PASSWD)
    (path / "etc/group").write_text(_GROUP)
    shutil.copy(busybox, path / "bin/busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if not (path / "bin" / applet).exists():
            (path / "bin" / applet).symlink_to("busybox")
    if os.geteuid() == 0:
        os.chown(path / "home/alice", 1000, 1000)
    return path


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A busybox root file system, shared by the whole session: do not change it."""
    return _build_busybox(tmp_path_factory.mktemp("busybox") / "rootfs")


@pytest.fixture
def own_rootfs(rootfs: Path, tmp_path: Path) -> Path:
    """A copy of ``rootfs`` that the test may break."""
    copy = tmp_path / "rootfs"
    subprocess.run(["cp", "-a", rootfs, copy], check=True)
    return copy


# --- leaks ------------------------------------------------------------------------------------------------------


def _cgroup_mounts() -> list[tuple[str, str]]:
    """(``cgroup`` or ``cgroup2``, mount point) of each mounted hierarchy."""
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    kinds = [(row[row.index("-") + 1], row[4]) for row in rows]
    return [(kind, point) for kind, point in kinds if kind in ("cgroup", "cgroup2")]


def _cgroups() -> set[str]:
    """Every cgroup below a directory ``execdrivers``, itself excluded."""
    found = set()
    for _, point in _cgroup_mounts():
        for directory, names, _ in os.walk(point):
            if os.path.basename(directory) == "execdrivers":
                found |= {f"{directory}/{name}" for name in names}
    return found


def _is_in_first_namespace(pid: int, kind: str) -> bool:
    # Those of pid 1, not ours: the tests may run in a container themselves.
    return os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/1/ns/{kind}")


def _stat(pid: int) -> tuple[int, int, str]:
    """Parent, start time, and for people: command and state."""
    text = Path(f"/proc/{pid}/stat").read_text()
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return int(fields[1]), int(fields[19]), f"{head})[{fields[0]}]"


def _processes() -> dict[tuple[int, int], str]:
    """(pid, start time) → description, of processes that this test run can have made.

    These are its descendants, and those adopted by pid 1 that are somehow contained (another pid or mount namespace,
    another root): on a shared machine the rest is not ours to judge.
    """
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                table[int(name)] = _stat(int(name))
            except (OSError, IndexError):
                pass  # ended meanwhile
    found = {}
    for pid, (_, start, text) in table.items():
        top = pid
        while top not in (0, 1, os.getpid()) and top in table:
            above, top = top, table[top][0]
        ours = top == os.getpid() and pid != os.getpid()
        if not ours and pid != 1 and top == 1:
            try:
                root = os.stat(f"/proc/{above}/root")
                own = os.stat("/proc/1/root")
                contained = (root.st_dev, root.st_ino) != (own.st_dev, own.st_ino)
                ours = contained or not all(_is_in_first_namespace(above, kind) for kind in ("pid", "mnt"))
            except OSError:
                pass
        if ours:
            found[pid, start] = text
    return found


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the one that listed the directory
    return found


def _mounts() -> set[str]:
    with open("/proc/self/mountinfo") as file:
        return {f"{line.split()[4]} (mount {line.split()[0]})" for line in file}


@attrs.frozen
class Snapshot:
    """All that a container could leave behind on this machine."""

    processes: Mapping[tuple[int, int], str] = attrs.field(factory=_processes)
    mounts: set[str] = attrs.field(factory=_mounts)
    cgroups: set[str] = attrs.field(factory=_cgroups)
    descriptors: Mapping[int, str] = attrs.field(factory=_descriptors)
    links: set[str] = attrs.field(factory=lambda: set(os.listdir("/sys/class/net")))
    threads: set[str] = attrs.field(factory=lambda: {thread.name for thread in threading.enumerate()})

    def leaks_since(self, before: Snapshot) -> list[str]:
        """What is here and was not before, for people."""
        found = [f"process {key[0]} {text}" for key, text in self.processes.items() if key not in before.processes]
        for kind in ("mounts", "cgroups", "links", "threads"):
            found += [f"{kind[:-1]} {name}" for name in sorted(getattr(self, kind) - getattr(before, kind))]
        for number, target in self.descriptors.items():
            # The sealed launcher is made once and kept for the life of the program.
            if number not in before.descriptors and not target.startswith("/memfd:execdrivers"):
                found.append(f"file descriptor {number} → {target}")
        return found


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails the test when a process, mount, cgroup, link, thread or descriptor outlives it."""
    before = Snapshot()
    yield
    # What was killed a moment ago may still be on its way out.
    deadline = time.monotonic() + 2
    while (leaks := Snapshot().leaks_since(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not leaks, "left behind: " + "; ".join(leaks)


@pytest.fixture
def engine(no_leaks: None, tmp_path: Path) -> Iterator[execdrivers.Engine]:
    """An engine with a state root of its own, in which no container must remain."""
    root = tmp_path / "state"
    with execdrivers.Engine(root=root) as engine:
        yield engine
    remaining = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.exists() else []
    assert not remaining, f"left in the store: {remaining}"


@pytest.fixture
def driver_probe() -> Callable[[str], Any]:
    """name → that driver's probe; skips the test with the driver's own reason where it cannot run here."""

    def probe(name: str) -> Any:
        answer = execdrivers.Registry().probe(name)
        if not answer.available:
            pytest.skip(f"driver {name}: " + "; ".join(map(str, answer.problems)))
        return answer

    return probe
