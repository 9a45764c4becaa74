"""Programs that make containers and are killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from execdrivers.testing import host, leaks

_HEAD = """
import os, sys, threading, time
from execdrivers import DEVNULL, ContainerSpec, Engine
engine = Engine(sys.argv[1])
mark = sys.argv[2]
made = []  # one that nobody holds is deleted
def make(name=None, command="sleep 1000", **options):
    spec = ContainerSpec(["sh", "-c", command], env={"GUARD": mark}, rootfs=sys.argv[3], resources={"pids": 30})
    null = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
    made.append(engine.create(spec, driver="native", name=name, **null, **options))
    return made[-1]
def start(*args, **options):
    container = make(*args, **options)
    container.start()
    return container
def tell(text):
    print(text, flush=True)
"""


class Program:
    """A program that makes containers, with ``text`` as what it does."""

    def __init__(self, tmp_path: Path, rootfs: Path) -> None:
        self.root = tmp_path / "state"
        self.rootfs = rootfs
        self.started: list[subprocess.Popen[str]] = []
        self.mark = f"guard-test-{os.getpid()}-{random.randrange(1 << 30)}"

    def start(self, text: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", _HEAD + text, str(self.root), self.mark, str(self.rootfs)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def run(self, text: str) -> str:
        return self.start(text).communicate()[0]

    def records(self) -> list[str]:
        if not self.root.exists():
            return []
        return sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))

    def processes(self) -> set[int]:
        """Those of its containers."""
        return host.with_variable(f"GUARD={self.mark}")

    def guards_of(self, pid: int) -> list[int]:
        """The guard's arguments name the program."""
        words = f"execdrivers-guard {sys.executable} -m execdrivers.aftermath --owner {pid}:"
        return [each for each in all_pids() if arguments(each).startswith(words)]

    def gone(self) -> None:
        host.until(lambda: not self.records(), "the records went")
        host.until(lambda: not self.processes(), "the processes ended")


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def arguments(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


@pytest.fixture
def program(tmp_path: Path, rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    before = leaks.Snapshot()
    program = Program(tmp_path, rootfs)
    yield program
    for process in program.started:
        process.kill()
        process.communicate()
    host.until(lambda: not program.processes(), "the processes ended")
    left = leaks.wait_for_none(before, places=[str(tmp_path_factory.getbasetemp())])
    assert not left
