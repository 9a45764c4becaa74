"""``make soak``: half an hour unless SOAK_MINUTES says otherwise, and docs/soak.md from what came of it.

SOAK_SEED repeats the choices of another.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .supervisor import WORKERS, Report, Soak

PAGE = Path(__file__).resolve().parents[2] / "docs" / "soak.md"

_HEAD = """\
# Soak

Four programs work on one store, by default for half an hour: they create, start, signal, pause, update, execute in,
detach, stop, kill and delete containers of all drivers at random, each also those that another has made. Every few
seconds one of them is killed with SIGKILL, wherever it is, and another begins in its place. This page is written by
`make soak`; a run of two minutes is one of the tests.

For each name there is a model of what its container must be, in a file of its own. Whoever operates on a container
holds that file, writes down what he is about to do and all that may come of it, and then what came of it; so what was
in flight when he was killed is known as well. Before each operation model and reality are compared:

- the state: absent, created, running, paused, stopped, also when another program has changed it;
- the exit: the code that the command was told to end with, the signal that it was sent, or that it ran out of memory,
  again and again and by whichever program asks;
- the first process: alive, and of this very container, by its environment;
- its output: each signal that it was to count aloud, in order and once;
- limits, as recorded and in force; processor time, which never becomes less;
- what cannot be done in its state: refused, and without effect;
- what ends with its maker: gone, with its record, soon after that was killed; what was let go of, or made detached,
  lives on, is found by the others, and tells its exit.

Meanwhile the whole store is listed, recovered and garbage-collected by all of them at any time, and no record may be
damaged. In the end all programs are dead, half of them killed; what was theirs must go by itself, the rest is
recovered, compared once more and deleted. Then nothing may be left: processes, mounts, cgroups, descriptors, entries
of the store.
"""


def page(report: Report, minutes: float) -> str:
    """docs/soak.md."""
    done = sum(report.operations.values())
    in_flight = sum(report.in_flight.values())
    summary = (
        f"{minutes:g} minutes on {os.cpu_count()} processors, Linux {os.uname().release}; seed {report.seed}; "
        f"{WORKERS} programs; at most {report.most} containers alive at a time; the store listed {report.looks} times "
        f"besides; {in_flight} operations were in flight at the end."
    )
    lines = [
        _HEAD,
        f"**{done} operations, {report.kills} programs killed, {len(report.findings)} findings.**",
        "",
        summary,
        "",
        *_table(report),
    ]
    if strays := report.operations["chroot", "stray"]:
        known = (
            f"*stray* ({strays}): the driver chroot executes the command before anybody can record its pid; a program "
            "that is killed in that moment leaves a process. Known, and counted here; no other driver does."
        )
        lines += ["", known]
    if report.findings:
        lines += ["", "## Findings", "", *(f"- {finding.strip().splitlines()[-1]}" for finding in report.findings)]
    return "\n".join(lines) + "\n"


def _table(report: Report) -> Iterator[str]:
    columns = (*report.drivers, "all")
    yield f"| operation | {' | '.join(columns)} |"
    yield "|---|" + "---:|" * len(columns)
    for operation in sorted({operation for _, operation in report.operations}):
        counts = (report.operations[driver, operation] for driver in columns)
        yield f"| {operation} | {' | '.join(str(count or '') for count in counts)} |"


def main() -> int:
    minutes = float(os.environ.get("SOAK_MINUTES") or 30)
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(1 << 30))
    print(f"{minutes:g} minutes, seed {seed}", file=sys.stderr)
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    directory.chmod(0o755)
    report = Soak(directory, seed).run(60 * minutes)
    PAGE.write_text(page(report, minutes))
    for finding in report.findings:
        print(finding, file=sys.stderr)
    done, found = sum(report.operations.values()), len(report.findings)
    print(f"{done} operations, {report.kills} killed, {found} findings: {PAGE}")
    if found:
        print(f"all of it is in {directory}", file=sys.stderr)
    else:
        shutil.rmtree(directory)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
