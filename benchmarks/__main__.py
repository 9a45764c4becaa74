"""``python -m benchmarks``: the native driver against the C floor, and against the caller's own memory.

Each comparison interleaves its contenders in small batches, so that a slow spell of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import floor, launches, rootfs

_BATCH = 20


def _callers(sizes: list[int], root: str, batches: int) -> dict[int, list[float]]:
    """Seconds per launch for callers holding so many MB, in processes of their own, in turns."""
    command = [sys.executable, "-m", "benchmarks.launches", root]
    processes = {
        size: subprocess.Popen([*command, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for size in sizes
    }
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(batches):
        for size, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{_BATCH}\n")
            process.stdin.flush()
            times[size].extend(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.communicate("")
    return times


def _line(name: str, times: list[float]) -> str:
    low, median, high = (1e3 * value for value in statistics.quantiles(times, n=4))
    return f"{name:<34}{median:8.2f} ms   (half of all within {low:.2f} to {high:.2f})"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: that it works, not what it measures")
    parser.add_argument("--json", metavar="FILE", help="write all times there, in seconds")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("the floor makes namespaces without a user namespace: run as root", file=sys.stderr)
        return 1
    batches = 2 if options.quick else 25
    with tempfile.TemporaryDirectory() as scratch:
        root = rootfs.make(Path(scratch) / "rootfs")
        built = floor.build(Path(scratch))
        times: dict[str, list[float]] = {"floor": [], "native": []}
        launches.measure(root, _BATCH)
        for _ in range(batches):
            times["floor"].extend(floor.rounds(built, _BATCH, root, ["/bin/true"]))
            times["native"].extend(launches.measure(root, _BATCH))
        callers = _callers([20, 500, 2000], root, batches)
    median = statistics.median
    print(f"start to exit of `true`, {platform.release()}, {os.cpu_count()} CPUs, {batches * _BATCH} launches each")
    print(_line("C floor", times["floor"]))
    print(_line("execdrivers.run, driver native", times["native"]))
    print(f"  native over floor: {median(times['native']) / median(times['floor']):.2f}")
    for size, values in callers.items():
        print(_line(f"caller holding {size} MB", values))
    print(f"  2000 MB over 20 MB: {median(callers[2000]) / median(callers[20]):.2f}")
    if options.json:
        data = {**times, **{f"caller_{size}_mb": values for size, values in callers.items()}}
        Path(options.json).write_text(json.dumps(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
