"""podman run."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.peers import image
from benchmarks.peers.commandline import CommandLine, Peer, prefix, which
from benchmarks.peers.crun import PEER as CRUN
from benchmarks.peers.leftovers import cgroup_parent, data_directory, state_directory
from benchmarks.scenario import Place
from execdrivers import cgroups

__all__ = ["PEER", "client"]

#: Seconds.
_PATIENCE = 10


def client(place: Place) -> list[str]:
    """What begins its command lines: it has the image, and all its files below the place."""
    return place.once(_prepared)


def _prepared(place: Place) -> list[str]:
    cgroup = place.once(cgroup_parent)  # which outlives what is below
    state, data = place.once(state_directory) / "podman", data_directory(place, "podman")
    place.stack.callback(_settle, cgroup)
    state.mkdir()
    command = ["podman", "--root", f"{data}/root", "--runroot", f"{state}/run", "--tmpdir", f"{state}/tmp"]
    command += ["--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    if CRUN.refusal():  # which it would call where it is installed
        command += ["--runtime", which("runc") or "runc"]
    image.load(command, place.rootfs)
    return command


def _settle(cgroup: str) -> None:
    """Wait for the monitors: after a container has ended, each runs a podman that mounts the storage once more."""
    files = [Path(point, cgroup, "conmon/cgroup.procs") for point in cgroups.look().mount_points()]
    deadline = time.monotonic() + _PATIENCE
    while any(file.read_text() for file in files if file.exists()) and time.monotonic() < deadline:
        time.sleep(0.01)


def _command_line(place: Place) -> CommandLine:
    cgroup = f"/{place.once(cgroup_parent)}"
    # Its own defaults of these limits are above what some machines allow anybody.
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
    options = ["--rm", "--network", "none", "--log-driver", "none", "--cgroup-parent", cgroup, *limits]
    return prefix([*client(place), "run", *options, image.NAME])


PEER = Peer(
    name="podman run",
    program="podman",
    install="apt-get install podman",
    about="a layered root that is made anew, cgroups, and a monitor that outlives its client in addition",
    command_line=_command_line,
    batch=2,
)
