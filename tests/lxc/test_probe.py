"""The probe: which LXC there is, and what it says when there is none that will do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers_lxc import probe
from execdrivers_lxc.driver import LxcDriver

FakeTools = Callable[..., Path]
pytestmark = pytest.mark.needs("lxc-start")


def reasons() -> str:
    """Why it cannot run here; each reason has a remedy."""
    answer = LxcDriver().probe()
    assert not answer.available
    assert all(problem.remedy for problem in answer.problems)
    return "; ".join(map(str, answer.problems))


@pytest.mark.needs("root")
def test_available_and_quick() -> None:
    start = time.perf_counter()
    answer = LxcDriver().probe()
    assert time.perf_counter() - start < 1  # 10 ms, were the machine idle
    assert answer.available
    assert answer.version.count(".") >= 1
    assert {"exec", "pause", "update", "recover"} <= answer.features
    assert not answer.features & answer.missing.keys()


def test_facts_have_the_verdicts_of_checkconfig() -> None:
    facts = dict(LxcDriver().probe().facts)
    assert "lxc-start" in facts["tools"]
    assert facts["checkconfig"]["Namespaces"] == "enabled"


def test_checkconfig_is_run_only_when_looked_at(fake_tools: FakeTools, tmp_path: Path) -> None:
    fake_tools(checkconfig=f"echo asked >{tmp_path}/asked; echo 'Namespaces: \033[1;32menabled\033[0;39m'")
    answer = LxcDriver().probe()
    assert not (tmp_path / "asked").exists()
    assert answer.facts["checkconfig"] == {"Namespaces": "enabled"}


def test_no_lxc(fake_tools: FakeTools) -> None:
    fake_tools(**dict.fromkeys(("start", "attach", "freeze", "unfreeze", "cgroup", "checkconfig"), ""))
    assert "lxc-start is not there; apt-get install lxc" in reasons()


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("tool", "feature"), [("attach", "exec"), ("freeze", "pause"), ("unfreeze", "pause"), ("cgroup", "update")]
)
def test_a_tool_is_missing(fake_tools: FakeTools, tool: str, feature: str) -> None:
    fake_tools(**{tool: ""})
    answer = LxcDriver().probe()
    assert answer.available
    assert feature not in answer.features
    assert str(answer.missing[feature]) == f"the program lxc-{tool} is not there; apt-get install lxc"


@pytest.mark.parametrize("version", ["2.0.6", "4.0.1", "1.0.0.alpha3"])
def test_too_old(fake_tools: FakeTools, version: str) -> None:
    fake_tools(version=f"echo {version}")
    assert f"LXC is {version}; install LXC 4.0.2 or later" in reasons()


@pytest.mark.needs("root")
@pytest.mark.parametrize("version", ["4.0.2", "4.0.12", "5.0", "6.0.4-devel"])
def test_new_enough(fake_tools: FakeTools, version: str) -> None:
    fake_tools(version=f"echo {version}")
    assert LxcDriver().probe().available


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("echo 'lxc-start: cannot open shared object file' >&2; exit 127", "exited with 127: lxc-start: cannot open"),
        ("printf '\\377\\000garbage\\n'", "--version says"),
        ("exit 0", "--version says ''"),
        ("kill -9 $$", "was killed by SIGKILL"),
    ],
)
def test_cannot_tell_its_version(fake_tools: FakeTools, no_leaks: None, does: str, reason: str) -> None:
    fake_tools(version=does)
    assert reason in reasons()


@pytest.mark.parametrize("does", ["sleep 100 & sleep 100", "cat /dev/zero"])
def test_hangs(fake_tools: FakeTools, no_leaks: None, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    monkeypatch.setattr(probe, "_SOON", 0.2)
    fake_tools(version=does)
    assert "did not end within 0.2 seconds and was killed" in reasons()


def test_without_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "without privilege this driver cannot use LXC; run as root" in reasons()
