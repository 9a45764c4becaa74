"""bubblewrap, as Flatpak and others call it; and with all that it has of what the native driver isolates."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.equals import default_filter
from benchmarks.peers.commandline import CommandLine, Peer, prefix
from benchmarks.scenario import Place
from execdrivers import defaults

__all__ = ["ALIKE", "PEER"]


def _command_line(place: Place) -> CommandLine:
    return prefix(["bwrap", "--unshare-all", "--bind", place.rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--"])


def _command_line_alike(place: Place) -> CommandLine:
    namespaces = [f"--unshare-{kind}" for kind in ("pid", "net", "ipc", "uts", "cgroup")]
    root = ["--bind", place.rootfs, "/", "--proc", "/proc", "--dev", "/dev"]
    shared = ["--size", "67108864", "--perms", "1777", "--tmpfs", "/dev/shm", "--mqueue", "/dev/mqueue"]
    kept = [word for name in sorted(defaults.CAPABILITIES) for word in ("--cap-add", name)]
    privileges = ["--new-session", "--cap-drop", "ALL", *kept, "--seccomp", "0"]
    return prefix(["bwrap", *namespaces, *root, *shared, *_masks(), *privileges, "--"])


def _masks() -> Iterator[str]:
    """Of what the host has in /proc. Its read-only paths bwrap has itself."""
    for path in defaults.MASKED_PATHS:
        if not path.startswith("/proc/"):
            continue
        if os.path.isdir(path):
            yield from ("--tmpfs", path, "--remount-ro", path)
        elif os.path.exists(path):
            yield from ("--dev-bind", "/dev/null", path)


def _filter(place: Place) -> str:
    """The file of the default filter of system calls, which bwrap is to read from its stdin."""
    return place.once(_written_filter)


def _written_filter(place: Place) -> str:
    file = place.scratch / "bwrap.filter"
    file.write_bytes(default_filter())
    return str(file)


PEER = Peer(
    name="bwrap",
    program="bwrap",
    install="apt-get install bubblewrap",
    about="a user namespace in addition, with all capabilities; no /sys, masked paths or filter of system calls",
    command_line=_command_line,
    batch=40,
)

ALIKE = Peer(
    name="bwrap, isolating alike",
    program="bwrap",
    install="apt-get install bubblewrap",
    about="no /sys, keyring or bounding set, and the host's device nodes; else the same: namespaces, mounts, masked "
    "paths, capabilities, session, filter of system calls",
    command_line=_command_line_alike,
    stdin=_filter,
    batch=40,
)
