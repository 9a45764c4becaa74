"""The table of docs/security.md says of our containers what the probe finds in them now."""

from __future__ import annotations

import re
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


def test_the_list_of_attacks_names_each_file_of_replays() -> None:
    page = (ROOT / "docs/attacks.md").read_text()
    named = set(re.findall(r"`(?:tests/attacks/)?(test_\w+\.py)`", page))
    there = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert named == there
