"""runc, which Docker, containerd and Kubernetes call."""

from __future__ import annotations

from benchmarks.peers.bundle import Bundles
from benchmarks.peers.commandline import CommandLine, Peer
from benchmarks.scenario import Place

__all__ = ["PEER", "bundles"]


def bundles(place: Place) -> Bundles:
    """For runc, in one place."""
    return Bundles.of("runc", place)


def _command_line(place: Place) -> CommandLine:
    return place.once(bundles).run()


PEER = Peer(
    name="runc run",
    program="runc",
    install="apt-get install runc",
    about="as its own `runc spec`: cgroups with a device filter in addition; no filter of system calls",
    command_line=_command_line,
    batch=10,
)
