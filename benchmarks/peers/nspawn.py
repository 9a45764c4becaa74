"""systemd-nspawn."""

from __future__ import annotations

from benchmarks.peers.commandline import CommandLine, Peer, prefix
from benchmarks.scenario import Place

__all__ = ["PEER"]


def _command_line(place: Place) -> CommandLine:
    # Neither systemd's daemons nor the host's files are asked for anything.
    spared = ["--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]
    return prefix(["systemd-nspawn", "-q", *spared, "--private-network", "-D", place.rootfs, "--"])


PEER = Peer(
    name="systemd-nspawn",
    program="systemd-nspawn",
    install="apt-get install systemd-container",
    about="a filter of system calls and read-only paths of its own; a terminal in the container",
    command_line=_command_line,
)
