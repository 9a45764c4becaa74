"""docker-py: Docker's own library for Python, on the daemon of ``docker run``."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.inprocess import in_process
from benchmarks.peers import image
from benchmarks.peers.docker import PEER as DOCKER
from benchmarks.peers.docker import address
from benchmarks.sampling import Contender
from benchmarks.scenario import Place

__all__ = ["NAME", "contender", "run"]

NAME = "docker-py"


def contender(place: Place) -> Contender:
    """From the call of ``containers.run`` to its return."""
    lacking = DOCKER.lacking(place)
    if importlib.util.find_spec("docker") is None:
        lacking = "the package docker is not installed; pip install docker"

    def measure(count: int) -> list[float]:
        return list(in_process("benchmarks.peers.docker_py:run", address=address(place))(count))

    return Contender(name=NAME, measure=None if lacking else measure, lacking=lacking, batch=2)


def run(count: int, *, address: str) -> Iterator[float]:
    """Seconds of each of ``count`` calls, after one for nothing."""
    docker: Any = importlib.import_module("docker")
    client = docker.DockerClient(base_url=address)
    log = docker.types.LogConfig(type="none")
    for turn in range(-1, count):
        before = time.perf_counter()
        client.containers.run(image.NAME, ["/bin/true"], remove=True, network_mode="none", log_config=log)
        after = time.perf_counter()
        if turn >= 0:
            yield after - before
