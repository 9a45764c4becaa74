"""Programs and helpers for the replays: the attacker, an old-fashioned runtime as the control, altered plans.

Each test performs an attack for real against `native`, and against something weaker, where it must succeed.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from execdrivers import Engine
from execdrivers.launcher import Operation
from execdrivers_native import driver, start

from .report import ATTACK

_HERE = Path(__file__).parent


def _compile(name: str, directory: Path) -> Path:
    compiler = shutil.which("cc") or pytest.skip("needs a C compiler (Debian: gcc libc6-dev)")
    target = directory / name
    subprocess.run([compiler, "-static", "-O1", "-Wall", "-o", target, _HERE / f"{name}.c"], check=True)
    return target


@pytest.fixture(scope="session")
def attack_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """attack.c, compiled."""
    return _compile("attack", tmp_path_factory.mktemp("attack"))


@pytest.fixture(scope="session")
def naive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """naive.c, compiled: a runtime that falls to the attacks."""
    return _compile("naive", tmp_path_factory.mktemp("naive"))


@pytest.fixture
def hostile(own_rootfs: Path, attack_program: Path) -> Path:
    """A rootfs of the test's own with the attacker in it."""
    shutil.copy(attack_program, own_rootfs / ATTACK.lstrip("/"))
    return own_rootfs


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """A file of the host's that no container must reach."""
    path = tmp_path / "witness"
    path.write_text("secret of the host\n")
    return path


@pytest.fixture
def attack(engine: Engine, hostile: Path) -> Callable[..., list[str]]:
    """Run the attacker in a native container, and give the lines it prints. Options are those of the spec."""

    def run(*args: object, **options: Any) -> list[str]:
        command = [ATTACK, *map(str, args)]
        done = engine.run(
            command, **{"rootfs": hostile, "driver": "native", "timeout": 60, **options}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout).splitlines()

    return run


@pytest.fixture
def alter(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the native driver execute another plan than the one it compiled, and act at its points ``sync``
    (called with the launcher's pid)."""
    compile, launch = driver.compile, start.Launch

    def alter(
        change: Callable[[tuple[Operation, ...]], Iterable[Operation]],
        points: Mapping[str, Callable[[int], object]] | None = None,
    ) -> None:
        def altered(*args: Any, **options: Any) -> Any:
            plan = compile(*args, **options)
            return attrs.evolve(plan, operations=tuple(change(plan.operations)))

        def launched(*args: Any, **options: Any) -> Any:
            own = {name: lambda act=act: act(made.pid) for name, act in (points or {}).items()}
            made = launch(*args, **{**options, "points": {**(options.get("points") or {}), **own}})
            return made

        monkeypatch.setattr(driver, "compile", altered)
        monkeypatch.setattr(start, "Launch", launched)

    return alter


@pytest.fixture
def swapping(attack_program: Path) -> Iterator[Callable[[Path, Path], None]]:
    """Exchange two names for ever in another process, until the test is over."""
    running: list[subprocess.Popen[bytes]] = []

    def swap(one: Path, other: Path) -> None:
        running.append(subprocess.Popen([attack_program, "swap", one, other]))

    yield swap
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A word that is in the caller's memory and environment; given as the attacker looks for it."""
    word = secrets.token_hex(16)
    monkeypatch.setenv("REPLAY_SECRET", word)
    kept = [word.encode() * 1000, word * 1000]
    yield bytes(byte ^ 0x55 for byte in word.encode()).hex()
    assert kept


@pytest.fixture
def key() -> Iterator[tuple[str, int]]:
    """A key in a session keyring of this test's own: its name and number."""
    libc = ctypes.CDLL(None)
    keyctl, add_key = 250, 248
    if os.uname().machine != "x86_64":
        pytest.skip("needs the numbers of x86_64")
    libc.syscall(keyctl, 1, None)  # KEYCTL_JOIN_SESSION_KEYRING
    name = f"replay-{os.getpid()}"
    number = libc.syscall(add_key, b"user", name.encode(), b"secret", 6, -3)
    assert number > 0
    libc.syscall(keyctl, 5, number, 0x3F3F0000)  # KEYCTL_SETPERM: all to the possessor, and to all of the owner's
    yield name, number
    libc.syscall(keyctl, 3, number)  # KEYCTL_REVOKE
