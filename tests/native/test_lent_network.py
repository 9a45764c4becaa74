"""The network namespace that a caller makes for its launcher, from `run` of the same spec for the second time on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from execdrivers import CompletedContainer, Engine
from execdrivers.launcher import Launch

pytestmark = pytest.mark.needs("root", "busybox")

#: The container's network namespace, its interfaces with their flags, and whether it hears itself.
REPORT = [
    "sh",
    "-c",
    """readlink /proc/self/ns/net; ls /sys/class/net; cat /sys/class/net/lo/flags; ls /proc/sys/net/ipv4/conf
    ping -c 1 127.0.0.1 >/dev/null && echo heard""",
]

MAPPING = {"container_id": 0, "host_id": 100000, "size": 1000}


def run(engine: Engine, rootfs: Path) -> CompletedContainer:
    return engine.run(REPORT, rootfs=rootfs, driver="native", capture_output=True, text=True, check=True)


def own_network() -> str:
    return os.readlink("/proc/thread-self/ns/net")


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What `Launch.give_network` has returned."""
    given: list[bool] = []
    give = Launch.give_network

    def noted(launch: Launch) -> bool:
        given.append(give(launch))
        return given[-1]

    monkeypatch.setattr(Launch, "give_network", noted)
    return given


def test_it_is_like_one_that_the_launcher_made(no_leaks: None, engine: Engine, rootfs: Path, lent: list[bool]) -> None:
    before = own_network()
    reports = [run(engine, rootfs).stdout.split("\n", 1) for _ in range(4)]
    assert lent == [True] * 3, "the first plan was compiled"
    assert own_network() == before
    namespaces = [namespace for namespace, _ in reports]
    assert len({*namespaces, before}) == 5
    assert {rest for _, rest in reports} == {"lo\n0x9\nall\ndefault\nlo\nheard\n"}


def test_other_threads_stay_where_they_are(engine: Engine, rootfs: Path, lent: list[bool]) -> None:
    run(engine, rootfs)
    before, seen, done = own_network(), set[str](), threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(own_network())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(30):
            run(engine, rootfs)
    finally:
        done.set()
        thread.join()
    assert any(lent) and seen == {before}


def test_it_belongs_to_the_callers_own(engine: Engine, rootfs: Path, lent: list[bool]) -> None:
    """A thread that is in another network namespace than the program comes back to its own."""
    found: list[tuple[str, str]] = []

    def elsewhere() -> None:
        unshare_network()
        before = own_network()
        for _ in range(2):
            run(engine, rootfs)
        found.append((before, own_network()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    [(before, after)] = found
    assert before == after != own_network() and lent


def unshare_network() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.parametrize(
    "fields",
    [{"network": "host"}, {"uid_mappings": [MAPPING], "gid_mappings": [MAPPING]}],
    ids=["the host's", "a user namespace's"],
)
def test_what_is_not_the_callers_to_make(
    engine: Engine, rootfs: Path, lent: list[bool], fields: dict[str, object]
) -> None:
    for _ in range(2):
        engine.run(["true"], rootfs=rootfs, driver="native", check=True, **fields)  # type: ignore[arg-type]
    assert not lent


def test_none_is_made_where_others_are_at_it(engine: Engine, rootfs: Path, lent: list[bool]) -> None:
    """It saves time only where another processor would idle."""
    run(engine, rootfs)
    began = threading.Barrier(2)
    give, encoded = Launch.give, []

    def slow(launch: Launch, *args: object, **options: object) -> None:
        encoded.append(options["network"])
        began.wait(10)
        give(launch, *args, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Launch, "give", slow)
        threads = [threading.Thread(target=run, args=(engine, rootfs)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(encoded) == [False, True]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize(
    ("call", "error", "when", "told"),
    [
        ("setns", "EPERM", 1, ["0", "0", "same"]),
        ("setns", "ENOMEM", 2, ["0", "0", "same"]),
        ("setns", "EPERM", 2, ["0", "LaunchError network ENOTRECOVERABLE", "other"]),
        ("unshare", "ENOSPC", 1, ["0", "LaunchError clone ENOSPC", "same"]),
        ("socket", "EMFILE", 1, ["0", "LaunchError clone EMFILE", "same"]),
    ],
)
def test_what_may_fail(tmp_path: Path, rootfs: Path, call: str, error: str, when: int, told: list[str]) -> None:
    """A thread that could not come back does not leave (and its launcher makes the namespace); one that does not come
    back says so."""
    program = f"""
import errno, os
from execdrivers import Engine, LaunchError
before = os.readlink("/proc/thread-self/ns/net")
engine = Engine({str(tmp_path / "store")!r})
for _ in range(2):
    try:
        print(engine.run(["true"], rootfs={str(rootfs)!r}, driver="native").returncode)
    except LaunchError as error:
        print("LaunchError", error.step, errno.errorcode[error.errno])
print("same" if os.readlink("/proc/thread-self/ns/net") == before else "other")
print(engine.list(), os.listdir("/proc/self/task").__len__())
os._exit(0)
"""
    inject = f"inject={call}:error={error}:when={when}"
    trace = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    done = subprocess.run([*trace, sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[:3] == told, done.stderr
    assert done.stdout.splitlines()[3:] == ["[] 1"]
