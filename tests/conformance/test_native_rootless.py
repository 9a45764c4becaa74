"""The native driver through the conformance kit as an ordinary user: with subordinate ids, and with one id alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_USER = 4321

#: In a mount namespace of its own, where the user has an account and ids; then whatever was asked for, as that user.
_GRANTED = f"""
for file in passwd subuid subgid; do
    cat /etc/$file >$0/$file
done
echo ordinary:x:{_USER}:{_USER}::/:/bin/sh >>$0/passwd
echo ordinary:1500000000:65536 | tee -a $0/subuid >>$0/subgid
for file in passwd subuid subgid; do
    mount --bind $0/$file /etc/$file || exit
done
exec setpriv --reuid={_USER} --regid={_USER} --clear-groups "$@"
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of the user's that it can reach, unlike those below root's for tests."""
    path = Path(tempfile.mkdtemp(prefix="ed-"))
    os.chown(path, _USER, _USER)
    yield path
    shutil.rmtree(path)


def conformance(home: Path, *before: str, only: str = "") -> str:
    """Run the kit; what it says."""
    words = [*before, sys.executable, "-m", "execdrivers", "conformance", "--driver", "native", "-k", only]
    environment = {**os.environ, "TMPDIR": str(home), "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    environment.pop("EXECDRIVERS_ROOT", None)
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


def refused(told: str, area: str) -> int:
    """How many tests of the area ended in a refusal, by the matrix."""
    (row,) = [line for line in told.splitlines() if line.startswith(f"{area} ")]
    counts = row.split()
    return int(counts[2]) if len(counts) > 2 else 0


@pytest.mark.timeout(400)
def test_with_one_id(ordinary: tuple[str, ...], home: Path) -> None:
    """Those areas where other ids, or the lack of them, make a difference."""
    told = conformance(home, *ordinary, only="TestUsers or TestExec or TestCapabilities or TestExit or TestHandle")
    assert refused(told, "Users") > 0  # groups are, and other users


@pytest.mark.timeout(400)
@pytest.mark.needs("newuidmap", "unshare")
def test_with_subordinate_ids(ordinary: tuple[str, ...], tmp_path: Path, home: Path) -> None:
    told = conformance(home, "unshare", "--mount", "sh", "-ec", _GRANTED, str(tmp_path))
    assert refused(told, "Users") == 0
