"""The example programs, run as a reader would run them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True)
def _native_is_available(driver_probe) -> None:
    driver_probe("native")


def example(name: str, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLES / name, *args], capture_output=True, text=True, timeout=timeout)


def tool_call(*args: str) -> Any:
    done = example("agent_tool_call.py", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tool_call_returns_output_and_exit() -> None:
    answer = tool_call("echo out; echo err >&2; exit 3")
    assert answer == {
        "ok": False,
        "reason": "exited",
        "returncode": 3,
        "detail": "exited with code 3",
        "stdout": "out\n",
        "stderr": "err\n",
        "truncated": False,
    }


def test_tool_call_cannot_write_to_the_host() -> None:
    victim = f"/usr/execdrivers-test-{os.getpid()}"
    answer = tool_call(f"touch /tmp/fine && touch {victim}")
    assert not answer["ok"]
    assert victim in answer["stderr"]
    assert not os.path.exists(victim)


def test_tool_call_caps_output_and_keeps_its_end() -> None:
    answer = tool_call("echo first; head -c 1000000 /dev/zero | tr '\\0' x; echo last")
    assert answer["truncated"]
    assert answer["stdout"].startswith("first\n")
    assert answer["stdout"].endswith("last\n")
    assert f"[{1000000 + 6 + 5 - 16 * 1024} bytes left out]" in answer["stdout"]
    assert len(answer["stdout"]) < 17 * 1024


def test_tool_calls_run_at_once() -> None:
    answers = tool_call("echo one", "sleep 60", "exit 2", "echo early; kill -9 $$")
    assert [answer["reason"] for answer in answers] == ["exited", "timeout", "exited", "signaled"]
    assert [answer["stdout"] for answer in answers] == ["one\n", "", "", "early\n"]


def test_tool_calls_share_a_workspace(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert tool_call("--workspace", str(tmp_path), "echo kept > file")["ok"]
    assert tool_call("--workspace", str(tmp_path), "cat file; id -u")["stdout"] == f"kept\n{os.getuid()}\n"


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        ("tr a-z A-Z", "accepted"),
        ("cat", "wrong answer"),
        ("exit 1", "runtime error"),
        ("while :; do :; done", "time limit exceeded"),
        ("(while :; do :; done) & while :; do :; done", "time limit exceeded"),
        ("sleep 60", "idleness limit exceeded"),
        ("yes", "output limit exceeded"),
        ("tail -c 100m /dev/zero | tail", "memory limit exceeded"),
    ],
)
def test_judge(command: str, verdict: str) -> None:
    done = example("judge.py", "--cpu", "0.3", "--idle", "1", "--memory", "32", command)
    assert verdict in done.stdout, done.stdout + done.stderr
    assert done.returncode == (0 if verdict == "accepted" else 1)


@pytest.mark.needs("root")
def test_judge_goes_by_processor_time(tmp_path: Path) -> None:
    """Many at once on one machine: who is slow because of the others is not too slow."""
    busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; tr a-z A-Z"
    done = example("judge.py", "--cpu", "1", "--at-once", "12", *[busy] * 8)
    assert done.stdout.count("accepted") == 24, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.fixture
def job(tmp_path: Path) -> Iterator[list[str]]:
    """The first words of a job in a checkout, with records of its own, of which nothing is left at the end."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    tmp_path.chmod(0o755)
    yield ["--root", str(tmp_path / "root"), str(checkout)]
    assert [name for name in os.listdir(tmp_path / "root") if not name.startswith(".")] == []


def test_ci_job_runs_steps_until_one_fails(job: list[str]) -> None:
    done = example("ci_job.py", *job, "echo $CI > built; cat built; printf half", "exit 7", "echo never")
    assert "  | true\n  | half\n  exited" in done.stdout, done.stdout + done.stderr
    assert "never" not in done.stdout.replace("$ echo never", "")
    assert done.returncode == 7
    assert Path(job[-1], "built").read_text() == "true\n"


@pytest.mark.parametrize("ended", [False, True], ids=["that still runs", "that has ended meanwhile"])
def test_ci_job_survives_its_runner(job: list[str], ended: bool) -> None:
    steps = ["echo run >> runs; echo one; while [ ! -e go ]; do sleep 0.1; done; echo two", "cat runs; exit 3"]
    command = [sys.executable, EXAMPLES / "ci_job.py", *job, *steps]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout
        assert "  | one\n" in iter(first.stdout.readline, "")
        first.kill()
    go = Path(job[-1], "go")
    if ended:
        go.touch()
        time.sleep(1)
    else:
        threading.Timer(2, go.touch).start()
    done = example("ci_job.py", *job, *steps)
    assert done.stdout.count("  | one\n  | two\n") == 1, done.stdout + done.stderr
    assert done.stdout.count("  | run\n") == 1
    assert done.returncode == 3


def test_ci_job_ends_when_interrupted(job: list[str]) -> None:
    command = [sys.executable, EXAMPLES / "ci_job.py", *job, "echo up; sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as runner:
        assert runner.stdout
        assert "  | up\n" in iter(runner.stdout.readline, "")
        runner.send_signal(signal.SIGINT)
        assert runner.wait(20) != 0


def test_the_how_tos_quote_their_programs() -> None:
    pages = list((EXAMPLES.parent / "docs").glob("howto-*.md"))
    assert len(pages) == 3
    for page in pages:
        quotes = re.findall(r"<!-- (examples/\S+) -->\n```python\n(.*?)```", page.read_text(), re.DOTALL)
        assert quotes
        for program, quote in quotes:
            assert quote in (EXAMPLES.parent / program).read_text(), quote


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
