"""The kit catches lies: each driver of mutants.py fails the test that is named for it, which the true one passes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs("root", "cc")

_PROGRAM = Path(__file__).with_name("mutants.py")


def _table() -> dict[str, tuple[str, str]]:
    """Lie → the test that catches it, and the name of the true driver."""
    spec = importlib.util.spec_from_file_location("mutants", _PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: (mutant.caught_by, mutant.true_name) for name, mutant in module.MUTANTS.items()}


MUTANTS = _table()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Driver → test → (outcome, reason); all are tried by one program."""
    target = tmp_path_factory.mktemp("mutants") / "outcomes.json"
    done = subprocess.run([sys.executable, _PROGRAM, target], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(target.read_text())


@pytest.mark.parametrize("lie", MUTANTS)
def test_lie_is_caught(lie: str, outcomes: Any) -> None:
    test, _ = MUTANTS[lie]
    tried = outcomes[lie]
    assert tried, f"{test} was not found"
    assert {outcome for outcome, _ in tried.values()} == {"failed"}, tried


@pytest.mark.parametrize("lie", MUTANTS)
def test_truth_is_not(lie: str, outcomes: Any) -> None:
    test, true = MUTANTS[lie]
    outcome, reason = outcomes[true][test]
    assert outcome in ("passed", "refused"), reason


def test_there_are_many() -> None:
    assert len(MUTANTS) >= 20
