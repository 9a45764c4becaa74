"""The compiled plan: all that a launch needs, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import attrs

from execdrivers import cgroups
from execdrivers.driver import Plan, Step
from execdrivers.launcher import HookPoints, Operation
from execdrivers.launcher.ids import map_lines
from execdrivers.launcher.operations import NAMESPACE_FLAGS
from execdrivers.launcher.trees import Tree
from execdrivers_native.ids import IdMaps
from execdrivers_native.rootfs import Found

__all__ = ["CREATE_HOOKS", "ENTERED", "MAPPED", "NativePlan"]

#: Points at which the launcher waits: in namespaces that it has joined; in its user namespace, for its mappings.
ENTERED, MAPPED = "entered", "mapped"
#: And for the hooks prestart and create_runtime.
CREATE_HOOKS = "create-hooks"


@lru_cache(maxsize=64)
def _flags(namespaces: tuple[str, ...]) -> int:
    return sum(NAMESPACE_FLAGS[name] for name in namespaces)


@attrs.frozen
class NativePlan:
    """All that a launch needs: cgroups made by the caller, the clone, and the launcher's operations."""

    cgroups: tuple[cgroups.CgroupDir, ...]
    namespaces: tuple[str, ...]
    operations: tuple[Operation, ...]
    guarantees: Mapping[str, Any]
    #: Kind → path of the namespaces that are joined; their descriptors are the launcher's first.
    joined: Mapping[str, str] = attrs.field(factory=dict)
    #: Mounts that the caller takes hold of; the launcher's last descriptors.
    trees: tuple[Tree, ...] = ()
    maps: IdMaps | None = None
    #: In a user namespace that is not the caller's: what takes the host's rights is the caller's to do.
    confined: bool = False
    #: AppArmor profile of the processes, "" for none.
    profile: str = ""
    #: File below /proc/PID → what the caller writes there.
    outside: Mapping[str, str] = attrs.field(factory=dict)
    #: Resource of setrlimit(2) → the hard limit to which the caller raises it, if it is lower.
    raised: Mapping[int, int] = attrs.field(factory=dict)
    hooks: HookPoints | None = None
    #: What it was compiled for, as it was on the disk.
    found: Found | None = None

    @property
    def alone(self) -> bool:
        """Whether the launcher does it all by itself, once it is started: neither waits for the caller nor hands
        anything to it before the command is executed."""
        if self.hooks or any(cgroup.devices for cgroup in self.cgroups):
            return False
        return not any(item.name in ("sync", "enter", "console") or item.listens for item in self.operations)

    @property
    def lends_network(self) -> bool:
        """Whether the network namespace may be the caller's to make: its owner is the caller's user namespace."""
        return "network" in self.namespaces and "user" not in self.namespaces and not self.joined

    @property
    def clone_flags(self) -> int:
        """CLONE_NEW* of the clone itself; what joins others first makes its own by itself (operation enter)."""
        return 0 if self.joined else _flags(self.namespaces)

    def plan(self) -> Plan:
        """As people see it."""
        clone: dict[str, Any] = {"namespaces": list(self.namespaces)}
        unified = [cgroup.path for cgroup in self.cgroups if cgroup.version == 2]
        if unified:
            clone["cgroup"] = unified[0]
        steps = [cgroup.step() for cgroup in self.cgroups]
        steps.extend(Step("open-namespace", {"kind": kind, "path": path}) for kind, path in self.joined.items())
        steps.extend(tree.step() for tree in self.trees)
        steps.append(Step("clone", clone if not self.joined else {}))
        for item in self.operations:
            steps.append(item.step())
            if item.name == "sync" and item.args == (MAPPED,):
                steps.extend(self._mapped_steps())
            if item.name == "sync" and item.args == (CREATE_HOOKS,):
                steps.extend(self._hook_steps("prestart", "create_runtime"))
        return Plan(driver="native", steps=(*steps, *self._hook_steps("poststart", "poststop")))

    def _hook_steps(self, *points: str) -> Iterator[Step]:
        if self.hooks:
            for point in points:
                yield from self.hooks.steps(point)

    def _mapped_steps(self) -> Iterator[Step]:
        """What the caller does at that point."""
        if self.maps:
            yield Step("map-ids", {"uids": [*map_lines(self.maps.uids)], "gids": [*map_lines(self.maps.gids)]})
        yield from (Step("write-outside", {"file": name, "data": value}) for name, value in self.outside.items())
        yield from (Step("raise-limit", {"resource": number, "hard": hard}) for number, hard in self.raised.items())
