"""The table of docs/security.md says of our containers what the probe finds in them now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.needs("root", "cc")
@pytest.mark.usefixtures("ordinary", "no_leaks")
def test_the_page_says_what_is_so() -> None:
    command = [sys.executable, ROOT / "tools/compare-isolation", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
