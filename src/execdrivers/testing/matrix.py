"""Runs the kit on one driver and counts: areas against passed, refused, deviation, failed, skipped."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import pytest

from execdrivers.driver import Driver
from execdrivers.testing import AREAS, explain_assertions, host
from execdrivers.testing.kit import answer_of, instance_of

__all__ = ["OUTCOMES", "Outcome", "Result", "Run", "run"]

#: ``refused``: the driver lacks what the test is about, and the refusal was as documented. ``deviation``: it failed as
#: the driver declares. ``skipped``: the host lacks something.
Outcome = Literal["passed", "refused", "deviation", "failed", "skipped"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_SUITE = Path(__file__).with_name("suite.py")


@attrs.frozen
class Result:
    """What came of one test; ``reason`` is that of a failure, a deviation or a skip; ``seconds`` is all it took."""

    area: str
    test: str
    outcome: Outcome
    features: tuple[str, ...] = ()
    reason: str = ""
    seconds: float = 0.0


@attrs.frozen(kw_only=True)
class Run:
    """One run of the kit."""

    driver: str
    results: tuple[Result, ...]
    seconds: float
    probe: Mapping[str, Any]

    def count(self, outcome: Outcome, area: str | None = None) -> int:
        """How many tests, of one area or of all."""
        return sum(r.outcome == outcome and area in (None, r.area) for r in self.results)

    @property
    def areas(self) -> list[str]:
        """Those that were tried, in the kit's order."""
        tried = {result.area for result in self.results}
        return [area for area in (name.removeprefix("Test") for name in AREAS) if area in tried]

    @property
    def ok(self) -> bool:
        """Something was tried and nothing failed."""
        return bool(self.results) and not self.count("failed")

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with the facts of this host."""
        return {
            "driver": self.driver,
            "host": facts(),
            "probe": dict(self.probe),
            "seconds": round(self.seconds, 1),
            "areas": {area: {o: self.count(o, area) for o in OUTCOMES} for area in self.areas},
            "results": [attrs.asdict(result) for result in self.results],
        }


def facts() -> dict[str, Any]:
    """What of this host decides which features a driver can have here."""
    versions = set(host.controllers().values())
    layout = "none" if not versions else "hybrid" if len(versions) == 2 else f"v{versions.pop()}"
    return {
        "kernel": ".".join(platform.release().split(".")[:2]),
        "machine": platform.machine(),
        "cgroups": layout,
        "controllers": sorted(host.controllers()),
        "root": os.geteuid() == 0,
        "capabilities": host.status(os.getpid())["CapEff"],
    }


def run(
    driver: Driver | type[Driver], *, select: Iterable[str] = (), expression: str = "", options: Sequence[str] = ()
) -> Run:
    """Run the kit in this process.

    ``select`` names tests (``TestArea::test_name``), ``expression`` is pytest's ``-k``, ``options`` are more of its
    words. Nothing of the surrounding project's configuration is used.
    """
    subject = instance_of(driver)
    collector = _Collector(subject)
    with tempfile.TemporaryDirectory(prefix=f"execdrivers-kit-{os.getpid()}-", ignore_cleanup_errors=True) as directory:
        words = [str(_SUITE) + (f"::{test}" if test else "") for test in [*select] or [""]]
        words += ["--config-file", os.devnull, "--rootdir", directory, "--basetemp", f"{directory}/tests"]
        words += ["--import-mode=importlib", "-p", "no:cacheprovider", "--tb=short", "-q", "--no-header", *options]
        began = time.monotonic()
        pytest.main([*words, "-k", expression] if expression else words, plugins=[collector])
        seconds = time.monotonic() - began
    probe = answer_of(subject)
    answer = {
        "available": probe.available,
        "version": probe.version,
        "features": sorted(probe.features),
        "missing": {feature: str(problem) for feature, problem in sorted(probe.missing.items())},
    }
    return Run(driver=subject.name, results=tuple(collector.results.values()), seconds=seconds, probe=answer)


class _Collector:
    """A pytest plugin: supplies the driver, takes the outcomes."""

    def __init__(self, subject: Driver) -> None:
        self.subject = subject
        self.results: dict[str, Result] = {}

    def pytest_configure(self) -> None:
        """Now that pytest is there to do it."""
        explain_assertions()

    @pytest.fixture
    def driver(self) -> Driver:
        """The driver on trial."""
        return self.subject

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Each test reports setup, call and teardown; the worst of them is its outcome."""
        before = self.results.get(report.nodeid)
        outcome, reason = _outcome(report)
        noted: dict[str, Any] = {key: value for key, value in report.user_properties if key.startswith("execdrivers.")}
        if outcome == "passed":
            outcome = noted.get("execdrivers.outcome", outcome)
        seconds = report.duration + (before.seconds if before else 0)
        if before is not None and _RANK[before.outcome] >= _RANK[outcome]:
            self.results[report.nodeid] = attrs.evolve(before, seconds=seconds)
            return
        area, _, test = report.nodeid.partition("::")[2].partition("::")
        features = tuple(noted.get("execdrivers.features", ()))
        self.results[report.nodeid] = Result(area.removeprefix("Test"), test, outcome, features, reason, seconds)


_RANK: dict[Outcome, int] = {"passed": 0, "refused": 1, "skipped": 2, "deviation": 3, "failed": 4}


def _outcome(report: pytest.TestReport) -> tuple[Outcome, str]:
    if hasattr(report, "wasxfail"):
        return "deviation", str(report.wasxfail).removeprefix("reason: ")
    if report.failed:
        return "failed", _last_line(report)
    if report.skipped:
        where = report.longrepr
        return "skipped", str(where[2] if isinstance(where, tuple) else where).removeprefix("Skipped: ")
    return "passed", ""


def _last_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr).splitlines()[0]
