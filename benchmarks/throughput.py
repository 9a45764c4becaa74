"""How fast a container's output arrives, in bytes a second: from the call that starts it until all is here.

And the same program without a container, its output taken in the plainest way that Python has.
"""

from __future__ import annotations

import os
import pty
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import execdrivers
from execdrivers import DEVNULL, ContainerSpec, Engine, LogOptions
from execdrivers.store import default_root
from execdrivers.streams import read_some

__all__ = ["callback", "capture", "log", "plain_file", "plain_pipe", "plain_terminal", "terminal"]

_SMALL = 1 << 16


def capture(count: int, *, rootfs: str, size: int) -> list[float]:
    """`execdrivers.run` with ``capture_output``."""

    def take(size: int) -> int:
        done = execdrivers.run(
            _zeros(size), rootfs=rootfs, driver="native", stdin=DEVNULL, capture_output=True, output_limit=None
        )
        return len(done.stdout)

    return _rates(take, size, count)


def callback(count: int, *, rootfs: str, size: int) -> list[float]:
    """`execdrivers.run` with a function for ``stdout``, which counts."""

    def take(size: int) -> int:
        lengths: list[int] = []
        execdrivers.run(
            _zeros(size), rootfs=rootfs, driver="native", stdin=DEVNULL, stdout=lambda data: lengths.append(len(data))
        )
        return sum(lengths)

    return _rates(take, size, count)


def terminal(count: int, *, rootfs: str, size: int) -> list[float]:
    """`execdrivers.run` with ``tty`` and a function that counts."""

    def take(size: int) -> int:
        lengths: list[int] = []
        execdrivers.run(
            _zeros(size),
            rootfs=rootfs,
            driver="native",
            tty=True,
            stdin=DEVNULL,
            stdout=lambda data: lengths.append(len(data)),
        )
        return sum(lengths)

    return _rates(take, size, count)


def log(count: int, *, rootfs: str, size: int) -> list[float]:
    """A detached container, until its monitor has written all to the log and the end of it is known."""
    spec = ContainerSpec(_zeros(size), rootfs=rootfs)

    def take(size: int) -> int:
        with engine.create(
            spec.replace(args=_zeros(size)), driver="native", detach=True, log=LogOptions(max_size=4 * size)
        ) as container:
            container.start()
            container.wait()
        return size

    with Engine() as engine:
        return _rates(take, size, count)


def plain_pipe(count: int, *, rootfs: str, size: int) -> list[float]:
    """`subprocess.run` with ``capture_output``."""

    def take(size: int) -> int:
        return len(
            subprocess.run(_outside(rootfs, size), stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
        )

    return _rates(take, size, count)


def plain_terminal(count: int, *, rootfs: str, size: int) -> list[float]:
    """A terminal by `pty.openpty`, read by `os.read`."""

    def take(size: int) -> int:
        master, slave = pty.openpty()
        with subprocess.Popen(_outside(rootfs, size), stdin=subprocess.DEVNULL, stdout=slave):
            os.close(slave)
            arrived = 0
            while data := read_some(master, 1 << 16):
                arrived += len(data)
            os.close(master)
        return arrived

    return _rates(take, size, count)


def plain_file(count: int, *, rootfs: str, size: int) -> list[float]:
    """`subprocess.run` that writes to a file itself, where the log would be."""

    def take(size: int) -> int:
        path = Path(default_root(), "plain")
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            subprocess.run(_outside(rootfs, size), stdin=subprocess.DEVNULL, stdout=file, check=True)
        arrived = path.stat().st_size
        path.unlink()
        return arrived

    return _rates(take, size, count)


def _zeros(size: int) -> list[str]:
    """A program that writes so many bytes, of the root file system."""
    return ["/bin/busybox", "dd", "if=/dev/zero", "bs=64k", f"count={size >> 16}", "status=none"]


def _outside(rootfs: str, size: int) -> list[str]:
    """The same one, as a program of the host's."""
    program, *arguments = _zeros(size)
    return [rootfs + program, *arguments]


def _rates(take: Callable[[int], int], size: int, count: int) -> list[float]:
    """Of ``count`` times; ``take`` returns how much has arrived."""
    take(_SMALL)
    rates = []
    for _ in range(count):
        before = time.perf_counter()
        arrived = take(size)
        seconds = time.perf_counter() - before
        if arrived != size:
            raise ValueError(f"{arrived} bytes have arrived of {size}")
        rates.append(size / seconds)
    return rates
