"""The soak itself: workers that are killed at random, and a look at all they share, again and again and at the end."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs

from execdrivers import Engine, Registry
from execdrivers.testing import leaks

from ..faults.__main__ import make_busybox  # noqa: TID252 - not a package that can be named
from .model import GRACE
from .worker import Ground, describe, until

__all__ = ["Report", "Soak"]

#: How many names each driver has, so that some 50 containers live at a time. The tools of lxc and oci take ten times
#: as long as native does.
NAMES = {"native": 38, "chroot": 12, "lxc": 11, "oci": 11}
WORKERS = 4
#: Seconds without a finished operation after which a worker hangs.
HANG = 150.0
_REPOSITORY = Path(__file__).resolve().parents[2]


@attrs.define
class Report:
    """What came of a soak."""

    seed: int
    seconds: float = 0.0
    drivers: tuple[str, ...] = ()
    #: (driver, operation) → how often it was done.
    operations: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    kills: int = 0
    #: Operations that were in flight as their program was killed, by name.
    in_flight: Counter[str] = attrs.field(factory=Counter)
    #: Most containers that lived at the same time.
    most: int = 0
    looks: int = 0
    findings: list[str] = attrs.field(factory=list)


class Soak:
    """One run, in a directory of its own. Its choices come from the seed; the order of events is the machine's."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.ground = Ground(directory)
        self.report = Report(seed)
        self._chance = random.Random(seed)
        self._workers: list[subprocess.Popen[bytes]] = []
        registry = Registry()
        self.report.drivers = tuple(name for name in NAMES if registry.probe(name).available)
        names = {f"{name}-{number}": name for name in self.report.drivers for number in range(NAMES[name])}
        (directory / "drivers").write_text(json.dumps(names))
        self.ground.output.mkdir()
        self.ground.findings.touch()
        self.ground.counts.touch()
        make_busybox(self.ground.rootfs)
        self._before = leaks.Snapshot()
        self._engine = Engine(self.ground.root, registry=registry)
        self._ledger = self.ground.ledger()
        self._moved: dict[int, tuple[int, float]] = {}

    def run(self, seconds: float) -> Report:
        """So long; what was found wrong is in the report."""
        began = time.monotonic()
        try:
            for _ in range(WORKERS):
                self._start()
            kill = time.monotonic() + 1
            while (left := began + seconds - time.monotonic()) > 0:
                time.sleep(min(0.5, left))
                self._watch()
                self._look()
                if time.monotonic() >= kill:
                    self._kill()
                    kill = time.monotonic() + self._chance.uniform(0.2, 4)
        finally:
            self._end()
        self.report.seconds = time.monotonic() - began
        self._clean_up()
        self._count()
        return self.report

    # --- workers

    def _start(self) -> None:
        seed = self._chance.randrange(1 << 30)
        command = [sys.executable, "-m", "tests.soak.worker", str(self.ground.directory), str(seed)]
        with open(self.ground.directory / "stderr", "ab") as errors:
            self._workers.append(subprocess.Popen(command, cwd=_REPOSITORY, stdin=subprocess.DEVNULL, stderr=errors))

    def _kill(self) -> None:
        worker = self._workers.pop(self._chance.randrange(len(self._workers)))
        worker.kill()
        worker.wait()
        self.report.kills += 1
        self._start()

    def _watch(self) -> None:
        """None ends by itself, none hangs."""
        for worker in list(self._workers):
            if worker.poll() is not None:
                self._find("", f"worker {worker.pid} ended with {worker.returncode}: {self._errors()}")
                self._workers.remove(worker)
                self._start()
                continue
            ticks = _cpu_ticks(worker.pid)
            before, since = self._moved.get(worker.pid, (-1, 0.0))
            if ticks != before:
                self._moved[worker.pid] = ticks, time.monotonic()
            elif time.monotonic() - since > HANG:
                worker.send_signal(signal.SIGUSR1)
                time.sleep(1)
                self._find("", f"worker {worker.pid} hangs: {self._errors()}")
                self._workers.remove(worker)
                worker.kill()
                worker.wait()
                self._start()

    def _errors(self) -> str:
        return (self.ground.directory / "stderr").read_text(errors="replace")[-4000:]

    def _end(self) -> None:
        """Some end well, some are killed, as ever."""
        for number, worker in enumerate(self._workers):
            worker.send_signal(signal.SIGTERM if number % 2 else signal.SIGKILL)
        for worker in self._workers:
            try:
                worker.wait(120)
            except subprocess.TimeoutExpired:
                worker.send_signal(signal.SIGUSR1)
                time.sleep(1)
                self._find("", f"worker {worker.pid} does not end: {self._errors()}")
                worker.kill()
                worker.wait()
        self._workers.clear()

    # --- what they share

    def _look(self) -> None:
        """All records make sense, whatever happens at the moment."""
        summaries = self._engine.list()
        for summary in summaries:
            if summary.error is not None:
                self._find(summary.name, f"damaged: {summary.error}")
            elif summary.name not in self._ledger.drivers:
                self._find(summary.name, "nobody has made one of that name")
        living = sum(summary.state in ("created", "running", "paused") for summary in summaries)
        self.report.most = max(self.report.most, living)
        self.report.looks += 1

    def _clean_up(self) -> None:
        """All programs are dead: what was theirs goes by itself; the rest is recovered, true, and then removed."""
        from .worker import Worker

        last = Worker(self.ground, self._chance.randrange(1 << 30))
        for name in self._ledger.drivers:
            with self._ledger.take(name, wait=True) as page:
                assert page is not None
                if page.in_flight:
                    self.report.in_flight[page.in_flight] += 1
                try:
                    last.settle(page)
                except Exception as error:
                    self._find(name, f"at the end: {error!r}\n{self._ledger.history(name)}")
        try:
            for container in self._engine.recover():
                if container.state == "stopped":
                    describe(container.wait(5))
                container.delete(force=True)
            left = [summary.name for summary in self._engine.list()]
            if garbage := list(map(str, self._engine.gc())):
                self._find("", f"garbage after recovery: {garbage}")
        except Exception as error:
            self._find("", f"recovery: {error!r}")
        else:
            if left:
                self._find("", f"left in the store: {left}")
        last.close()
        with contextlib.suppress(Exception):
            until(lambda: not self._left(), "nothing is left", GRACE)
        for text in self._left():
            self._find("", f"left behind: {text}")

    def _left(self) -> list[str]:
        return leaks.Snapshot().leaks_since(self._before, self._ledger.drivers, [str(self.ground.directory)])

    def _count(self) -> None:
        for line in self.ground.counts.read_text().splitlines():
            driver, _, operation = line.partition(" ")
            self.report.operations[driver, operation] += 1
        for line in self.ground.findings.read_text().splitlines():
            found: dict[str, Any] = json.loads(line)
            self.report.findings.append(f"{found['name']}: {found['what']}")

    def _find(self, name: str, what: str) -> None:
        self.ground.report(name, what)


def _cpu_ticks(pid: int) -> int:
    """Processor time of a process so far, in clock ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return int(fields[11]) + int(fields[12])
