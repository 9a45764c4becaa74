"""What a driver says of itself: probe, plan, guarantees."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from execdrivers.driver import INTERFACE_VERSION, Probe, Problem
from execdrivers.features import FEATURES, required
from execdrivers.testing import AREAS
from execdrivers.testing.kit import Kit

__all__ = ["TestDeclaration"]

#: Specs whose plans are looked at, where the driver has what they ask for.
_SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "user": {"user": "alice", "umask": 0o27, "cwd": "/tmp", "env": {"B": "2", "A": "1", "C": "x y\nz"}},
    "limits": {"memory": "64M", "pids": 9, "cpus": 0.5},
    "mounts": {"mounts": [{"type": "tmpfs", "destination": "/data"}], "readonly": True},
    "namespaces": {"hostname": "h", "sysctls": {"net.ipv4.ip_forward": "1"}, "network": "none"},
    "process": {"rlimits": {"nofile": 99}, "capabilities": {"drop": ["ALL"]}, "no_new_privileges": True},
    "terminal": {"tty": True, "console_size": (10, 20)},
    "init": {"init": True},
    "ephemeral": {"ephemeral": True},
}

_ELSEWHERE = """
import json, sys
sys.path[:0] = {path!r}
from importlib import import_module
from execdrivers import ContainerSpec
driver = getattr(import_module({module!r}), {name!r})()
print(json.dumps(driver.plan(ContainerSpec.from_dict(json.loads({spec!r})), "id-1").to_dict()))
"""


class TestDeclaration(Kit):
    """Probe, plan and guarantees are well-formed, stable, and without side effects (the leak check sees to that)."""

    def test_class_attributes(self) -> None:
        assert self.name and self.name == self.name.strip()
        assert isinstance(self.subject.summary, str) and self.subject.summary and "\n" not in self.subject.summary
        assert isinstance(self.subject.strength, int)
        assert self.subject.interface_version[0] == INTERFACE_VERSION[0]

    def test_deviations_have_reasons_and_are_of_tests_that_there_are(self) -> None:
        for name, reason in self.subject.deviations.items():
            assert isinstance(reason, str) and reason.strip(), f"deviation {name} has no reason"
            area, _, test = name.partition("::")
            assert area in AREAS, f"deviation {name}: no such area"
            kind = getattr(importlib.import_module(f"execdrivers.testing.{AREAS[area]}"), area)
            assert hasattr(kind, test.partition("[")[0]), f"deviation {name}: no such test"

    def test_probe_is_a_probe(self) -> None:
        assert isinstance(self.probe, Probe)
        assert self.probe.available is True and not self.probe.problems
        assert self.probe.version

    def test_probe_claims_known_features_only(self) -> None:
        assert not set(self.probe.features) - set(FEATURES)
        assert not set(self.probe.missing) - set(FEATURES)

    def test_probe_gives_a_reason_for_what_is_missing(self) -> None:
        assert not set(self.probe.missing) & set(self.probe.features)
        for feature, problem in self.probe.missing.items():
            assert isinstance(problem, Problem) and problem.reason, feature

    def test_probe_facts_are_json(self) -> None:
        json.dumps(dict(self.probe.facts))

    def test_probe_answers_the_same_again(self) -> None:
        assert self.subject.probe() == self.probe

    def test_probe_does_not_depend_on_the_callers_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LC_ALL", "C.UTF-8")
        monkeypatch.setenv("COLUMNS", "20")
        monkeypatch.chdir("/")
        assert self.subject.probe().features == self.features

    @pytest.mark.parametrize("about", _SPECS)
    def test_plan_is_the_same_each_time(self, about: str) -> None:
        spec = self._spec(about)
        first, second = (self.subject.plan(spec, "id-1") for _ in range(2))
        assert first == second
        assert first.to_dict() == second.to_dict()
        assert first.driver == self.name
        assert first.steps
        assert json.loads(json.dumps(first.to_dict())) == first.to_dict(), "is not plain JSON data"
        assert str(first).strip()

    @pytest.mark.parametrize("about", _SPECS)
    def test_plan_has_no_side_effect(self, about: str) -> None:
        spec = self._spec(about)
        before = tree(self.rootfs), os.getcwd(), os.umask(0o022)
        try:
            self.subject.plan(spec, "id-1")
            assert (tree(self.rootfs), os.getcwd()) == before[:2]
        finally:
            assert os.umask(before[2]) == 0o022

    def test_plan_differs_by_what_the_spec_says(self) -> None:
        plans = [self.subject.plan(self.spec(words), "id-1").to_dict() for words in ("say one", "say two")]
        assert plans[0] != plans[1]

    def test_plan_depends_on_nothing_but_spec_and_id(self) -> None:
        spec = self._spec("user")
        text = json.dumps(self.subject.plan(spec, "id-1").to_dict())
        assert json.dumps(self.subject.plan(spec, "id-2").to_dict()).replace("id-2", "id-1") == text

    def test_plan_is_the_same_in_another_program(self) -> None:
        kind = type(self.subject)
        spec = self._spec("user")
        here = json.loads(json.dumps(self.subject.plan(spec, "id-1").to_dict()))
        if "." in kind.__qualname__ or getattr(importlib.import_module(kind.__module__), kind.__name__, None) != kind:
            return  # not to be imported by name
        program = _ELSEWHERE.format(
            path=sys.path, module=kind.__module__, name=kind.__name__, spec=json.dumps(spec.to_dict())
        )
        environment = {**os.environ, "PYTHONHASHSEED": "7"}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == here

    def test_explain_is_the_plan(self) -> None:
        spec = self._spec("plain")
        assert self.engine.explain(spec, driver=self.name, name="id-1") == self.subject.plan(spec, "id-1")

    def test_guarantees_are_json_and_not_empty(self) -> None:
        guarantees = dict(self.run().guarantees)
        assert guarantees
        assert json.loads(json.dumps(guarantees)) == guarantees

    def test_another_drivers_options_are_refused(self) -> None:
        from execdrivers import SpecError

        with pytest.raises(SpecError, match="not chosen"):
            self.run(driver_options={"no-such-driver": {"x": 1}})

    def test_options_that_it_has_not_are_refused(self) -> None:
        from execdrivers import SpecError

        with pytest.raises(SpecError, match="no-such-option"):
            self.run(driver_options={self.name: {"no-such-option": 1}})

    def test_the_caller_stays_as_it_is(self) -> None:
        """Directory, root, umask, signal mask, environment of the calling program."""
        import signal

        def look() -> tuple[Any, ...]:
            umask = os.umask(0o022)
            os.umask(umask)
            root = os.stat("/")
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            handlers = [signal.getsignal(number) for number in signal.valid_signals()]
            return os.getcwd(), root.st_ino, root.st_dev, umask, mask, handlers, dict(os.environ), os.getpriority(0, 0)

        before = look()
        self.run("say x", cwd="/tmp") if "cwd" in self.features else self.run("say x")
        assert look() == before

    def _spec(self, about: str) -> Any:
        spec = self.spec("say x", **_SPECS[about])
        if set(required(spec)) <= self.features:
            return spec
        # What of it the driver has; something remains to be planned in any case.
        kept = {
            key: value
            for key, value in _SPECS[about].items()
            if set(required(self.spec(**({"tty": True, key: value} if key == "console_size" else {key: value}))))
            <= self.features
        }
        return self.spec("say x", **kept)


def tree(path: Path) -> dict[str, tuple[int, ...]]:
    """Every file below a directory: mode, owner, size and time."""
    found: dict[str, tuple[int, ...]] = {}
    for directory, names, files in os.walk(path):
        for name in [".", *names, *files]:
            node = os.lstat(os.path.join(directory, name))
            found[os.path.join(directory, name)] = (
                node.st_mode,
                node.st_uid,
                node.st_gid,
                node.st_size,
                node.st_mtime_ns,
            )
    return found
