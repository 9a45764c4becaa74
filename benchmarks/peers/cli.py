"""Our own command line: the native driver, and the start of Python with the library."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers.commandline import CommandLine, Peer, prefix
from benchmarks.scenario import Place

__all__ = ["PEER"]


def _command_line(place: Place) -> CommandLine:
    state = str(place.scratch / "execdrivers")
    return prefix([PEER.program, "--root", state, "run", "--rm", "--driver", "native", "--rootfs", place.rootfs, "--"])


PEER = Peer(
    name="execdrivers run",
    program=str(Path(sys.executable).parent / "execdrivers"),
    install="pip install .",
    about="the native driver by our command line, which includes starting Python",
    command_line=_command_line,
)
