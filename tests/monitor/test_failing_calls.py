"""A monitor whose system calls fail, one after the other (strace): told before the command runs, survived after."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from execdrivers import pidfd
from execdrivers.errors import LaunchError
from execdrivers.monitor import read_exit

pytestmark = pytest.mark.needs("root", "strace")


@contextmanager
def failing(pid: int, call: str, error: str, when: str = "1") -> Iterator[None]:
    """While entered, the call fails in that process."""
    command = ["strace", "-p", str(pid), "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    for line in tracer.stderr:
        if "attached" in line:
            break
    try:
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("fstat", "EIO"),
        ("mmap", "ENOMEM"),
        ("openat", "ENOSPC"),
        ("write", "ENOSPC"),
        ("socket", "EMFILE"),
        ("bind", "EROFS"),
        ("listen", "ENOBUFS"),
    ],
)
def test_before_the_command_runs(monitored: Any, call: str, error: str) -> None:
    """keep() raises, and all goes with the maker's giving up."""
    with failing(monitored.monitor.pid, call, error), pytest.raises(LaunchError):
        monitored.prepare("exec sleep 60")
    monitored.monitor.abort()
    assert not (monitored.directory / "exit").exists()
    assert monitored.child is None or pidfd.wait(monitored.child.pidfd, 10)


@pytest.mark.parametrize("call", ["mmap", "clone3"])
def test_while_spawning(monitored: Any, call: str) -> None:
    with failing(monitored.monitor.pid, call, "EAGAIN"), pytest.raises(LaunchError):
        monitored.monitor.spawn("/bin/sleep", ["sleep", "60"], [0, 1, 2], {})
    monitored.run("exit 2")
    assert monitored.ended().status == 2 << 8


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        ("ppoll", "EINTR", True),
        ("read", "EINTR", True),
        ("clock_gettime", "EINVAL", True),
        ("unlinkat", "EROFS", True),
        ("clone3", "EAGAIN", True),
        ("pwrite64", "EIO", False),
        ("ftruncate", "EIO", False),
        ("renameat", "EROFS", False),
    ],
)
def test_while_it_stands_by_and_at_the_end(monitored: Any, call: str, error: str, told: bool) -> None:
    """It ends in any case; where its word cannot be left, none is, and nothing half."""
    script = "while ! [ -e go ]; do sleep 0.02; done; echo out; exit 5"
    child = monitored.run(f"cd {monitored.directory}; {script}", aftermath=["/bin/true"])
    with failing(monitored.monitor.pid, call, error, "1+" if call == "renameat" else "1"):
        (monitored.directory / "go").touch()
        assert pidfd.wait(child.pidfd, 10)
        assert pidfd.wait(monitored.monitor.pidfd, 10)
    ended = read_exit(str(monitored.directory))
    assert ended is not None if told else ended is None
    assert ended is None or ended.status == 5 << 8
    assert monitored.output() == b"out\n"
    time.sleep(0.05)
