"""Finding a runtime, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers.cgroups import Layout
from execdrivers.launcher import call
from execdrivers_oci import runtime, tool
from execdrivers_oci.driver import OciDriver
from execdrivers_oci.features import features

V2 = Layout({}, "/cg", frozenset({"memory", "pids", "cpu", "cpuset"}), swap=True)
HYBRID = Layout({"memory": "/cg/memory"}, "/cg/unified", frozenset(), swap=True)
CRUN = "echo 'crun version 1.14.3'; echo 'spec: 1.0.0'; echo '+SYSTEMD +APPARMOR +SECCOMP +YAJL'"

Program = Callable[[str, str], str]


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No runtime but what the test makes."""
    monkeypatch.delenv(runtime.ENVIRONMENT, raising=False)
    monkeypatch.setattr(
        runtime, "_which", lambda name: found if Path(found := _path(tmp_path, name)).exists() else None
    )


def _path(directory: Path, name: str) -> str:
    return name if name.startswith("/") else str(directory / "bin" / name)


@pytest.mark.needs("root", "runc")
class TestRunc:
    def test_says_who_it_is(self, runc: str) -> None:
        found = runtime.ask(runc)
        assert (found.name, found.problem, found.tidy) == ("runc", None, True)
        assert found.version[0].isdigit() and found.spec_version[0] == "1"
        assert found.features["linux"]["namespaces"]

    def test_probe(self, no_leaks: None) -> None:
        probe = OciDriver().probe()
        assert probe.available and not probe.problems
        assert {"exec", "pause", "update", "tty", "init", "hooks", "cgroup.memory"} <= probe.features
        assert "rootfs.host" not in probe.features and "rootfs.ephemeral" not in probe.features
        assert set(probe.facts) >= {"runtime", "name", "version", "spec"}


class TestFinding:
    def test_none(self, only: None) -> None:
        found, problems = runtime.find("", V2)
        assert found is None
        assert problems[0].reason == "no OCI runtime is on PATH (runc, crun, youki)"
        assert "apt-get install runc" in problems[0].remedy

    def test_the_first_that_will_do(self, only: None, program: Program) -> None:
        program("runc", "exit 1")
        program("crun", CRUN)
        found, problems = runtime.find("", V2)
        assert found is not None and str(found) == "crun 1.14.3"
        assert [problem.reason.partition(" ")[2] for problem in problems] == ["--version: exited with 1"]
        assert found.seccomp and found.apparmor and found.features == {}

    def test_by_environment(self, only: None, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
        program("runc", "echo 'runc version 1.1.5'")
        monkeypatch.setenv(runtime.ENVIRONMENT, program("mine", CRUN))
        found, _ = runtime.find("", V2)
        assert found is not None and found.name == "crun"
        found, _ = runtime.find("runc", V2)
        assert found is not None and found.name == "runc"

    def test_one_that_is_not_there(self, only: None) -> None:
        for name in ("nonsense", "/nonsense"):
            found, problems = runtime.find(name, V2)
            assert found is None and name in problems[0].reason and problems[0].remedy

    def test_all_reasons_are_told(self, only: None, program: Program) -> None:
        program("runc", "echo nonsense")
        program("crun", CRUN)
        program("runsc", "echo 'runsc version release-20240101.0'; echo 'spec: 1.1.0-rc.1'")
        found, problems = runtime.find("", HYBRID)
        assert found is None
        reasons = [problem.reason for problem in problems]
        assert "it is no OCI runtime" in reasons[0]
        assert "cgroup v1 and v2" in reasons[1]
        assert "none of the host's" in reasons[2]
        assert all(problem.remedy for problem in problems)

    def test_asked_once(self, only: None, program: Program, tmp_path: Path) -> None:
        path = program("runc", f"echo >> {tmp_path}/asked; {CRUN}")
        assert runtime.ask(path) is runtime.ask(path)
        assert (tmp_path / "asked").read_text() == "\n\n"  # --version and features
        program("runc", f"{CRUN} # another")
        assert runtime.ask(path).problem is None
        assert (tmp_path / "asked").read_text() == "\n\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "exited with 3"),
        ("echo what >&2; exit 3", "exited with 3: what"),
        ("kill -9 $$", "was killed by SIGKILL"),
        ("true", "says ''"),
        ("head -c 9999 /dev/urandom", "it is no OCI runtime"),
        ("echo 'runc version 0.1.1'", "is runc 0.1.1"),
        ("echo 'crun version 0.17'", "is crun 0.17"),
        ("sleep 1000", "did not end within 0.3 seconds and was killed"),
        ("sleep 1000 & sleep 1000", "did not end within 0.3 seconds and was killed"),
        ("yes", "did not end within 0.3 seconds and was killed"),
    ],
)
def test_bad_version(
    script: str, reason: str, program: Program, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    monkeypatch.setattr(runtime, "_PATIENCE", 0.3)
    problem = runtime.ask(program("runc", script)).problem
    assert problem is not None
    assert reason in problem.reason
    assert problem.remedy


def test_not_a_program(tmp_path: Path) -> None:
    (tmp_path / "runc").write_bytes(b"\0\1\2")
    (tmp_path / "runc").chmod(0o755)
    problem = runtime.ask(str(tmp_path / "runc")).problem
    assert problem is not None and "Exec format error" in problem.reason
    problem = runtime.ask(str(tmp_path / "none")).problem
    assert problem is not None and "No such file" in problem.reason


@pytest.mark.parametrize("answer", ["exit 1", "echo", "echo '{'", "echo '[]'", "echo '{\"linux\": 5}'"])
def test_bad_features(answer: str, program: Program) -> None:
    found = runtime.ask(program("runc", f"[ $1 = features ] && {{ {answer}; exit; }}; echo 'runc version 1.2.0'"))
    assert found.problem is None
    assert not found.seccomp
    assert found.knows_mount_option("ro") and not found.knows_mount_option("nosymfollow")


def test_background_children_do_not_delay_the_answer(program: Program) -> None:
    # They hold the pipe; that the program has ended is enough.
    path = program("runc", "echo 'runc version 1.2.0'; sleep 3 & echo")
    assert "1.2.0" in call((path, "--version"), 2, env=tool.environment())


class TestFeatures:
    def test_what_the_host_lacks_has_a_reason(self, tmp_path: Path) -> None:
        bare = Layout({}, str(tmp_path), frozenset({"pids"}), swap=False)
        enforced, missing = features(runtime.Runtime("/x", "runc", "1.1.5"), bare)
        assert "cgroup.pids" in enforced and "cgroup.unified" in enforced
        assert {"cgroup.memory", "cgroup.swap", "cgroup.cpu", "seccomp"} <= missing.keys()
        assert not enforced & missing.keys()
        assert all(problem.reason and problem.remedy for problem in missing.values())

    def test_of_the_program(self) -> None:
        says = {"linux": {"seccomp": {"enabled": True}}, "mountOptions": ["ro", "bind"]}
        able = runtime.Runtime("/x", "runc", "1.1.5", features=says)
        assert "seccomp" in features(able, V2)[0]
        assert able.knows_mount_option("ro") and not able.knows_mount_option("nosymfollow")
        assert not able.keeps_tmpfs_mode and not able.poststart_in_time
        later = runtime.Runtime("/x", "runc", "1.2.3")
        assert later.keeps_tmpfs_mode and later.poststart_in_time
        other = runtime.Runtime("/x", "crun", "1.14")
        assert other.knows_mount_option("rslave") and not other.knows_mount_option("rshared")
        assert able.leaves_all and not other.leaves_all
