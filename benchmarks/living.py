"""Containers that run: started by their own tools, and there until the scenario ends. Each does nothing but sleep.

Each function is for `Place.once`, and raises `Failed` where its tool does not start one.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import attrs

from benchmarks.peers import commandline, docker, image, lxc_execute, podman, runc
from benchmarks.peers.leftovers import cgroup_parent
from benchmarks.sampling import Failed
from benchmarks.scenario import Place
from execdrivers_lxc import locks

__all__ = ["Living", "of_docker", "of_lxc", "of_podman", "of_runc"]

_NAME = "living"
_SLEEP = ["/bin/sleep", "1000000000"]


@attrs.frozen
class Living:
    """One of them."""

    #: The host's pid of its first process.
    pid: int
    #: What begins a command line that executes something in it.
    execute: list[str]

    @property
    def watcher(self) -> int:
        """Who waits for its end: the parent of its first process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("PPid:")).split()[1])


def of_lxc(place: Place) -> Living:
    """By lxc-start."""
    directory = place.scratch / "living-lxc"
    (directory / _NAME).mkdir(parents=True)
    place.stack.callback(locks.remove, str(directory), _NAME)  # which LXC leaves
    config = directory / _NAME / "config"
    config.write_text(lxc_execute.configuration(place, _NAME))
    of = ["--name", _NAME, "--lxcpath", str(directory)]
    _call("lxc-start", *of, "--rcfile", str(config), "--", *_SLEEP)
    place.stack.callback(_call, "lxc-stop", *of, "--kill")
    return Living(int(_call("lxc-info", *of, "--pid", "--no-humanize")), ["lxc-attach", *of, "--"])


def of_runc(place: Place) -> Living:
    """By runc run --detach: nobody waits for its end."""
    bundles = place.once(runc.bundles)
    directory, id = bundles.new(_SLEEP)
    pid = Path(directory) / "pid"
    _call(*bundles.command, "run", "--detach", "--pid-file", str(pid), "--bundle", directory, id)
    place.stack.callback(_call, *bundles.command, "delete", "--force", id)
    return Living(int(pid.read_text()), [*bundles.command, "exec", id])


def of_docker(place: Place) -> Living:
    """By docker run --detach."""
    return _of_engine(place, docker.client(place), ["--network", "none", "--log-driver", "none"])


def of_podman(place: Place) -> Living:
    """By podman run --detach."""
    cgroup = ["--cgroup-parent", f"/{place.once(cgroup_parent)}"]
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
    return _of_engine(place, podman.client(place), ["--network", "none", *cgroup, *limits])


def _of_engine(place: Place, client: list[str], options: list[str]) -> Living:
    id = _call(*client, "run", "--detach", *options, image.NAME, *_SLEEP)
    place.stack.callback(_call, *client, "rm", "--force", id)
    place.stack.callback(_call, *client, "kill", id)  # pid 1 is deaf to SIGTERM, after which podman waits ten seconds
    return Living(int(_call(*client, "inspect", "--format", "{{.State.Pid}}", id)), [*client, "exec", id])


def _call(*argv: str) -> str:
    """What a tool prints. Raises `Failed`."""
    null = subprocess.DEVNULL
    with tempfile.TemporaryFile() as output:  # no pipe, which what it leaves behind could hold open
        done = subprocess.run(argv, env=commandline.environment(), stdin=null, stdout=output, stderr=null)
        output.seek(0)
        text = output.read().decode().strip()
    if done.returncode:
        raise Failed(f"{' '.join(argv[:2])}: exit status {done.returncode}")
    return text
