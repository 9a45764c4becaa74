"""What a start consists of: the creation of a container, its start and its removal apart."""

from __future__ import annotations

import functools
import os
import select
from collections.abc import Sequence
from pathlib import Path

from benchmarks import drivers
from benchmarks.peers import runc
from benchmarks.peers.commandline import measure
from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Place, Scenario
from execdrivers import pidfd

__all__ = ["SCENARIOS"]


def _contenders(phase: str, place: Place) -> Sequence[Contender]:
    ours = drivers.contenders(place, "phase", root=str(place.scratch / "store"), name=phase)
    others = [_runc(phase, place)] if phase != "wait" and place.wants("runc") else []
    return [*ours, *others]


def _runc(phase: str, place: Place) -> Contender:
    lacking = runc.PEER.lacking(place)
    take = None if lacking else functools.partial(_times_of_runc, phase, place)
    return Contender(name=f"runc {phase}", measure=take, lacking=lacking)


def _times_of_runc(phase: str, place: Place, count: int) -> list[float]:
    bundles = place.once(runc.bundles)
    directory, id = bundles.new(["/bin/true"])
    pid_file = Path(directory, "pid")
    samples = []
    for _ in range(count):
        times = {"create": _time([*bundles.command, "create", "--bundle", directory, "--pid-file", str(pid_file), id])}
        process = pidfd.open(int(pid_file.read_text()))
        times["start"] = _time([*bundles.command, "start", id])
        _await(process)
        times["delete"] = _time([*bundles.command, "delete", id])
        samples.append(times[phase])
    return samples


def _time(command: list[str]) -> float:
    [seconds] = measure(command, 1)
    return seconds


def _await(process: int) -> None:
    """Until the process ends, whose pidfd is closed then."""
    try:
        select.select([process], [], [])
    finally:
        os.close(process)


_ABOUT = {
    "create": "Until the container is there with all that isolates it, and waits to execute its command.",
    "start": "From there until its command, `true`, is being executed.",
    "wait": "From there until its end is known.",
    "delete": "The removal of a container that has ended.",
}


def _scenario(phase: str) -> Scenario:
    return Scenario(
        name=f"phase-{phase}",
        seconds=12,
        title=f"{phase.capitalize()} alone",
        about=_ABOUT[phase] + (" Of runc its command of that name." if phase != "wait" else ""),
        contenders=functools.partial(_contenders, phase),
        rounds=12,
        comparisons=[Comparison(title=f"runc {phase} over native", of=f"runc {phase}", over="native")]
        if phase != "wait"
        else (),
    )


SCENARIOS: tuple[Scenario, ...] = tuple(map(_scenario, _ABOUT))
