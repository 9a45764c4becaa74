"""What the tests of Docker 0.9 share: its two drivers, one engine, and short ways to run a command on both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import CompletedContainer, Container, ContainerSpec, Engine, Registry

#: Fields of the spec, and what `Engine.create` takes beside it.
_OF_ENGINE = ("name", "stdin", "stdout", "stderr")


@pytest.fixture(params=["native", "lxc"])
def driver(request: pytest.FixtureRequest) -> str:
    """Docker 0.9's drivers; skips with the driver's own reason where it cannot run."""
    name = request.param
    registry = Registry()
    if name not in registry.names():
        pytest.skip(f"needs driver {name}: {registry.errors.get(name, 'it is not installed')}")
    probe = registry.probe(name)
    if not probe.available:
        pytest.skip(f"needs driver {name}: " + "; ".join(map(str, probe.problems)))
    return name


@pytest.fixture
def run(engine: Engine, driver: str, rootfs: Path) -> Callable[..., CompletedContainer]:
    """A command, or the text of a shell script, run to its end."""

    def run(command: str | list[str], **options: Any) -> CompletedContainer:
        options = {"rootfs": rootfs, "capture_output": True, "text": True, "timeout": 60, **options}
        return engine.run(_words(command), driver=driver, **options)

    return run


@pytest.fixture
def output(run: Callable[..., CompletedContainer]) -> Callable[..., str]:
    """What a command that succeeds and complains of nothing writes."""

    def output(command: str | list[str], **options: Any) -> str:
        done = run(command, check=True, **options)
        assert not done.stderr
        return str(done.stdout)

    return output


@pytest.fixture
def create(engine: Engine, driver: str, rootfs: Path) -> Callable[..., Container]:
    """A container that waits to be started."""

    def create(command: str | list[str], **options: Any) -> Container:
        ours = {key: options.pop(key) for key in _OF_ENGINE if key in options}
        return engine.create(
            ContainerSpec.build(_words(command), **{"rootfs": rootfs, **options}), driver=driver, **ours
        )

    return create


def _words(command: str | list[str]) -> list[str]:
    return ["sh", "-c", command] if isinstance(command, str) else command
