"""bubblewrap, as Flatpak and others call it."""

from __future__ import annotations

from benchmarks.peers.commandline import CommandLine, Peer, prefix
from benchmarks.scenario import Place

__all__ = ["PEER"]


def _command_line(place: Place) -> CommandLine:
    return prefix(["bwrap", "--unshare-all", "--bind", place.rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--"])


PEER = Peer(
    name="bwrap",
    program="bwrap",
    install="apt-get install bubblewrap",
    about="a user namespace in addition, with all capabilities; no /sys, masked paths or filter of system calls",
    command_line=_command_line,
    batch=40,
)
