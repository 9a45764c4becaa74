"""Two minutes of what `make soak` does for half an hour."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from .supervisor import Soak

SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))


@pytest.mark.needs("root", "busybox")
@pytest.mark.timeout(SECONDS + 400)
def test_model_and_reality_agree(tmp_path: Path) -> None:
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(1 << 30))
    report = Soak(tmp_path, seed).run(SECONDS)
    assert not report.findings, f"seed {seed}: " + "\n\n".join(report.findings)
    assert report.kills > SECONDS / 10, report
    assert sum(report.operations.values()) > 3 * SECONDS, report
    for driver in report.drivers:
        assert report.operations[driver, "create"], report
