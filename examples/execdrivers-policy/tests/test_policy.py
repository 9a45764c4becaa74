"""The policy by itself, and as the command line shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from execdrivers import ContainerSpec, Event, VetoError
from execdrivers_policy import log, policy

MEBIBYTE = 1 << 20


def execdrivers(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "execdrivers", *words]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}},
        {"network": "none", "namespaces": {"pid": "private"}},
        {"masked_paths": ["/proc/keys"], "no_new_privileges": True},
        {"mounts": [{"type": "tmpfs", "destination": "/data"}]},
    ],
)
def test_what_is_allowed(fields: dict[str, Any]) -> None:
    policy.check(ContainerSpec(["true"], **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"capabilities": {"add": ["ALL"]}},
        {"capabilities": {"add": ["SYS_ADMIN"]}},
        {"capabilities": {"bounding": ["CAP_SYS_PTRACE"]}},
        {"network": "host"},
        {"namespaces": {"pid": "host"}},
        {"namespaces": {"network": "/proc/1/ns/net"}},
        {"devices": [{"path": "/dev/sda", "type": "b", "major": 8}]},
        {"masked_paths": []},
        {"readonly_paths": []},
        {"seccomp": "unconfined"},
        {"apparmor_profile": "unconfined"},
        {"no_new_privileges": False},
    ],
)
def test_what_is_vetoed(fields: dict[str, Any]) -> None:
    with pytest.raises(VetoError) as caught:
        policy.check(ContainerSpec(["true"], **fields))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("asked", "memory", "swap"),
    [
        ({}, 100 * MEBIBYTE, None),
        ({"memory": -1}, 100 * MEBIBYTE, None),
        ({"memory": "200M", "memory_swap": "300M"}, 100 * MEBIBYTE, None),
        ({"memory": "50M"}, 50 * MEBIBYTE, None),
        ({"memory": "50M", "memory_swap": "60M"}, 50 * MEBIBYTE, 60 * MEBIBYTE),
        ({"memory": "50M", "memory_swap": "200M"}, 50 * MEBIBYTE, None),
        ({"memory": "50M", "memory_swap": -1}, 50 * MEBIBYTE, None),
    ],
)
def test_memory(asked: dict[str, Any], memory: int, swap: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(policy.MEMORY, "100M")
    resources = policy.limit_memory(ContainerSpec.build(["true"], pids=7, **asked)).resources
    assert (resources.memory, resources.memory_swap, resources.pids) == (memory, swap, 7)


def test_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event = Event(type="started", id="c", driver="native", time=1.5, pid=7)
    log.write(event)  # to nowhere
    monkeypatch.setenv(log.FILE, str(tmp_path / "log"))
    log.write(event)
    log.write(event)
    line = {"type": "started", "id": "c", "driver": "native", "time": 1.5, "pid": 7}
    assert [json.loads(text) for text in (tmp_path / "log").read_text().splitlines()] == [line, line]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_command_line_shows_the_veto() -> None:
    done = execdrivers("run", "--privileged", "true")
    assert done.returncode == 125
    assert "is not allowed here" in done.stderr
    assert "--privileged" in done.stderr


def test_plan_shows_the_limit() -> None:
    done = execdrivers("explain", "--driver", "native", "true", **{policy.MEMORY: "77M"})
    assert str(77 * MEBIBYTE) in done.stdout, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a memory limit takes root")
def test_container_is_limited_and_logged(tmp_path: Path) -> None:
    hog = "head -c 100000000 /dev/zero | tail -n 1 | wc -c"
    env = {policy.MEMORY: "16M", log.FILE: str(tmp_path / "log"), "EXECDRIVERS_ROOT": str(tmp_path / "root")}
    done = execdrivers("run", "--rm", "--driver", "native", "sh", "-c", hog, **env)
    assert "16M" in done.stderr
    lines = [json.loads(text) for text in (tmp_path / "log").read_text().splitlines()]
    lines = [line for line in lines if line["type"] != "memory_pressure"]  # it may come before
    assert [line["type"] for line in lines] == ["created", "started", "oom", "exited", "deleted"]
    assert lines[0]["spec"]["resources"]["memory"] == 16 * MEBIBYTE
    assert lines[3]["exit"]["reason"] == "oom"
