"""What a start costs as other things grow: containers alive, the caller's memory, mounts, the environment."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence

from benchmarks import inside
from benchmarks.inprocess import in_process
from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Place, Scenario

__all__ = ["SCENARIOS"]

_START = "From the call to the return of `execdrivers.run` of `true`."


def _point(x: float, name: str, group: str, function: str, batch: int = 20, **options: object) -> Contender:
    measure = in_process(f"benchmarks.inside:{function}", **options)
    return Contender(name=name, measure=measure, batch=batch, group=group, x=x)


# --- containers alive ---------------------------------------------------------------------------------------------


def _alive(place: Place) -> Sequence[Contender]:
    counts = (0, 10) if place.quick else (0, 100, 1000)
    return [_alive_point(place, count) for count in counts]


def _alive_point(place: Place, count: int) -> Contender:
    name = f"native, {count:,} alive"
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = inside.SPARE + inside.DESCRIPTORS * count
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        return Contender(name=name, lacking=f"{allowed} open files are allowed; ulimit -n {needed}")
    return _point(
        count,
        name,
        "containers alive",
        "alive",
        batch=60,
        rootfs=place.rootfs,
        containers=count,
        patience=0 if place.quick else 30,
    )


# --- the caller's memory ------------------------------------------------------------------------------------------


def _memory(place: Place) -> Sequence[Contender]:
    return [_memory_point(place, size) for size in (20, 500, 2000)]


def _memory_point(place: Place, size: int) -> Contender:
    name = f"native, caller of {size:,} MB"
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    if available < size + 200:
        return Contender(name=name, lacking=f"{available} MB of memory are free; close other programs")
    return _point(size, name, "caller's memory", "starts", rootfs=place.rootfs, megabytes=size)


# --- mounts -------------------------------------------------------------------------------------------------------


def _mounts(place: Place) -> Sequence[Contender]:
    counts = (0, 10, 100)
    directories = [place.scratch / f"source-{number}" for number in range(max(counts))]
    for directory in directories:
        directory.mkdir()
    sources = list(map(str, directories))
    return [
        _point(count, f"native, {count} mounts", "mounts", "starts", rootfs=place.rootfs, mounts=sources[:count])
        for count in counts
    ]


# --- the environment ----------------------------------------------------------------------------------------------


def _environment(place: Place) -> Sequence[Contender]:
    sizes = (0, 100_000, 1_000_000)
    return [
        _point(
            size // 1000,
            f"native, environment of {size // 1000:,} kB",
            "environment",
            "starts",
            rootfs=place.rootfs,
            environment=size,
        )
        for size in sizes
    ]


SCENARIOS = (
    Scenario(
        name="alive",
        seconds=150,
        title="Start with other containers alive",
        about=f"{_START} The same program holds so many others that sleep, each with namespaces, mounts and a guard of "
        "its end. They are made and removed in every round, and the machine is at rest before and after.",
        contenders=_alive,
        rounds=6,
        comparisons=(
            Comparison(title="1,000 alive over none", of="native, 1,000 alive", over="native, 0 alive", target=1.25),
            Comparison(title="100 alive over none", of="native, 100 alive", over="native, 0 alive"),
        ),
        plot="curves",
        x="containers alive",
    ),
    Scenario(
        name="caller",
        seconds=15,
        title="Start from a caller that holds memory",
        about=f"{_START} So much of the calling program's memory is resident: every page of it was written to.",
        contenders=_memory,
        comparisons=(
            Comparison(
                title="caller of 2 GB over one of 20 MB",
                of="native, caller of 2,000 MB",
                over="native, caller of 20 MB",
                target=1.10,
            ),
        ),
        plot="curves",
        x="MB resident",
    ),
    Scenario(
        name="mounts",
        seconds=10,
        title="Start with mounts",
        about=f"{_START} The spec has so many bind mounts of directories, beside the default ones.",
        contenders=_mounts,
        rounds=15,
        comparisons=(Comparison(title="100 mounts over none", of="native, 100 mounts", over="native, 0 mounts"),),
        plot="curves",
        x="bind mounts",
    ),
    Scenario(
        name="environment",
        seconds=10,
        title="Start with a large environment",
        about=f"{_START} The command's environment is so large, in variables of a kilobyte each.",
        contenders=_environment,
        rounds=15,
        comparisons=(
            Comparison(
                title="environment of 1 MB over none",
                of="native, environment of 1,000 kB",
                over="native, environment of 0 kB",
            ),
        ),
        plot="curves",
        x="kB of environment",
    ),
)
