"""unshare of util-linux, with all that it can do in one call."""

from __future__ import annotations

from benchmarks.peers.commandline import CommandLine, Peer, prefix
from benchmarks.scenario import Place

__all__ = ["PEER"]


def _command_line(place: Place) -> CommandLine:
    namespaces = ["--fork", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
    return prefix(["unshare", *namespaces, "--root", place.rootfs, "--mount-proc", "--"])


PEER = Peer(
    name="unshare",
    program="unshare",
    install="apt-get install util-linux",
    about="namespaces, a procfs and chroot(2) alone: no /dev, no capability dropped, no filter of system calls",
    command_line=_command_line,
    batch=40,
)
