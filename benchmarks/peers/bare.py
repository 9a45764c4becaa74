"""The same program as a process of the host: what spawning and reaping alone costs, for scale."""

from __future__ import annotations

from benchmarks.peers.commandline import CommandLine, Peer
from benchmarks.scenario import Place

__all__ = ["PEER"]


def _command_line(place: Place) -> CommandLine:
    return lambda args: [place.rootfs + args[0], *args[1:]]


PEER = Peer(
    name="a bare process",
    program="busybox",
    install="apt-get install busybox-static",
    about="contains nothing; spawned and reaped in the same way as the tools",
    command_line=_command_line,
    batch=40,
)
