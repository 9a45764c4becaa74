"""One sample of what a container uses."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks import inside
from benchmarks.inprocess import in_process
from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Place, Scenario
from execdrivers.cgroups import CgroupDir
from execdrivers.cgroups.stats import FILES_V1, FILES_V2
from execdrivers.store import default_root

__all__ = ["SCENARIOS"]


@attrs.frozen
class _Accounted:
    """A running container with cgroups for all that is counted, and the files that tell of it."""

    name: str
    paths: list[str]


def _accounted(place: Place) -> _Accounted:
    container = place.stack.enter_context(inside.running(place.rootfs, accounting=True))
    record = json.loads(Path(default_root(), container.name, "state.json").read_text())
    paths = [f"/proc/{container.pid}/net/dev"]
    for cgroup in map(CgroupDir.from_dict, record["handle"]["cgroups"]):
        of_v1 = [file for controller in cgroup.controllers for file in FILES_V1.get(controller, ())]
        paths += [f"{cgroup.path}/{file}" for file in (of_v1 if cgroup.version == 1 else FILES_V2)]
    return _Accounted(container.name, paths)


def _take_native(place: Place, count: int) -> Sequence[float]:
    found = place.once(_accounted)
    return in_process("benchmarks.inside:stats", name=found.name)(count)


def _take_reads(place: Place, count: int) -> Sequence[float]:
    return in_process("benchmarks.inside:reads", paths=place.once(_accounted).paths)(count)


def _contenders(place: Place) -> Sequence[Contender]:
    return [
        Contender(name="native", measure=functools.partial(_take_native, place), batch=100),
        Contender(name="plain reads", measure=functools.partial(_take_reads, place), batch=100),
    ]


SCENARIOS = (
    Scenario(
        name="stats",
        seconds=8,
        title="A sample of what a container uses",
        about="`Container.stats` of a container that has cgroups for all that is counted, over the mere reading of the "
        "same files by `os.open` and `os.read`, with nothing made of what they say.",
        contenders=_contenders,
        comparisons=(Comparison(title="stats over plain reads", of="native", over="plain reads"),),
    ),
)
