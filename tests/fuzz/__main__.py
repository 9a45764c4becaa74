"""``make fuzz``: libFuzzer on the launcher, from the kept inputs and today's plans; what is worth keeping is kept.

FUZZ_SECONDS (600) says how long. Ends with 1 when something was found: the input is then left in this directory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from execdrivers.testing.program import make_rootfs

from . import plans
from .build import CORPUS, HERE, build


def fill(directory: Path, rootfs: Path) -> None:
    """The kept inputs, and the plans of all that there is today."""
    if CORPUS.exists():
        with zipfile.ZipFile(CORPUS) as kept:
            kept.extractall(directory)
    for name, plan in (*plans.real(rootfs), *plans.of_each_operation()):
        (directory / name).write_bytes(plan)


def keep(directory: Path) -> None:
    """The files, by their content: the same ones make the same archive."""
    with zipfile.ZipFile(CORPUS, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(directory.iterdir(), key=lambda path: path.read_bytes()):
            archive.writestr(zipfile.ZipInfo(path.name[:40]), path.read_bytes(), zipfile.ZIP_DEFLATED)


def fuzz(program: Path, directory: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    """libFuzzer's run; its report is standard error."""
    options = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=10", "-print_final_stats=1"]
    command = ["nice", str(program), *options, f"-artifact_prefix={HERE}/found-", str(directory)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")


def main() -> int:
    seconds = int(os.environ.get("FUZZ_SECONDS", "600"))
    with tempfile.TemporaryDirectory() as scratch:
        program, found, merged = Path(scratch, "fuzz"), Path(scratch, "found"), Path(scratch, "merged")
        build(program, "clang")
        rootfs = Path(scratch, "rootfs")
        make_rootfs(rootfs, Path(shutil.which("busybox") or "/bin/busybox"), "/bin/busybox")
        found.mkdir()
        merged.mkdir()
        fill(found, rootfs)
        done = fuzz(program, found, seconds)
        if done.returncode:
            print(done.stderr[-6000:])
            return 1
        print(*re.findall(r"^stat::number_of_executed_units.*|^#\d+\s+DONE.*", done.stderr, re.MULTILINE), sep="\n")
        subprocess.run([program, "-merge=1", merged, found], check=True, stderr=subprocess.DEVNULL)
        keep(merged)
        print(f"{len(list(merged.iterdir()))} inputs kept in {CORPUS.relative_to(Path.cwd())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
