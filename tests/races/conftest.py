"""Several programs, or threads, at one container: for real, on each driver that can run here.

Fixtures: ``driver`` (each in turn), ``root`` (the store of ``engine``, for other programs), ``spec``, ``make``.
Marker: ``features("exec", "pause", …)``: only drivers that declare them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, Container, ContainerSpec, Engine, Registry
from execdrivers.driver import Probe

DRIVERS = ("native", "lxc", "oci", "chroot")


EITHER = pytest.mark.parametrize("make", ["attached", "detached"], indirect=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "features(*names): of the drivers only those that declare all of them")


@pytest.fixture(scope="session")
def probes() -> dict[str, Probe]:
    """Driver → its probe, asked for once."""
    registry = Registry()
    return {name: registry.probe(name) for name in DRIVERS}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, probes: dict[str, Probe]) -> str:
    """Each driver in turn; skipped, with its own reason, where it cannot run."""
    name = str(request.param)
    probe = probes[name]
    if not probe.available:
        pytest.skip(f"driver {name}: " + "; ".join(map(str, probe.problems)))
    for mark in request.node.iter_markers("features"):
        if lacking := set(mark.args) - set(probe.features):
            pytest.skip(f"driver {name} does not declare {', '.join(sorted(lacking))}")
    return name


@pytest.fixture
def rounds(driver: str) -> Callable[[int], range]:
    """How often a race is tried: the tools of other drivers than native take ten times as long."""
    return lambda count: range(count if driver in ("native", "chroot") else max(3, count // 6))


@pytest.fixture
def root(engine: Engine) -> str:
    """The state root of ``engine``, for other programs."""
    return engine.root


@pytest.fixture
def spec(rootfs: Path) -> Callable[..., ContainerSpec]:
    """A shell command in busybox → its spec."""
    return lambda command="exec sleep 1000", **fields: ContainerSpec.build(
        ["sh", "-c", command], **{"rootfs": rootfs, **fields}
    )


@pytest.fixture
def make(
    request: pytest.FixtureRequest, engine: Engine, spec: Callable[..., ContainerSpec], probes: dict[str, Probe]
) -> Callable[..., Container]:
    """driver, command, fields of the spec → a container that is started, on ``engine``. With `EITHER` the test is run
    with detached ones as well."""
    detach = getattr(request, "param", "attached") == "detached"

    def make(driver: str, command: str = "exec sleep 1000", name: str | None = None, **fields: Any) -> Container:
        streams = {key: fields.pop(key, DEVNULL) for key in ("stdin", "stdout", "stderr")}
        if fields.get("tty"):
            streams.pop("stderr")
        if detach and "detach" not in probes[driver].features:
            pytest.skip(f"driver {driver} does not declare detach")
        container = engine.create(spec(command, **fields), driver=driver, name=name, detach=detach, **streams)
        container.start()
        return container

    return make
