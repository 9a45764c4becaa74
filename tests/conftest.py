"""What all tests share: root file systems, an engine that is checked for leaks, and skips that say why.

Fixtures: ``rootfs`` (busybox, shared, leave it as it is), ``own_rootfs`` (the same, to be broken), ``engine``
(its own state root; leak-checked), ``no_leaks`` (the check alone), ``ordinary`` (to become an ordinary user).
Marker: ``needs("root", "runc", …)``.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import execdrivers
from execdrivers.testing import leaks
from execdrivers.testing.program import make_rootfs

# --- what a test needs ------------------------------------------------------------------------------------------


def _need_program(name: str) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return "" if shutil.which(name, path=path) else f"the program {name}"


#: Name in ``needs()`` → function that returns what is lacking, or "". Any other name is a program.
_NEEDS: dict[str, Callable[[], str]] = {
    "root": lambda: "" if os.geteuid() == 0 else "root",
    "non-root": lambda: "" if os.geteuid() != 0 else "an ordinary user",
    "cgroup-v1": lambda: "" if " - cgroup " in Path("/proc/self/mountinfo").read_text() else "cgroup v1",
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


#: Minutes in a few tests: first, lest one of two sessions side by side wait for them at the end.
_LONG = ("test_soak.py", "test_examples_plugins.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONG)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            lacking = _NEEDS.get(name, functools.partial(_need_program, name))()
            if lacking:
                pytest.skip(f"needs {lacking}")


# --- other users ------------------------------------------------------------------------------------------------

#: A user without an account, without groups, and without any privilege to be regained.
ORDINARY = ("setpriv", "--reuid=4321", "--regid=4321", "--clear-groups", "--bounding-set=-all")


@functools.cache
def _ordinary_problem() -> str:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return "root and setpriv, to become an ordinary user"
    for words in ([sys.executable, "-c", "import execdrivers.launcher"], ["unshare", "--user", "true"]):
        tried = subprocess.run([*ORDINARY, *words], capture_output=True, text=True)
        if tried.returncode:
            return f"an ordinary user that can run {words[0]} here: {tried.stderr.strip()}"
    return ""


@pytest.fixture
def ordinary() -> tuple[str, ...]:
    """The words before a command that has it run as an ordinary user, uid and gid 4321; none of root's directories
    for tests can be entered by it."""
    if problem := _ordinary_problem():
        pytest.skip(f"needs {problem}")
    return ORDINARY


@pytest.fixture(scope="session")
def nobody() -> dict[str, Any]:
    """What makes a child of `subprocess` an ordinary user's (nobody's), or leaves it ours where that is no root's."""
    changed: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    changed["cwd"] = "/"
    # env(1) fails like any command where the interpreter itself is out of reach.
    command = ["/usr/bin/env", sys.executable, "-c", "import execdrivers.engine"]
    reached = subprocess.run(command, capture_output=True, text=True, **changed)
    if reached.returncode:
        pytest.skip(f"an ordinary user cannot run this interpreter: {reached.stderr.strip()}")
    return changed


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled filters are kept for this session alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


# --- root file systems ------------------------------------------------------------------------------------------


def _build_busybox(path: Path) -> Path:
    """A root file system of busybox and nothing else."""
    busybox = shutil.which("busybox")
    if not busybox:
        pytest.skip("needs busybox (Debian package busybox-static; make test installs it when root)")
    make_rootfs(path, Path(busybox), "/bin/busybox")
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


@pytest.fixture
def no_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the test when a process, mount, cgroup, link, thread or descriptor outlives it."""
    before = leaks.Snapshot()
    yield
    left = leaks.wait_for_none(before, places=[str(tmp_path_factory.getbasetemp())])
    assert not left, "left behind: " + "; ".join(left)


@pytest.fixture
def engine(no_leaks: None, tmp_path: Path) -> Iterator[execdrivers.Engine]:
    """An engine with a state root of its own, in which no container must remain."""
    root = tmp_path / "state"
    with execdrivers.Engine(root=root) as engine:
        yield engine
    remaining = [entry.name for entry in root.glob("[!.]*") if entry.is_dir()]
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
