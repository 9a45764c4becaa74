"""What containers could leave behind on this machine, listed before and after.

Other programs run on the same machine, so what is clearly another's is passed over: processes that are not ours and
were not adopted from us, cgroups below another parent, mounts and links of container engines.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Mapping

import attrs

__all__ = ["Snapshot", "wait_for_none"]

#: Mounts below these, and links of these names, are made by other programs.
_OTHERS_MOUNTS = (
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/lib/containerd",
    "/run/docker",
    "/run/containerd",
    "/run/containers",
    "/run/netns",
    "/run/user",
)
_TEMPORARY = ("/tmp/", "/var/tmp/")
_OTHERS_LINKS = ("docker", "br-", "podman", "cni", "virbr")
#: Where a driver or the tools it calls might keep files named after a container.
_PLACES = ("/run", "/dev/shm", "/var/tmp", "/var/lib/lxc", "/var/cache/lxc", "/etc/lxc")
#: How deep to look there.
_DEPTH = 4


def _parent() -> str:
    return os.environ.get("EXECDRIVERS_CGROUP_PARENT") or "execdrivers"


def _cgroup_mounts() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    return [row[4] for row in rows if row[row.index("-") + 1] in ("cgroup", "cgroup2")]


def _cgroups() -> set[str]:
    found = set()
    for point in _cgroup_mounts():
        for directory, names, _ in os.walk(point):
            found |= {f"{directory}/{name}" for name in names}
    return found


def _stat(pid: int) -> tuple[int, int, str]:
    """Parent, start time, and for people: command and state."""
    with open(f"/proc/{pid}/stat") as file:
        text = file.read()
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return int(fields[1]), int(fields[19]), f"{head})[{fields[0]}]"


def _is_contained(pid: int) -> bool:
    """Another root, pid or mount namespace than the machine's first process has."""
    return any(_place(pid, kind) != _first_place(kind) for kind in ("root", "ns/pid", "ns/mnt"))


def _place(pid: int | str, kind: str) -> tuple[int, int]:
    node = os.stat(f"/proc/{pid}/{kind}")
    return node.st_dev, node.st_ino


def _first_place(kind: str) -> tuple[int, int]:
    try:
        return _place(1, kind)
    except PermissionError:
        return _place("self", kind)  # pid 1 may be more privileged than we are


def _is_anothers(pid: int) -> bool:
    """Whether its cgroups are below another parent than ours, as those of other test runs are."""
    with open(f"/proc/{pid}/cgroup") as file:
        tops = {line.rstrip("\n").split(":", 2)[2].split("/")[1] for line in file}
    return _parent() not in tops and any(top == "execdrivers" or top.startswith("ed-") for top in tops)


def _processes() -> dict[tuple[int, int], str]:
    """(pid, start time) → description, of processes that this program can have made.

    These are its descendants, and those adopted by pid 1 that are somehow contained.
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
        top = above = pid
        while top not in (0, 1, os.getpid()) and top in table:
            above, top = top, table[top][0]
        ours = top == os.getpid() and pid != os.getpid()
        if top == 1 and pid != 1:
            try:
                ours = _is_contained(above) and not _is_anothers(above)
                text += f" in {os.readlink(f'/proc/{above}/root')}"
            except OSError:
                pass  # ended meanwhile
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
        rows = [line.split() for line in file]
    return {f"{row[4]} (mount {row[0]})" for row in rows if not row[4].startswith(_OTHERS_MOUNTS)}


def _links() -> set[str]:
    found = set()
    for name in os.listdir("/sys/class/net"):
        try:
            master = os.path.basename(os.readlink(f"/sys/class/net/{name}/master"))
        except OSError:
            master = ""
        if not name.startswith(_OTHERS_LINKS) and not master.startswith(_OTHERS_LINKS):
            found.add(name)
    return found


def named_after(ids: Collection[str], places: Iterable[str] = _PLACES) -> set[str]:
    """Files in the system's directories that have one of these ids in their name."""
    found: set[str] = set()
    pending = [(place, 0) for place in places if ids]
    while pending:
        directory, depth = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            if any(id in entry.name for id in ids):
                found.add(entry.path)
            elif depth < _DEPTH and entry.is_dir(follow_symlinks=False):
                pending.append((entry.path, depth + 1))
    return found


@attrs.frozen
class Snapshot:
    """All that a container could leave behind on this machine, as of now."""

    processes: Mapping[tuple[int, int], str] = attrs.field(factory=_processes)
    mounts: set[str] = attrs.field(factory=_mounts)
    cgroups: set[str] = attrs.field(factory=_cgroups)
    descriptors: Mapping[int, str] = attrs.field(factory=_descriptors)
    links: set[str] = attrs.field(factory=_links)
    threads: set[str] = attrs.field(factory=lambda: {thread.name for thread in threading.enumerate()})

    def leaks_since(self, before: Snapshot, ids: Collection[str] = (), places: Collection[str] = ()) -> list[str]:
        """What is here and was not before, for people.

        Of cgroups only those below our own parent count ($EXECDRIVERS_CGROUP_PARENT, or ``execdrivers``), and those
        that have one of the container ``ids`` in their path; of mounts and roots among temporary files only those
        below one of our own ``places``.
        """

        def is_anothers(text: str) -> bool:
            return any(place in text for place in _TEMPORARY) and not any(word in text for word in (*places, *ids))

        new = [(key, text) for key, text in self.processes.items() if key not in before.processes]
        found = [f"process {key[0]} {text}" for key, text in new if not is_anothers(text)]
        for kind in ("links", "threads"):
            found += [f"{kind[:-1]} {name}" for name in sorted(getattr(self, kind) - getattr(before, kind))]
        found += [f"mount {text}" for text in sorted(self.mounts - before.mounts) if not is_anothers(text)]
        for path in sorted(self.cgroups - before.cgroups):
            parents = path.split("/")[:-1]
            if _parent() in parents or any(id in path for id in ids):
                found.append(f"cgroup {path}")
        for number, target in self.descriptors.items():
            # The launcher of the next launch is there already.
            if number not in before.descriptors and not target.startswith("/memfd:execdrivers"):
                found.append(f"file descriptor {number} → {target}")
        return found


#: Seconds that something killed a moment ago may take to be gone.
PATIENCE = 2.0


def wait_for_none(before: Snapshot, ids: Collection[str] = (), places: Collection[str] = ()) -> list[str]:
    """The leaks since a snapshot; what was killed a moment ago is given time to be gone."""
    deadline = time.monotonic() + PATIENCE
    while (leaks := Snapshot().leaks_since(before, ids, places)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return leaks
