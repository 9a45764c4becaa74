"""The tools that others would call, each in a module of its own; `ALL` lists them, the lightest first.

Each is called as its users call it, with the cheap options chosen in its favour: no network but an empty namespace,
nothing logged, nothing kept afterwards. What each isolates more or less than ours is in its ``about``.
"""

from __future__ import annotations

from benchmarks.peers import bare, bwrap, cli, crun, docker, lxc_execute, nsjail, nspawn, podman, runc, unshare
from benchmarks.peers.commandline import Peer

__all__ = ["ALL"]

ALL: tuple[Peer, ...] = (
    bare.PEER,
    unshare.PEER,
    nsjail.PEER,
    bwrap.PEER,
    bwrap.ALIKE,
    lxc_execute.PEER,
    nspawn.PEER,
    runc.PEER,
    crun.PEER,
    docker.PEER,
    podman.PEER,
    cli.PEER,
)
