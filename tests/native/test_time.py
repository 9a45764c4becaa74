"""Time namespaces: clocks that are ahead of the host's, or behind."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from execdrivers import PIPE, ContainerSpec, Engine, LaunchError

pytestmark = pytest.mark.needs("root", "busybox")

DAY = 86400
MAPPINGS = [{"container_id": 0, "host_id": 700_000, "size": 65536}]


def out(engine: Engine, script: str, rootfs: Path, **options: Any) -> list[str]:
    done = engine.run(
        ["sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True, check=True, **options
    )
    return str(done.stdout).split()


def test_an_own_one_only_when_asked_for(engine: Engine, rootfs: Path) -> None:
    own, script = os.readlink("/proc/self/ns/time"), "readlink /proc/self/ns/time"
    assert out(engine, script, rootfs) == [own]
    assert out(engine, script, rootfs, namespaces={"time": "host"}) == [own]
    assert out(engine, script, rootfs, namespaces={"time": "private"}) != [own]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("init", [False, True])
def test_clocks(engine: Engine, rootfs: Path, mapped: bool, init: bool) -> None:
    """The first process is in it, not only its children: /proc/uptime is of who reads."""
    options: dict[str, Any] = {"uid_mappings": MAPPINGS, "gid_mappings": MAPPINGS} if mapped else {}
    offsets = {"boottime": {"secs": 100 * DAY, "nanosecs": 5}, "monotonic": {"secs": -1, "nanosecs": 999_999_999}}
    spec = ContainerSpec(["cat", "/proc/uptime", "/proc/self/timens_offsets"], rootfs=rootfs, time_offsets=offsets,
                         init=init, **options)  # fmt: skip
    with engine.create(spec, driver="native", stdout=PIPE) as container:
        container.start()
        seen = (container.communicate(timeout=20)[0] or b"").decode().split()
        assert container.guarantees["time_offsets"]["boottime"] == {"secs": 100 * DAY, "nanosecs": 5}
    ahead = float(seen[0]) - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 100 * DAY - 60 < ahead <= 100 * DAY + 1
    assert seen[2:] == ["monotonic", "-1", "999999999", "boottime", str(100 * DAY), "5"]


def test_a_further_command_has_them_too(engine: Engine, rootfs: Path) -> None:
    spec = ContainerSpec(["sleep", "100"], rootfs=rootfs, time_offsets={"boottime": {"secs": 100 * DAY}})
    with engine.create(spec, driver="native") as container:
        container.start()
        with container.exec(["cut", "-d.", "-f1", "/proc/uptime"], stdout=PIPE) as process:
            seen = int((process.communicate(timeout=20)[0] or b"").decode())
    assert seen > 100 * DAY


def test_a_clock_that_cannot_be(engine: Engine, rootfs: Path) -> None:
    offsets = {"monotonic": {"secs": -(10**9)}}
    with pytest.raises(LaunchError, match=r"timens_offsets: .*out of range.*below 0 or beyond 146 years"):
        engine.run(["true"], rootfs=rootfs, driver="native", time_offsets=offsets)
