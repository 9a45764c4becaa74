"""The oracle outside: what the host's /proc and cgroup files tell of a container's processes."""

from __future__ import annotations

import functools
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

__all__ = [
    "alive",
    "capable",
    "cgroup_file",
    "cgroup_paths",
    "controllers",
    "descendants",
    "fields",
    "in_child",
    "lacking",
    "namespaces",
    "outside",
    "read_line",
    "status",
    "until",
    "with_variable",
]

_T = TypeVar("_T")

#: Seconds that something may take that should happen at once, on a busy machine.
PATIENCE = 20.0


def lacking(what: str) -> None:
    """Skip the test: this host lacks something, whatever the driver."""
    pytest.skip(f"needs {what}")


def until(condition: Callable[[], _T], what: str) -> _T:
    """Wait for a thing that no event tells of; fails the test when it does not happen."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} within {PATIENCE:g} seconds"
        time.sleep(0.003)
    return value


def read_line(stream: Any) -> str:
    """One line of a container's output, read without taking more."""
    fd, line = stream.fileno(), b""
    deadline = time.monotonic() + PATIENCE
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        assert left > 0 and poll.poll(left * 1000), f"a line within {PATIENCE:g} seconds; so far: {line!r}"
        try:
            byte = os.read(fd, 1)
        except OSError:  # EIO: the other end of a terminal has closed
            byte = b""
        assert byte, f"the output ended before a line did: {line!r}"
        line += byte
    return line.decode().rstrip("\r\n")


# --- processes --------------------------------------------------------------------------------------------------


def fields(pid: int) -> list[str]:
    """proc_pid_stat(5) from the third field on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    found = fields(pid)
    return bool(found) and found[0] not in "ZX"


def status(pid: int) -> dict[str, str]:
    """proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def state(pid: int) -> str:
    """The letter of proc_pid_stat(5); empty when there is no such process."""
    return (fields(pid) or [""])[0]


def namespaces(pid: int | str = "self") -> dict[str, int]:
    """Kind as in /proc/PID/ns → its inode."""
    return {
        kind: os.stat(f"/proc/{pid}/ns/{kind}").st_ino
        for kind in ("pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time")
        if os.path.exists(f"/proc/{pid}/ns/{kind}")
    }


def descendants(pid: int) -> set[int]:
    """All living processes below one, itself included."""
    parents = {
        int(name): int(stat[1])
        for name in os.listdir("/proc")
        if name.isdigit() and (stat := fields(int(name))) and stat[0] not in "ZX"
    }
    found: set[int] = set()
    new = {pid} & parents.keys()
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in found} - found
    return found


def with_variable(assignment: str) -> set[int]:
    """All living processes with that in their environment."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if assignment.encode() in file.read().split(b"\0") and alive(int(name)):
                    found.add(int(name))
        except OSError:
            pass  # ended meanwhile
    return found


def capable(name: str) -> bool:
    """Whether this process has the capability."""
    from execdrivers.defaults import ALL_CAPABILITIES

    return bool(int(status(os.getpid())["CapEff"], 16) >> ALL_CAPABILITIES[name] & 1)


def outside(pid: int, kind: str, number: int) -> int | None:
    """The id of ``kind`` "uid" or "gid", as we see it, that is ``number`` in that process's user namespace."""
    with open(f"/proc/{pid}/{kind}_map") as file:
        for inside, ours, count in (map(int, line.split()) for line in file):
            if inside <= number < inside + count:
                return ours + number - inside
    return None


def in_child(body: Callable[[], object], *, killed: bool = False) -> int:
    """Run it in a fork of this program, which ends at once after it, or is killed with SIGKILL; its pid.

    What the body raises is raised here. What it returns lives until the end: a container that nobody holds is deleted.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            try:
                kept = body()
            except BaseException as error:
                with os.fdopen(write, "wb") as file:
                    file.write(_pickled(error))
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            del kept
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        trouble = file.read()
    os.waitpid(pid, 0)
    if trouble:
        raised, trace = pickle.loads(trouble)
        raise raised from AssertionError(f"in a fork:\n{trace}")
    return pid


def _pickled(error: BaseException) -> bytes:
    trace = "".join(traceback.format_exception(error))
    try:
        return pickle.dumps((error, trace))
    except Exception:
        return pickle.dumps((AssertionError(str(error)), trace))


# --- cgroups ----------------------------------------------------------------------------------------------------


@functools.cache
def _hierarchies() -> tuple[dict[str, tuple[str, str]], tuple[str, str] | None]:
    """v1 controller → (mount point, which cgroup is mounted there), and the same of v2."""
    v1: dict[str, tuple[str, str]] = {}
    v2 = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        root, point = head.split()[3:5]
        kind, _, options = tail.split(" ", 2)
        if kind == "cgroup2" and v2 is None:
            v2 = point, root
        elif kind == "cgroup":
            for option in options.split(","):
                v1.setdefault(option, (point, root))
    return v1, v2


def controllers() -> dict[str, int]:
    """Controller → version (1 or 2) of the hierarchy that has it on this host."""
    v1, v2 = _hierarchies()
    known = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()[1:]}
    found = {name: 1 for name in v1 if name in known}
    if v2 is not None:
        for name in Path(v2[0], "cgroup.controllers").read_text().split():
            found.setdefault(name, 2)
        found.setdefault("freezer", 2)
    return found


def cgroup_paths(pid: int) -> dict[str, Path]:
    """Controller ("" is v2's hierarchy) → the directory of the process's cgroup, from /proc/PID/cgroup."""
    v1, v2 = _hierarchies()
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            place = v2 if not names else v1.get(name)
            if place is not None:
                found[name] = Path(place[0] + "/" + path.removeprefix(place[1]).lstrip("/"))
    return found


def cgroup_file(pid: int, controller: str, v1: str, v2: str) -> str | None:
    """A file of the process's cgroup, by its names in either version; None where this host's version has none.

    A process may be in a cgroup below the one with the limit (as for LXC): the first that has one going up counts.
    """
    version = controllers().get(controller)
    name = v1 if version == 1 else v2
    if version is None or not name:
        return None
    directory = cgroup_paths(pid)[controller if version == 1 else ""]
    return (directory / name).read_text().strip()
