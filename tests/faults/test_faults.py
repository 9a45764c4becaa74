"""A sample of docs/faults.md's faults, drawn anew each time; `make faults` does all."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .caller import CALLS, Callers
from .campaign import PLANS, Laboratory

pytestmark = pytest.mark.needs("root", "busybox", "strace", "cgroup-v1")


@pytest.fixture
def laboratory(rootfs: Path, tmp_path: Path) -> Iterator[Laboratory]:
    laboratory = Laboratory(rootfs, tmp_path)
    yield laboratory
    laboratory.close()


@pytest.mark.parametrize("plan", PLANS)
def test_calls_of_the_launcher_fail(laboratory: Laboratory, plan: str) -> None:
    laboratory.learn(plan)
    for call, at, error in random.sample(list(laboratory.faults(plan)), 8):
        fault = laboratory.fail(plan, call, at, error)
        assert not fault.finding, fault


def test_calls_of_the_caller_fail(laboratory: Laboratory) -> None:
    callers = Callers(laboratory)
    for call, at in random.sample(list(callers.calls("limits")), 6):
        fault = callers.fail("limits", call, at, random.choice(CALLS[call]))
        assert not fault.finding, fault


def test_the_caller_is_killed(laboratory: Laboratory) -> None:
    callers = Callers(laboratory)
    for index in random.sample(range(len(callers.operations("limits"))), 3):
        fault = callers.kill_after("limits", index)
        assert not fault.finding, fault
    for call, at in random.sample(list(callers.calls("limits")), 3):
        fault = callers.kill_at("limits", call, at)
        assert not fault.finding, fault


def test_resources_are_used_up(laboratory: Laboratory) -> None:
    callers = Callers(laboratory)
    faults = [callers.few_descriptors("limits", more) for more in random.sample(range(1, 24), 3)]
    faults += [callers.full_store("limits", inodes) for inodes in (1, 2, 3, 4)]
    faults.append(callers.no_processes("default"))
    assert not [fault for fault in faults if fault.finding]


def test_a_caller_that_may_open_few(rootfs: Path) -> None:
    """All is there that a launch needs, or the error says which limit is reached: in a program with nothing open."""
    program = """
import resource, sys, execdrivers
execdrivers.run(["true"], rootfs=sys.argv[1])  # all is loaded
for limit in range(30, 5, -1):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        print(execdrivers.run(["true"], rootfs=sys.argv[1]).exit.code)
    except execdrivers.ExecDriverError as error:
        print(error)
"""
    made = subprocess.run([sys.executable, "-c", program, rootfs], capture_output=True, text=True, check=True)
    told = made.stdout.splitlines()
    assert told[0] == "0"
    assert {line for line in told if line != "0" and "Too many open files" not in line} == set()
    assert told[-1] != "0"


def test_findings_are_found(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be left behind, and what would not be told, by a driver that does not clean up."""
    laboratory.learn("limits")
    monkeypatch.setattr("execdrivers_native.handle.NativeHandle.delete", lambda self: self.close())
    fault = laboratory.fail("limits", "pivot_root", 1, "EBUSY")
    for path in sorted(re.findall(r"cgroup (/\S+?)(?:;|$)", fault.finding), reverse=True):
        os.rmdir(path)
    assert fault.step == "pivot"
    assert "left behind: cgroup" in fault.finding
