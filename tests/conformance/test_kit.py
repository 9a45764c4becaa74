"""The kit itself: what it lets a driver's test module say, and how the command tells it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers.testing import leaks
from execdrivers.testing.program import Attempt, MountPoint, Report, emitted, fnv

_MODULE = """
import pytest
from execdrivers.testing import TestDeclaration, TestUsers
from execdrivers_chroot.driver import ChrootDriver

class Mine(ChrootDriver):
    deviations = {deviations!r}

@pytest.fixture
def driver():
    return Mine()

class TestMine(TestUsers):
    {body}

del TestUsers
"""

Tried = Callable[..., dict[str, str]]
_META = "test_nothing_but_what_the_kit_says_is_tested"


@pytest.fixture
def tried(tmp_path: Path) -> Tried:
    """Deviations and the body of a test class → the outcome of each test that ``expression`` selects."""

    def tried(deviations: dict[str, str], body: str = "pass", expression: str = _META) -> dict[str, str]:
        (tmp_path / "test_module.py").write_text(_MODULE.format(deviations=deviations, body=body))
        options = ["-rA", "-q", "--tb=line", "-k", expression, "--config-file=/dev/null", f"--rootdir={tmp_path}"]
        command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        return {test: outcome for outcome, test in re.findall(r"^([A-Z]+) [^:\s]*::(\S+)", done.stdout, re.MULTILINE)}

    return tried


needs_root = pytest.mark.needs("root", "cc")


@needs_root
def test_a_module_may_add_tests(tried: Tried) -> None:
    outcomes = tried({}, "def test_own(self):\n        assert self.run().returncode == 0", f"{_META} or test_own")
    assert outcomes.items() >= {f"TestMine::{_META}": "PASSED", "TestMine::test_own": "PASSED"}.items()


@needs_root
def test_a_module_overrides_nothing(tried: Tried) -> None:
    bodies = [
        "def test_root_by_default(self): pass",
        "test_root_by_default = None",
        "def report(self, **options): return {}",
    ]
    more = "".join(f"\n\nclass TestOverriding{number}(TestMine):\n    {body}" for number, body in enumerate(bodies))
    outcomes = tried({}, f"pass{more}")
    assert outcomes.pop(f"TestMine::{_META}") == outcomes.pop(f"TestDeclaration::{_META}") == "PASSED"
    assert outcomes == {f"TestOverriding{number}::{_META}": "FAILED" for number in range(len(bodies))}


@needs_root
def test_a_deviation_takes_a_reason_and_a_test_that_there_is(tried: Tried) -> None:
    test = "test_deviations_have_reasons_and_are_of_tests_that_there_are"
    for deviations in (
        {"TestUsers::test_unknown": "x"},
        {"TestNo::test_x": "x"},
        {"TestUsers::test_root_by_default": " "},
    ):
        assert tried(deviations, expression=test) == {f"TestDeclaration::{test}": "FAILED"}
    assert tried({"TestUsers::test_user[alice]": "x"}, expression=test) == {f"TestDeclaration::{test}": "PASSED"}


@needs_root
def test_a_deviation_that_is_none_fails(tried: Tried) -> None:
    outcomes = tried({"TestUsers::test_root_by_default": "we thought so"}, expression="test_root_by_default")
    assert outcomes == {"TestMine::test_root_by_default": "FAILED"}


# --- the command ----------------------------------------------------------------------------------------------------


def conformance(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "execdrivers", "conformance", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@needs_root
def test_command_prints_a_matrix(tmp_path: Path) -> None:
    done = conformance("--driver", "chroot", "-k", "TestEvents", "--json", str(tmp_path / "run.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "AREA" in done.stdout and "Events" in done.stdout
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["driver"] == "chroot" and run["areas"]["Events"]["failed"] == 0
    assert run["areas"]["Events"]["passed"] > 5 and run["areas"]["Events"]["refused"] > 2


def test_command_without_a_driver_or_with_an_unknown_one() -> None:
    assert conformance().returncode == 125
    done = conformance("--driver", "no-such")
    assert done.returncode == 1 and "no-such" in done.stderr


def test_command_without_pytest_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "pytest.py").write_text("raise ImportError('there is none')")
    done = conformance("--driver", "chroot", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "pip install 'execdrivers[testing]'" in done.stderr


@needs_root
def test_command_fails_when_nothing_was_tried() -> None:
    assert conformance("--driver", "chroot", "-k", "no_test_has_this_name").returncode == 1


# --- the oracle -----------------------------------------------------------------------------------------------------


def test_pattern_and_checksum() -> None:
    assert emitted(4) == b"\0\1\2\3" and set(emitted(256)) == set(range(256))
    assert fnv(b"") == "cbf29ce484222325" and fnv(b"a") == "af63dc4c8601ec8c"


def test_parsing() -> None:
    assert Attempt.parse(b'{"command":"x","errno":1,"result":null}') == Attempt("x", "EPERM", None)
    line = "36 35 98:0 /a\\040b /mnt\\011x rw,nosuid shared:1 master:2 - ext4 /dev/root rw,errors=continue"
    mount = MountPoint.parse(line)
    assert (mount.root, mount.point, mount.type) == ("/a b", "/mnt\tx", "ext4")
    assert mount.propagation == {"shared", "master"} and mount.options == {"rw", "nosuid"}
    report = Report.parse(b'{"env":["A=b=c"],"capabilities":{"effective":"0000000000000021"},"proc":["1","self"]}')
    assert report.env == {"A": "b=c"} and report.processes == [1]
    assert report.capabilities("effective") == {"CAP_CHOWN", "CAP_KILL"}


def test_leaks_are_told_apart_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = leaks.Snapshot(cgroups=set(), mounts=set(), links=set())
    new = {"/c/ed-kit-x/1", "/c/ed-other/2", "/c/lxc/id-3"}
    after = leaks.Snapshot(cgroups=new, mounts=set(), links=set())
    monkeypatch.setenv("EXECDRIVERS_CGROUP_PARENT", "ed-kit-x")
    found = [text for text in after.leaks_since(before, ["id-3"]) if text.startswith("cgroup")]
    assert found == ["cgroup /c/ed-kit-x/1", "cgroup /c/lxc/id-3"]
