"""Mounts that the caller takes hold of, for a launcher that could not: from where its user does not get to, or with
their ids mapped, which takes rights over the file system."""

from __future__ import annotations

import errno
import os

import attrs

from execdrivers.driver import Step
from execdrivers.launcher._launcher import lib
from execdrivers.launcher.failures import failed
from execdrivers.launcher.operations import PROPAGATION, clear_mask, set_mask
from execdrivers.spec import IdMapping

__all__ = ["Tree"]


@attrs.frozen(kw_only=True)
class Tree:
    """The mounts at ``source``, with attributes as `operation` "bind" has them.

    ``uids`` and ``gids`` map the ids of its files, of all its mounts if ``map_all``; empty: not mapped.
    """

    source: str
    recursive: bool = False
    set: tuple[str, ...] = ()
    clear: tuple[str, ...] = ()
    recursive_set: tuple[str, ...] = ()
    recursive_clear: tuple[str, ...] = ()
    propagation: str = ""
    #: With propagation "shared": of the host's group, where there is one. Else it is only told what is mounted there.
    peers: bool = False
    uids: tuple[IdMapping, ...] = ()
    gids: tuple[IdMapping, ...] = ()
    map_all: bool = False

    def step(self) -> Step:
        """As a step of the plan that people see; what says nothing is left out."""
        shown = {key: value for key, value in attrs.asdict(self, recurse=False).items() if value}
        for key in ("uids", "gids"):
            if key in shown:
                shown[key] = [f"{m.container_id} {m.host_id} {m.size}" for m in shown[key]]
        return Step("open-tree", shown)

    def open(self, user_namespace: int = -1) -> int:
        """Take hold of it; a descriptor. ``user_namespace``: of one with the mappings. Raises `LaunchError`."""
        fd = int(lib.ed_open_tree(os.fsencode(self.source), int(self.recursive)))
        if fd < 0:
            raise failed("open-tree", self.source, -fd)
        try:
            first = self._relation()
            self._set(fd, True, propagation=first)
            self._set(fd, True, self.recursive_set, self.recursive_clear)
            self._set(fd, False, self.set, self.clear)
            if user_namespace >= 0:
                self._map(fd, user_namespace)
            if self.propagation not in ("", first):
                self._set(fd, self.recursive, propagation=self.propagation)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _relation(self) -> str:
        """To the host's mount that it is a copy of; "" leaves it in the same group."""
        if self.propagation == "shared":
            return "" if self.peers else "slave"
        return "slave" if self.propagation == "slave" else "private"

    def _set(
        self, fd: int, whole: bool, names: tuple[str, ...] = (), clear: tuple[str, ...] = (), propagation: str = ""
    ) -> None:
        if not (names or clear or propagation):
            return
        result = lib.ed_set_attributes(fd, int(whole), set_mask(names), clear_mask(clear), PROPAGATION[propagation], -1)
        if result < 0:
            raise failed("open-tree", self.source, -result, " ".join((*names, *clear)) or propagation)

    def _map(self, fd: int, user_namespace: int) -> None:
        result = -lib.ed_set_attributes(fd, int(self.map_all), 0, 0, 0, user_namespace)
        if result <= 0:
            return
        kind = _file_system(fd) + (", or one that is mounted below," if self.map_all else "")
        remedy = {
            errno.EINVAL: f"{kind} cannot map ids: give files of another file system (ext4, xfs, btrfs, tmpfs), "
            "or chown them to the container's ids",
            errno.EPERM: "it takes CAP_SYS_ADMIN where the file system was mounted, and no mapping of an earlier mount",
        }.get(result, "")
        raise failed("idmap", self.source, result, kind, remedy)


def _file_system(fd: int) -> str:
    """The kind of file system it lies on, as the kernel names it."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.split()[2] == wanted:
                return line.partition(" - ")[2].split()[0]
    return "this file system"
