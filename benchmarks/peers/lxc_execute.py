"""lxc-execute of LXC's tools."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from benchmarks.peers.commandline import CommandLine, Peer
from benchmarks.peers.leftovers import cgroup_parent
from benchmarks.scenario import Place
from execdrivers_lxc import locks

__all__ = ["PEER", "configuration", "configured"]

#: All of LXC's defaults, and what the file systems of a container take.
_USUAL = (
    "lxc.net.0.type = empty",
    "lxc.net.0.flags = up",
    "lxc.mount.auto = proc:mixed sys:ro",
    "lxc.console.path = none",
    "lxc.apparmor.profile = unconfined",
)


def configuration(place: Place, name: str, lines: Sequence[str] = _USUAL) -> str:
    """The text of a file for a container of that name in the place: its root, its cgroups, and these lines."""
    parent = place.once(cgroup_parent)
    cgroups = {"container": f"{parent}/{name}", "monitor": f"{parent}/{name}.monitor", "monitor.pivot": parent}
    keys = {"rootfs.path": f"dir:{place.rootfs}", **{f"cgroup.dir.{of}": path for of, path in cgroups.items()}}
    return "\n".join([*lines, *(f"lxc.{key} = {value}" for key, value in keys.items()), ""])


def configured(place: Place, label: str, lines: Sequence[str] = _USUAL) -> CommandLine:
    """A command line whose containers are called after the label, with such a configuration."""
    directory = place.scratch / label
    directory.mkdir()
    numbers = itertools.count()

    def command(args: Sequence[str]) -> list[str]:
        name = f"{label}-{next(numbers)}"
        place.stack.callback(locks.remove, str(directory), name)  # which LXC leaves
        file = directory / f"{name}.conf"
        file.write_text(configuration(place, name, lines))
        return ["lxc-execute", "-q", "-n", name, "-P", str(directory), "-f", str(file), "--", *args]

    return command


def _prepared(place: Place) -> CommandLine:
    return configured(place, "lxc")


def _command_line(place: Place) -> CommandLine:
    return place.once(_prepared)


PEER = Peer(
    name="lxc-execute",
    program="lxc-execute",
    install="apt-get install lxc",
    about="cgroups and an init in addition; no capability dropped, no masked paths or filter of system calls",
    command_line=_command_line,
)
