"""The cgroups that a container needs, as data: which directories, with which values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers.cgroups.convert import values
from execdrivers.cgroups.devices import Rule, v1_files
from execdrivers.cgroups.layout import Layout
from execdrivers.cgroups.path import locate
from execdrivers.driver import Step

if TYPE_CHECKING:
    from execdrivers.spec import Resources

__all__ = ["CgroupDir", "find", "plan"]


@attrs.frozen
class CgroupDir:
    """One directory to be made: in which hierarchy, with which values written in this order.

    ``name`` is its path below the hierarchy's root.
    """

    mount_point: str
    name: str
    controllers: tuple[str, ...]
    version: int
    values: tuple[tuple[str, str], ...] = ()
    #: Of the directory once made: another of the same name, made after ours was removed, is none of our business.
    inode: int = 0
    #: The directory above it, as a path below the root, that stays when the last container is gone.
    base: str = ""
    #: Rules of device access, where they are a program (v2) and no values of files.
    devices: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Absolute path of the directory."""
        return f"{self.mount_point}/{self.name}"

    def step(self) -> Step:
        """As a step of the plan that people see."""
        rules = {"devices": list(self.devices)} if self.devices else {}
        return Step("cgroup", {"path": self.path, **self.written(), **rules})

    def written(self) -> dict[str, str]:
        """File → what is written to it, in lines where it is written to more than once."""
        files: dict[str, str] = {}
        for name, value in self.values:
            files[name] = f"{files[name]}\n{value}" if name in files else value
        return files

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CgroupDir:
        """Inverse of `attrs.asdict`, also from JSON."""
        listed = {"controllers": tuple(data["controllers"]), "devices": tuple(data["devices"])}
        return cls(**{**data, **listed, "values": tuple((k, v) for k, v in data["values"])})


def plan(
    resources: Resources | None,
    id: str,
    layout: Layout,
    *,
    path: str | None = None,
    devices: Sequence[Rule] = (),
    track: bool = False,
    show: bool = False,
    accounting: bool = False,
) -> tuple[CgroupDir, ...]:
    """The cgroups that container ``id`` needs: where something is limited, and no others, but for four cases.

    ``path``: the spec's ``cgroups_path``, which it is to be at in every hierarchy. ``devices``: rules of device access,
    all of them; none: no restriction. ``track``: without a pid namespace its processes are found by their cgroup.
    ``show``: the cgroup file systems are mounted inside, and must show its own part of each hierarchy, not the host's.
    ``accounting``: what it uses is counted from its birth, whatever is limited; as far as this program may have that.
    Raises `SpecError` for a path that names no cgroup, and rules that v1 cannot have.
    """
    wanted = values(resources, layout) if resources is not None else {}
    if devices:
        wanted.update({"devices": v1_files(devices)} if "devices" in layout.v1 else {"": wanted.get("", [])})
    if track and wanted.keys() <= layout.v1.keys():
        wanted.setdefault("freezer" if "freezer" in layout.v1 else "", [])
    for controller in layout.v1 if show or path else ():
        wanted.setdefault(controller, [])
    if (show and not layout.v1) or (path and layout.v2):
        wanted.setdefault("", [])
    for controller in _counting(layout) if accounting else ():
        wanted.setdefault(controller, [])
    v1: dict[str, tuple[list[str], list[tuple[str, str]]]] = {}
    v2: tuple[list[str], list[tuple[str, str]]] = ([], [])
    for controller, written in wanted.items():
        mount_point = layout.v1.get(controller)
        if layout.delegated.get(mount_point or layout.v2, "") is None:
            continue  # none can be made there; what was limited there has been refused
        names, all_values = v1.setdefault(mount_point, ([], [])) if mount_point else v2
        names.append(controller)
        all_values.extend(written)

    def directory(point: str, version: int, names: Sequence[str], written: Sequence[tuple[str, str]]) -> CgroupDir:
        base = layout.below(point)
        name, controllers = locate(path, id, base), tuple(filter(None, names))
        rules = tuple(map(str, devices)) if version == 2 and "devices" not in layout.v1 else ()
        return CgroupDir(point, name, controllers, version, tuple(written), base=base, devices=rules)

    made = [directory(point, 1, *files) for point, files in v1.items()]
    return (*made, *([directory(layout.v2, 2, *v2)] if v2[0] else []))


#: Controllers that count, by their names in v1 and in v2; v2 counts pressure without any. The freezer is for a pause,
#: since what is moved into a cgroup later has its past left behind.
_COUNT_V1 = ("memory", "cpuacct", "cpu", "pids", "blkio", "freezer")
_COUNT_V2 = ("memory", "cpu", "pids", "io")


def _counting(layout: Layout) -> list[str]:
    there = [
        *(controller for controller in _COUNT_V1 if controller in layout.v1),
        *(controller for controller in _COUNT_V2 if controller in layout.v2_controllers),
        *([""] if layout.v2 else []),
    ]
    return [controller for controller in there if layout.problem(controller) is None]


def find(name: str, layout: Layout) -> tuple[CgroupDir, ...]:
    """The directories of that name (a path below the hierarchies' roots) that exist, whoever made them."""
    found = []
    for point, controllers in layout.mount_points().items():
        try:
            inode = os.stat(f"{point}/{name}").st_ino
        except OSError:
            continue
        version = 2 if point == layout.v2 else 1
        found.append(CgroupDir(point, name, tuple(controllers), version, inode=inode))
    return tuple(found)
