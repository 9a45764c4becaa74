"""lxc-execute of LXC's tools."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from benchmarks.peers.commandline import CommandLine, Peer
from benchmarks.peers.leftovers import cgroup_parent
from benchmarks.scenario import Place
from execdrivers_lxc import locks

__all__ = ["CONFIG", "PEER"]


def _command_line(place: Place) -> CommandLine:
    return place.once(_prepared)


def _prepared(place: Place) -> CommandLine:
    directory = place.scratch / "lxc-execute"
    directory.mkdir()
    parent = place.once(cgroup_parent)
    numbers = itertools.count()

    def command(args: Sequence[str]) -> list[str]:
        name = f"lxc-{next(numbers)}"
        place.stack.callback(locks.remove, str(directory), name)  # which LXC leaves
        file = directory / f"{name}.conf"
        file.write_text(CONFIG.format(rootfs=place.rootfs, name=name, cgroup=f"{parent}/{name}", parent=parent))
        return ["lxc-execute", "-q", "-n", name, "-P", str(directory), "-f", str(file), "--", *args]

    return command


#: All its defaults, and what the file systems of a container take.
CONFIG = """\
lxc.rootfs.path = dir:{rootfs}
lxc.uts.name = {name}
lxc.net.0.type = empty
lxc.net.0.flags = up
lxc.mount.auto = proc:mixed sys:ro
lxc.console.path = none
lxc.apparmor.profile = unconfined
lxc.cgroup.dir.container = {cgroup}
lxc.cgroup.dir.monitor = {cgroup}.monitor
lxc.cgroup.dir.monitor.pivot = {parent}
"""

PEER = Peer(
    name="lxc-execute",
    program="lxc-execute",
    install="apt-get install lxc",
    about="cgroups and an init in addition; no capability dropped, no masked paths or filter of system calls",
    command_line=_command_line,
)
