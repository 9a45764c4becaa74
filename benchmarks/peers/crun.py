"""crun, which Podman calls."""

from __future__ import annotations

from benchmarks.peers.bundle import Bundles
from benchmarks.peers.commandline import CommandLine, Peer
from benchmarks.scenario import Place
from execdrivers import cgroups

__all__ = ["PEER", "bundles"]


def bundles(place: Place) -> Bundles:
    """For crun, in one place."""
    return Bundles.of("crun", place)


def _command_line(place: Place) -> CommandLine:
    return place.once(bundles).run()


def _refusal() -> str:
    if cgroups.look().kind == "hybrid":
        return "crun refuses a host with both cgroup v1 and v2; boot with v2 alone, or see tools/vm, which does"
    return ""


PEER = Peer(
    name="crun run",
    program="crun",
    install="apt-get install crun",
    about="as its own `crun spec`: cgroups with a device filter in addition; no filter of system calls",
    command_line=_command_line,
    refusal=_refusal,
    batch=20,
)
