"""docker run, on a daemon started for the place alone."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import image
from benchmarks.peers.commandline import CommandLine, Peer, environment, missing, prefix
from benchmarks.peers.leftovers import cgroup_parent, data_directory, state_directory
from benchmarks.sampling import Failed
from benchmarks.scenario import Place

__all__ = ["PEER", "address", "client"]

#: Seconds that the daemon may take to serve, and to end.
_PATIENCE = 30.0


def client(place: Place) -> list[str]:
    """What begins the command lines of clients: the daemon runs, and has the image."""
    return place.once(_prepared)


def address(place: Place) -> str:
    """Where the daemon serves, which has the image."""
    client(place)
    return place.once(_serving)


def _prepared(place: Place) -> list[str]:
    command = ["docker", "--config", str(place.once(state_directory)), "-H", place.once(_serving)]
    image.load(command, place.rootfs)
    return command


def _serving(place: Place) -> str:
    cgroup, state = place.once(cgroup_parent), place.once(state_directory)
    return place.stack.enter_context(_daemon(data_directory(place, "docker"), state, cgroup))


@contextlib.contextmanager
def _daemon(data: Path, state: Path, cgroup: str) -> Iterator[str]:
    """A dockerd with all its files there, and its containerd; the address that it serves."""
    socket = state / "docker.sock"
    command = ["dockerd", "--data-root", f"{data}/root", "--exec-root", f"{state}/docker"]
    command += ["--pidfile", f"{state}/docker.pid", "-H", f"unix://{socket}", "--iptables=false", "--bridge=none"]
    command += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{cgroup}"]
    log = data / "log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, env=environment(), stdout=output, stderr=output)
    try:
        _await(socket, daemon, log)
        yield f"unix://{socket}"
    finally:
        daemon.terminate()
        try:
            daemon.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            daemon.kill()  # its containerd has the kernel end it too
            daemon.wait()


def _await(socket: Path, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not socket.exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Failed(": ".join(["dockerd does not serve", *last]))
        time.sleep(0.05)


def _command_line(place: Place) -> CommandLine:
    return prefix([*client(place), "run", "--rm", "--network", "none", "--log-driver", "none", image.NAME])


def _refusal() -> str:
    return missing("dockerd", "apt-get install docker.io")


PEER = Peer(
    name="docker run",
    program="docker",
    install="apt-get install docker.io",
    about="a layered root that is made anew, cgroups, and daemons that outlive their client in addition",
    command_line=_command_line,
    refusal=_refusal,
    batch=2,
)
