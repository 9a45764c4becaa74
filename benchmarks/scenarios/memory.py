"""The memory that a live container costs outside of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks import living, weight
from benchmarks.inprocess import in_process
from benchmarks.living import Living
from benchmarks.peers import commandline
from benchmarks.sampling import Contender
from benchmarks.scenario import Limit, Place, Scenario

__all__ = ["SCENARIOS"]


def _contenders(place: Place) -> Sequence[Contender]:
    containers = 10 if place.quick else 200
    return [
        Contender(
            name="native, in the library",
            measure=in_process("benchmarks.weight:held", rootfs=place.rootfs, containers=containers),
            batch=1,
        ),
        Contender(
            name="native, monitor",
            measure=in_process("benchmarks.weight:monitors", rootfs=place.rootfs),
            batch=5,
        ),
        _watcher(place, "containerd-shim", "docker", living.of_docker, "apt-get install docker.io"),
        _watcher(place, "conmon", "podman", living.of_podman, "apt-get install podman"),
        _watcher(place, "lxc-start", "lxc-start", living.of_lxc, "apt-get install lxc"),
    ]


def _watcher(place: Place, name: str, program: str, start: Callable[[Place], Living], install: str) -> Contender:
    """Who waits for the end of another tool's container."""
    if lacking := commandline.missing(program, install):
        return Contender(name=name, lacking=lacking)

    def take(count: int) -> Sequence[float]:
        return [float(weight.private(place.once(start).watcher)) for _ in range(count)]

    return Contender(name=name, measure=take, batch=1)


SCENARIOS = (
    Scenario(
        name="memory",
        seconds=30,
        title="Private memory for each live container",
        about="What would be free without it (private pages, as /proc/PID/smaps_rollup has them): of a program, for "
        "each of 200 more containers that it holds; of the process that watches over a detached one; and of those "
        "that watch over containers of Docker's, Podman's and LXC's.",
        unit="B",
        contenders=_contenders,
        rounds=5,
        limits=(
            Limit(title="in the library", of="native, in the library", at_most=20 * 1024),
            Limit(title="a monitor", of="native, monitor", at_most=300 * 1024),
        ),
    ),
)
