"""The real command line, with a store of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from execdrivers.cli import main

PROGRAM = (sys.executable, "-m", "execdrivers")


#: Commands that only look at containers or change them: in a process of their own they would start Python for nothing.
#: The others have children, wait for signals, or are about a terminal.
HERE = ("explain", "gc", "inspect", "kill", "logs", "pause", "ps", "rm", "stop", "top", "unpause", "update", "wait")


class Cli:
    """Runs ``execdrivers`` with a store of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {**os.environ, "EXECDRIVERS_ROOT": str(root)}
        self.environment.pop("NO_COLOR", None)

    def __call__(self, *words: object, input: str | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
        if words[0] in HERE and input is None and not changes:
            return self.here(*words)
        return subprocess.run(
            [*PROGRAM, *map(str, words)],
            env={**self.environment, **changes},
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def here(self, *words: object) -> subprocess.CompletedProcess[str]:
        """In this process."""
        command = ["--root", str(self.root), *map(str, words)]
        with (
            TextIOWrapper(BytesIO(), encoding="utf-8") as stdout,
            TextIOWrapper(BytesIO(), encoding="utf-8") as stderr,
            redirect_stdout(stdout),
            redirect_stderr(stderr),
        ):
            status = main(command)
            texts = []
            for stream in (stdout, stderr):
                stream.seek(0)
                texts.append(stream.read())
        return subprocess.CompletedProcess(command, status, *texts)

    @contextmanager
    def start(self, *words: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Without waiting for its end."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        with subprocess.Popen([*PROGRAM, *map(str, words)], env=self.environment, text=True, **options) as process:
            try:
                yield process
            finally:
                process.kill()

    def names(self) -> list[str]:
        """Of all containers in the store."""
        return sorted(self("ps", "-aq").stdout.split())

    def inspect(self, name: str) -> dict[str, Any]:
        (details,) = json.loads(self("inspect", name).stdout)
        assert isinstance(details, dict)
        return details

    def running(self, name: str) -> dict[str, Any]:
        """Details of a container as soon as it runs."""
        until(lambda: "running" in self("inspect", name).stdout)
        return self.inspect(name)


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def watches(pid: int) -> bool:
    """Whether that process has a hold on another, whose end it will see."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    return any("pidfd" in link for link in links)


def catches(pid: int, number: int) -> bool:
    """Whether that process handles the signal by now."""
    row = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("SigCgt:"))
    return bool(int(row.split()[1], 16) & 1 << number - 1)


@pytest.fixture
def cli(no_leaks: None, tmp_path: Path) -> Iterator[Cli]:
    program = Cli(tmp_path / "store")
    yield program
    for entry in program.root.glob("[!.]*"):
        if entry.is_dir():
            program("rm", "-f", entry.name)


@pytest.fixture(scope="session")
def drivers() -> dict[str, Any]:
    """Name → what ``drivers --json`` says of it."""
    result = subprocess.run([*PROGRAM, "drivers", "--json"], capture_output=True, text=True, check=True)
    return {driver["name"]: driver for driver in json.loads(result.stdout)["drivers"]}


def _need(drivers: dict[str, Any], name: str) -> str:
    if name not in drivers:
        pytest.skip(f"driver {name} is not installed")
    if not drivers[name]["available"]:
        told = "; ".join(f"{problem['reason']}; {problem['remedy']}" for problem in drivers[name]["problems"])
        pytest.skip(f"driver {name} cannot run here: {told}")
    return name


@pytest.fixture
def native(drivers: dict[str, Any]) -> str:
    return _need(drivers, "native")


@pytest.fixture(params=["native", "chroot", "lxc", "oci"])
def driver(request: pytest.FixtureRequest, drivers: dict[str, Any]) -> str:
    return _need(drivers, request.param)


@pytest.fixture
def run(cli: Cli, rootfs: Path, driver: str) -> tuple[object, ...]:
    """The words that begin a run on each driver."""
    return ("run", "--driver", driver, "--rootfs", rootfs)


@pytest.fixture(params=["native", "lxc", "oci"])
def contained(cli: Cli, rootfs: Path, request: pytest.FixtureRequest, drivers: dict[str, Any]) -> tuple[object, ...]:
    """As ``run``, on each driver that contains: with namespaces, limits, terminals …"""
    return ("run", "--driver", _need(drivers, request.param), "--rootfs", rootfs)
