"""What is timed of the library within a program of its own (see ``inprocess``), in seconds.

Each function first does a few turns that do not count. Rounds are fresh programs, so that each pays for its imports
then, and not in what it measures.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence

import execdrivers
from benchmarks import rest
from execdrivers import DEVNULL, Container, ContainerSpec, Engine, Mount

__all__ = ["alive", "allow_descriptors", "executions", "reads", "resident", "running", "sleeping", "starts", "stats"]

#: Descriptors that a live container takes of the program that holds it, at the most; and what that needs itself.
DESCRIPTORS, SPARE = 8, 200

_WARM_UP = 5
_FOREVER = ["/bin/sleep", "1000000000"]


def executions(count: int, *, name: str, command: Sequence[str] = ("/bin/true",)) -> list[float]:
    """Of ``count`` processes, from the call of `Container.exec` to their exit, in a container that runs."""
    container = Engine().get(name)

    def execute() -> None:
        with container.exec(command) as process:
            process.wait()

    return _times(execute, count)


def starts(
    count: int, *, rootfs: str, megabytes: int = 0, mounts: Sequence[str] = (), environment: int = 0
) -> list[float]:
    """Of ``count`` containers that run ``true``, from call to return.

    Their caller holds so many ``megabytes`` of resident memory; their spec has these directories of the host as
    ``mounts`` below /mnt in the container, and an ``environment`` of so many bytes.
    """
    held = resident(megabytes)
    spec = ContainerSpec(
        ["/bin/true"],
        rootfs=rootfs,
        mounts=[Mount(f"/mnt/{number}", "bind", source) for number, source in enumerate(mounts)],
        env={f"VARIABLE_{number:06}": "x" * 983 for number in range(environment // 1000)},
    )
    try:
        return _times(lambda: execdrivers.run(spec, driver="native", check=True), count)
    finally:
        del held


def alive(count: int, *, rootfs: str, containers: int, patience: float) -> list[float]:
    """Of ``count`` starts as in `starts`, while this program holds so many other containers, which sleep.

    It makes them and removes them, and waits for the kernel to have done what it has put off, before and after: so many
    seconds at the most.
    """
    allow_descriptors(containers)
    rest.wait(patience)
    with Engine() as engine:
        for _ in range(containers):
            sleeping(engine, rootfs)
        rest.wait(patience)
        times = _times(lambda: engine.run(["/bin/true"], rootfs=rootfs, driver="native", check=True), count)
    rest.wait(patience)
    return times


def stats(count: int, *, name: str) -> list[float]:
    """Of ``count`` samples by `Container.stats`."""
    return _times(Engine().get(name).stats, count)


def reads(count: int, *, paths: Sequence[str]) -> list[float]:
    """Of ``count`` times that these files are read, and nothing is done with what is in them."""

    def read() -> None:
        for path in paths:
            with contextlib.suppress(OSError):  # some cannot be read on every kernel
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    while os.read(fd, 1 << 16):
                        pass
                finally:
                    os.close(fd)

    return _times(read, count)


def sleeping(engine: Engine, rootfs: str, *, detach: bool = False, accounting: bool = False) -> Container:
    """A container that has been started and does nothing."""
    spec = ContainerSpec(_FOREVER, rootfs=rootfs)
    container = engine.create(
        spec,
        driver="native",
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
        detach=detach,
        accounting=accounting,
    )
    container.start()
    return container


@contextlib.contextmanager
def running(rootfs: str, *, accounting: bool = False) -> Iterator[Container]:
    """Such a container, which other programs find by its name."""
    with Engine() as engine, sleeping(engine, rootfs, accounting=accounting) as container:
        yield container


def allow_descriptors(containers: int) -> None:
    """Let this program hold so many containers. Raises ValueError where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = SPARE + DESCRIPTORS * containers
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def resident(megabytes: int) -> bytearray:
    """So much memory, each page of which has been written to."""
    memory = bytearray(megabytes << 20)
    memory[::4096] = b"x" * len(memory[::4096])
    return memory


def _times(act: Callable[[], object], count: int) -> list[float]:
    for _ in range(_WARM_UP):
        act()
    times = []
    for _ in range(count):
        before = time.perf_counter()
        act()
        times.append(time.perf_counter() - before)
    return times
