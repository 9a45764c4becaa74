"""Times launches by `execdrivers.run`. As a program (``ROOTFS MEGABYTES``): a caller that holds so much memory and, for
each number read from standard input, prints the seconds of so many launches as JSON."""

from __future__ import annotations

import json
import sys
import time

import execdrivers

__all__ = ["measure"]


def measure(rootfs: str, count: int) -> list[float]:
    """Seconds from call to return for each of ``count`` containers."""
    times = []
    for _ in range(count):
        before = time.perf_counter()
        execdrivers.run(["/bin/true"], rootfs=rootfs, driver="native", check=True)
        times.append(time.perf_counter() - before)
    return times


def main() -> None:
    """Serve requests until standard input ends."""
    rootfs, megabytes = sys.argv[1], int(sys.argv[2])
    held = bytearray(megabytes << 20)
    held[::4096] = b"x" * len(held[::4096])  # resident, not only promised
    measure(rootfs, 5)
    for line in sys.stdin:
        print(json.dumps(measure(rootfs, int(line))), flush=True)


if __name__ == "__main__":
    main()
