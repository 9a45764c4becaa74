"""Start to exit of ``true``: everything there is."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import drivers, floor, peers
from benchmarks.inprocess import in_process
from benchmarks.peers import bwrap, docker_py
from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Place, Scenario

__all__ = ["SCENARIOS"]

_ALIKE = bwrap.ALIKE.name


def _contenders(place: Place) -> Sequence[Contender]:
    tools = [peer.contender(place) for peer in peers.ALL if place.wants(peer.name)]
    libraries = [docker_py.contender(place)] if place.wants(docker_py.NAME) else []
    return [_floor(place), *drivers.contenders(place, "run"), _launcher(place), *tools, *libraries]


def _launcher(place: Place) -> Contender:
    measure = in_process("benchmarks.drivers:launches", rootfs=place.rootfs)
    return Contender(name="native's launcher alone", measure=measure, batch=40)


def _floor(place: Place) -> Contender:
    def measure(count: int) -> Sequence[float]:
        return floor.rounds(place.floor, count, place.rootfs, ["/bin/true"])

    return Contender(name="C floor", measure=measure, batch=40)


_ABOUT = """\
From the call, or the spawn of a tool, to the exit of `true` being known. Ours are called from Python that has imported
the library; tools are spawned by posix_spawn(3). The C floor makes exactly what the native driver makes by default:
six namespaces, its mounts, capabilities, the filter of system calls. The native driver's launcher alone is called from
Python too, with a plan that is ready: without spec, policy, choice, record and whatever else an engine does, also
beside the launcher. The others differ:

"""

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="start",
        seconds=150,
        title="Start to exit of `true`",
        about=_ABOUT + "\n".join(f"- {peer.name}: {peer.about}" for peer in peers.ALL),
        contenders=_contenders,
        rounds=25,
        comparisons=(
            Comparison(title="native over the C floor", of="native", over="C floor", target=1.20),
            Comparison(title="native's launcher alone over the C floor", of="native's launcher alone", over="C floor"),
            Comparison(title="bwrap over native", of="bwrap", over="native", target=2, at_least=True),
            Comparison(title=f"{_ALIKE}, over native", of=_ALIKE, over="native", target=2, at_least=True),
            Comparison(title="lxc-execute over native", of="lxc-execute", over="native", target=4, at_least=True),
            Comparison(title="runc run over native", of="runc run", over="native", target=10, at_least=True),
            Comparison(title="docker run over native", of="docker run", over="native", target=80, at_least=True),
        ),
    ),
)
