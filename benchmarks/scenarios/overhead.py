"""What drivers lxc and oci add to the tools that they call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from benchmarks import drivers, equals
from benchmarks.peers import lxc_execute, runc
from benchmarks.peers.bundle import Bundles
from benchmarks.peers.commandline import CommandLine, Peer, measure
from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Place, Scenario
from execdrivers import ContainerSpec

__all__ = ["SCENARIOS", "lxc", "lxc_without_filter", "oci"]

_UNFILTERED = "lxc-execute without the filter"


def _contenders(place: Place) -> Sequence[Contender]:
    ours = [contender for contender in drivers.contenders(place, "run") if contender.name in ("lxc", "oci")]
    bare = [
        _bare(place, "lxc-execute", lxc_execute.PEER, lxc),
        _bare(place, _UNFILTERED, lxc_execute.PEER, lxc_without_filter),
        _bare(place, "runc run", runc.PEER, oci),
    ]
    return [*ours, *(contender for contender in bare if place.wants(contender.name))]


def _bare(place: Place, name: str, peer: Peer, command_line: Callable[[Place], CommandLine]) -> Contender:
    lacking = peer.lacking(place)
    take = None if lacking else functools.partial(_times, place, command_line)
    return Contender(name=name, measure=take, lacking=lacking)


def _times(place: Place, command_line: Callable[[Place], CommandLine], count: int) -> list[float]:
    return measure(place.once(command_line)(["/bin/true"]), count)


def lxc(place: Place) -> CommandLine:
    """lxc-execute with a configuration that makes what driver lxc makes by default."""
    file = place.scratch / "filter"
    file.write_text(equals.lxc_filter(_spec(place)))
    return lxc_execute.configured(place, "lxc-same", equals.lxc_configuration(_spec(place), str(file)))


def lxc_without_filter(place: Place) -> CommandLine:
    """The same, without the filter of system calls."""
    return lxc_execute.configured(place, "lxc-unfiltered", equals.lxc_configuration(_spec(place)))


def oci(place: Place) -> CommandLine:
    """``runc run`` with the bundle that driver oci writes by default."""
    return Bundles(place, "runc", equals.bundle(_spec(place)), "runc-same").run()


def _spec(place: Place) -> ContainerSpec:
    return ContainerSpec(["/bin/true"], rootfs=place.rootfs)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="overhead",
        seconds=40,
        title="Drivers lxc and oci over the tools that they call",
        about="Start to exit of `true` by our drivers, and by the tools alone, told to make the same: `lxc-execute` by "
        "a configuration, `runc run` by the bundle that our driver writes. LXC compiles the filter of system calls at "
        "each start, while our driver has its launcher install a compiled one: what LXC takes without a filter, and so "
        "for less, is there for comparison.",
        contenders=_contenders,
        rounds=25,
        comparisons=(
            Comparison(title="lxc driver over lxc-execute", of="lxc", over="lxc-execute", target=1.15),
            Comparison(title="lxc driver over lxc-execute without the filter", of="lxc", over=_UNFILTERED),
            Comparison(title="oci driver over runc run", of="oci", over="runc run", target=1.15),
        ),
    ),
)
