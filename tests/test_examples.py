"""The example programs, run as a reader would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True)
def _native_is_available(driver_probe) -> None:
    driver_probe("native")


def example(name: str, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLES / name, *args], capture_output=True, text=True, timeout=timeout)


def tool_call(command: str) -> dict[str, object]:
    done = example("agent_tool_call.py", command)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tool_call_returns_output_and_exit() -> None:
    answer = tool_call("echo out; echo err >&2; exit 3")
    assert answer == {
        "ok": False,
        "reason": "exited",
        "returncode": 3,
        "stdout": "out\n",
        "stderr": "err\n",
        "truncated": False,
    }


def test_tool_call_cannot_write_to_the_host() -> None:
    victim = f"/usr/execdrivers-test-{os.getpid()}"
    answer = tool_call(f"touch /tmp/fine && touch {victim}")
    assert not answer["ok"]
    assert victim in str(answer["stderr"])
    assert not os.path.exists(victim)


def test_tool_call_caps_output() -> None:
    answer = tool_call("head -c 1000000 /dev/zero | tr '\\0' x")
    assert answer["truncated"]
    assert len(str(answer["stdout"])) == 16 * 1024


@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        ("tr a-z A-Z", "accepted"),
        ("cat", "wrong answer"),
        ("exit 1", "runtime error"),
        ("sleep 60", "time limit exceeded"),
        ("yes | head -n 100000", "output limit exceeded"),
    ],
)
def test_judge(command: str, verdict: str) -> None:
    done = example("judge.py", command)
    assert verdict in done.stdout, done.stderr
    assert done.returncode == (0 if verdict == "accepted" else 1)


def test_ci_job_runs_steps_until_one_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = example("ci_job.py", str(tmp_path), "echo $CI > built; cat built", "exit 7", "echo never")
    assert "| true" in done.stdout, done.stderr
    assert "never" not in done.stdout.replace("$ echo never", "")
    assert done.returncode == 7
    assert (tmp_path / "built").read_text() == "true\n"


def test_show_container_fits_a_screen() -> None:
    done = example("show_container.py")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    rows = {line[:26].strip(): line[56:].strip() for line in lines}
    assert rows["pid"] == "1"
    assert rows["hostname"] == "contained"
    assert rows["no new privileges"] == "1"
