"""``make faults``: all faults of all plans, and docs/faults.md from what came of them. A minute on a quiet machine.

The names of plans as arguments take those alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from execdrivers.testing.program import make_rootfs

from .caller import CALLS, Callers
from .campaign import PLANS, Fault, Laboratory

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"

_HEAD = """\
# Faults

What becomes of a container when something fails while it is made. This page is written by `make faults`, which does all
of it for real, on a kernel that is told by strace(1) what to refuse: each system call of the launcher in turn with each
errno that may come of it, the calls of the calling program, the program killed behind each operation and at each call,
descriptors, files of the store and processes used up.

Each fault is judged alike. Either an error was raised that names the step and the kernel's reason, and the command has
not run (it would have left a file); or the fault was without effect, and the command sees itself contained just as it
does without one: identity, capabilities, namespaces, mounts, devices, cgroups, limits. Then nothing may be left:
processes, mounts, cgroups, descriptors, entries of the store. Of a caller that was killed the store keeps an entry, and
its cgroups: `execdrivers rm --force NAME` must remove both, and what runs.

The tests take a sample of this, and run the launcher on a made-up kernel besides ([fuzzing](#fuzzing)).
"""

_TAIL = """
## Fuzzing

The launcher's sources are also built as an ordinary program under AddressSanitizer and UndefinedBehaviorSanitizer, on a
kernel made up for the purpose (tests/fuzz/kernel.c): what each system call answers, and the data it hands out, is part
of the input, beside the plan. It aborts when a command is executed although a call has failed whose failure matters, or
with a descriptor open that is none of the command's. `make test` lets every call of every plan fail there in 18 ways
(more than 200,000 launches) and runs the kept inputs; `make fuzz` gives the same program to libFuzzer, which mutates
plans by whole operations, and keeps what it finds worth keeping in tests/fuzz/corpus.zip.
"""


def everything(laboratory: Laboratory, names: Sequence[str]) -> Iterator[tuple[str, Fault]]:
    """Every fault there is of these plans, by kind."""
    for plan in names:
        laboratory.learn(plan)
        for call, at, error in laboratory.faults(plan):
            yield "launcher", laboratory.fail(plan, call, at, error)
    callers = Callers(laboratory)
    for plan in names:
        for index in range(len(callers.operations(plan)) if plan not in ("exec", "host root") else 0):
            yield "killed", callers.kill_after(plan, index)
    for call, at in callers.calls("limits"):
        yield "killed", callers.kill_at("limits", call, at)
        for error in CALLS[call]:
            yield "caller", callers.fail("limits", call, at, error)
    for more in range(1, 24):
        yield "caller", callers.few_descriptors("limits", more)
    for inodes in range(1, 8):
        yield "caller", callers.full_store("limits", inodes)
    yield "caller", callers.no_processes("default")


def _table(faults: Iterable[Fault], row: str, heading: str) -> Iterator[str]:
    rows: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        rows[getattr(fault, row) or "(none)"].append(fault)
    yield f"| {heading} | calls | errnos | faults | findings |"
    yield "|---|---|---|---|---|"
    for name, those in sorted(rows.items()):
        calls = ", ".join(sorted({fault.call for fault in those}))
        errors = ", ".join(sorted({fault.error for fault in those}))
        yield f"| {name} | {calls} | {errors} | {len(those)} | {sum(bool(fault.finding) for fault in those)} |"


def page(faults: Iterable[tuple[str, Fault]]) -> str:
    """docs/faults.md."""
    kinds: dict[str, list[Fault]] = defaultdict(list)
    for kind, fault in faults:
        kinds[kind].append(fault)
    total = sum(map(len, kinds.values()))
    found = [fault for those in kinds.values() for fault in those if fault.finding]
    lines = [
        _HEAD,
        f"**{total} faults, {len(found)} findings.**",
        "",
        f"## System calls of the launcher: {len(kinds['launcher'])} faults",
        "",
        f"In these plans: {', '.join(dict.fromkeys(fault.plan for fault in kinds['launcher']))}.",
        "Of a call that is made many times in a plan three are tried. *(none)*: the launch went on, contained as ever.",
        "",
        *_table(kinds["launcher"], "step", "step that was told"),
        "",
        f"## The calling program: {len(kinds['caller'])} faults",
        "",
        *_table(kinds["caller"], "call", "call, or what was used up"),
        "",
        f"## The calling program killed: {len(kinds['killed'])} times",
        "",
        "Behind each operation of a plan, and, with limits, at its own system calls.",
        "",
        "| plan | killed | findings |",
        "|---|---|---|",
    ]
    plans: dict[str, list[Fault]] = defaultdict(list)
    for fault in kinds["killed"]:
        plans[fault.plan].append(fault)
    lines += [f"| {plan} | {len(those)} | {sum(bool(f.finding) for f in those)} |" for plan, those in plans.items()]
    if found:
        lines += ["", "## Findings", "", *(f"- {fault}" for fault in found)]
    return "\n".join(lines) + "\n" + _TAIL


def make_busybox(path: Path) -> Path:
    """A root file system of busybox."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "it takes busybox"
    make_rootfs(path, Path(busybox), "/bin/busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if not (path / "bin" / applet).exists():
            (path / "bin" / applet).symlink_to("busybox")
    return path


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        laboratory = Laboratory(make_busybox(Path(directory, "rootfs")), Path(directory))
        faults = []
        try:
            for kind, fault in everything(laboratory, sys.argv[1:] or PLANS):
                faults.append((kind, fault))
                if fault.finding:
                    print(fault, file=sys.stderr)
        finally:
            laboratory.close()
    PAGE.write_text(page(faults))
    findings = sum(bool(fault.finding) for _, fault in faults)
    print(f"{len(faults)} faults, {findings} findings: {PAGE}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
