"""``doctor``: as root and as an ordinary user, and on machines that lack something."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import PROGRAM, Cli

pytestmark = pytest.mark.needs("root", "setpriv")

#: The ordinary user of these tests.
_USER = 4321

Checks = dict[str, dict[str, Any]]
Doctor = Callable[..., tuple[int, Checks]]


@pytest.fixture
def doctor(no_leaks: None) -> Iterator[Doctor]:
    """(words before the command) → exit status, and the checks by name; records are in a directory of user 4321."""
    home = Path(tempfile.mkdtemp(prefix="execdrivers-test-"))
    os.chown(home, _USER, _USER)
    environment = {**os.environ, "TMPDIR": str(home), "EXECDRIVERS_ROOT": str(home / "records"), "HOME": str(home)}

    def diagnose(*before: str, **options: Any) -> tuple[int, Checks]:
        environment.update(options.pop("env", {}))
        words = [*before, *PROGRAM, "doctor", "--json"]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60, **options)
        assert not done.stderr
        return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}

    yield diagnose
    assert not list(home.iterdir()), "left behind"
    home.rmdir()


def told(check: dict[str, Any]) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    return f"{check['result']}: {check['found']}", check["remedy"]


def test_as_root(doctor: Doctor) -> None:
    status, checks = doctor()
    assert status == 0
    assert [check for check in checks.values() if check["result"] == "problem"] == []
    assert all(check["tried"] and check["found"] for check in checks.values())
    assert {"driver native", "driver chroot"} <= set(checks)
    assert checks["cgroups"]["result"] == "ok"
    assert checks["container"]["found"].startswith("ran in ")


def test_as_an_ordinary_user(doctor: Doctor, ordinary: tuple[str, ...]) -> None:
    status, checks = doctor(*ordinary)
    assert status == 0, checks
    assert checks["user namespace"]["result"] == checks["container"]["result"] == "ok"
    assert (
        told(checks["subordinate ids"])[0]
        == f"warning: uid {_USER} has no account, and newuidmap(1) serves none without"
    )
    problem, remedy = told(checks["cgroups"])
    assert "delegated to this user" in problem
    assert "systemd-run --user --scope -p Delegate=yes" in remedy
    assert told(checks["driver chroot"])[1] == "run as root"


def test_what_is_printed(cli: Cli) -> None:
    done = cli("doctor", "-v")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok       system calls: all are there (Linux ")
    assert lines[1].startswith("         tried: call open_tree, ")
    assert lines[-1].endswith(" 0 problems")
    assert cli("doctor", "x").returncode == 125


def test_records_that_cannot_be_written(doctor: Doctor) -> None:
    status, checks = doctor(env={"EXECDRIVERS_ROOT": "/proc/execdrivers"})
    assert status == 1
    problem, remedy = told(checks["records"])
    assert problem == "problem: /proc/execdrivers: No such file or directory"
    assert remedy == "export EXECDRIVERS_ROOT=DIR, or --root DIR, a directory of your own"


def test_records_of_another_user(doctor: Doctor, tmp_path: Path) -> None:
    os.chown(tmp_path, _USER, _USER)
    assert told(doctor(env={"EXECDRIVERS_ROOT": str(tmp_path)})[1]["records"])[0].endswith(f"belongs to uid {_USER}")


def test_few_open_files(doctor: Doctor) -> None:
    status, checks = doctor("sh", "-c", 'ulimit -n 100; exec "$@"', "sh")
    assert status == 0
    problem, remedy = told(checks["own limits"])
    assert problem.startswith("warning: 100 open files, ")
    assert remedy == "ulimit -n 1024"


def test_no_user_namespaces(doctor: Doctor, ordinary: tuple[str, ...]) -> None:
    """The sysctl is each user namespace's own; below one that has none left nobody is asked for the host's."""
    script = 'echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all "$@"'
    status, checks = doctor(*ordinary, "unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    assert status == 1
    problem, remedy = told(checks["user namespace"])
    assert problem.startswith("problem: clone: No space left on device")
    assert remedy == "sudo sysctl -w user.max_user_namespaces=28633"
    assert checks["container"]["result"] == "problem"


def test_a_masked_proc(doctor: Doctor, ordinary: tuple[str, ...]) -> None:
    """As in a container of docker's: what is hidden there must not be seen in a new procfs."""
    script = f'mount -t tmpfs none /proc/bus && exec {" ".join(ordinary)} "$@"'
    status, checks = doctor("unshare", "--mount", "sh", "-c", script, "sh")
    assert status == 1
    problem, remedy = told(checks["proc"])
    assert problem == "problem: mount: /proc: Operation not permitted (VFS: Mount too revealing)"
    assert "docker run --security-opt systempaths=unconfined" in remedy
    assert checks["namespaces"]["result"] == "ok"


@pytest.mark.needs("bwrap")
def test_a_filter_of_system_calls(doctor: Doctor) -> None:
    """As docker's, which answers clone3 with ENOSYS."""
    clone3, load, equal, give = 435, 0x20, 0x15, 0x06
    instructions = [(load, 0, 0, 0), (equal, 0, 1, clone3), (give, 0, 0, 0x50000 | 38), (give, 0, 0, 0x7FFF0000)]
    with tempfile.TemporaryFile() as file:
        file.write(b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))
        file.seek(0)
        before = [shutil.which("bwrap") or "", "--dev-bind", "/", "/", "--seccomp", str(file.fileno())]
        status, checks = doctor(*before, "--", pass_fds=[file.fileno()])
    assert status == 1
    problem, remedy = told(checks["system calls"])
    assert problem == "problem: a seccomp filter keeps us from clone3"
    assert "docker run --security-opt seccomp=unconfined" in remedy
    assert checks["container"]["result"] == "problem"
