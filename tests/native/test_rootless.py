"""The native driver without privilege, as uid 4321; what the kit asks of every driver is in tests/conformance."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs("root", "setpriv")

Run = Callable[..., dict[str, Any]]

_PROGRAM = """
import json, sys
import execdrivers
request = json.load(sys.stdin)
try:
    done = execdrivers.run(request.pop("args"), driver="native", capture_output=True, text=True, timeout=60, **request)
except execdrivers.ExecDriverError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "remedy": error.remedy}))
else:
    print(json.dumps({"out": done.stdout, "err": done.stderr, "guarantees": dict(done.guarantees)}))
"""


@pytest.fixture
def run(no_leaks: None, ordinary: tuple[str, ...]) -> Iterator[Run]:
    """What comes of a container of that user's: output and guarantees, or the error."""
    home = Path(tempfile.mkdtemp(prefix="ed-"))
    os.chown(home, 4321, 4321)
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PATH": os.environ["PATH"]}

    def run(*args: str, **fields: Any) -> dict[str, Any]:
        words = [*ordinary, sys.executable, "-c", _PROGRAM]
        request = json.dumps({"args": args, **fields})
        done = subprocess.run(words, input=request, capture_output=True, text=True, env=environment, cwd="/")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    yield run
    shutil.rmtree(home)


@pytest.fixture
def own(run: Run, rootfs: Path) -> Iterator[str]:
    """A rootfs of the user's own."""
    with tempfile.TemporaryDirectory(prefix="ed-") as directory:
        copy = f"{directory}/rootfs"
        subprocess.run(["cp", "-a", rootfs, copy], check=True)
        subprocess.run(["chown", "-hR", "4321:4321", directory], check=True)
        yield copy


def test_a_limit_that_takes_a_cgroup_is_refused_and_what_comes_near_is_named(run: Run) -> None:
    answer = run("true", memory="64M")
    assert answer["error"] == "UnsupportedFeature"
    assert "no cgroup in it is delegated to this user" in answer["message"]
    assert "systemd-run --user --scope -p Delegate=yes" in answer["remedy"]
    assert "or limit each process: rlimits={'as': …}" in answer["remedy"]
    assert "rlimits={'nproc': …}" in run("true", pids=5)["remedy"]


def test_limits_by_rlimits_are_told_as_such(run: Run) -> None:
    answer = run("true", rlimits={"as": 1 << 30, "nproc": [20, 30]})
    assert answer["guarantees"]["cgroups"] == {}
    assert answer["guarantees"]["rlimits"] == {"RLIMIT_AS": [1 << 30, 1 << 30], "RLIMIT_NPROC": [20, 30]}


def test_a_limit_of_processes_is_of_the_container_alone(run: Run, own: str, ordinary: tuple[str, ...]) -> None:
    """The user has more processes than that outside."""
    outside = [subprocess.Popen([*ordinary, "sleep", "60"]) for _ in range(8)]
    try:
        script = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; echo all; wait"
        assert run("sh", "-c", script, rootfs=own, rlimits={"nproc": 12})["out"] == "all\n"
        answer = run("sh", "-c", script, rootfs=own, rlimits={"nproc": 5})
        assert answer["out"] == ""
        assert "can't fork: Resource temporarily unavailable" in answer["err"]
    finally:
        for process in outside:
            process.kill()
            process.wait()


def test_a_limit_of_address_space(run: Run, own: str) -> None:
    script = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo got ${#x}"
    assert run("sh", "-c", script, rootfs=own)["out"] == "got 100000000\n"
    assert run("sh", "-c", script, rootfs=own, rlimits={"as": 64 << 20})["out"] == ""


def test_what_is_written_to_a_root_goes_to_memory(run: Run, own: str) -> None:
    answer = run("sh", "-c", "echo x >/etc/new && cat /etc/new", rootfs=own, ephemeral=True)
    assert answer["out"] == "x\n", answer
    assert not os.path.exists(f"{own}/etc/new")


def test_the_hosts_root_cannot_be_ephemeral(run: Run) -> None:
    answer = run("true", ephemeral=True)
    assert answer["error"] == "SpecError"
    assert answer["message"].startswith("ephemeral: True is not to be had of the host's root without privilege")


def test_every_namespace_is_its_own(run: Run) -> None:
    answer = run("sh", "-c", "readlink /proc/self/ns/*")
    ours = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid", "uts", "ipc", "net", "cgroup")}
    theirs = set(answer["out"].split())
    assert len(theirs) >= 7
    assert not ours & theirs
