"""Detached containers as a whole, where it is about the monitor: on the native driver. The rest is the kit's."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from execdrivers import ContainerSpec, Engine, LogOptions

pytestmark = pytest.mark.needs("root", "busybox")


def create(engine: Engine, rootfs: Path, script: str, **more: Any) -> Any:
    spec = ContainerSpec(["sh", "-c", script], rootfs=str(rootfs), **more.pop("spec", {}))
    return engine.create(spec, driver="native", name="c", detach=True, **more)


def test_a_follower_of_one_whose_monitor_is_killed(engine: Engine, rootfs: Path) -> None:
    """It ends, though the container runs on: nothing more will be logged."""
    container = create(engine, rootfs, "echo a; exec sleep 60")
    container.start()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(entry.data for entry in container.logs(follow=True)))
    thread.start()
    while not got:
        time.sleep(0.01)
    found = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and is_monitor(pid, container.pid)]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)
    thread.join(10)
    assert not thread.is_alive() and got == [b"a\n"]
    assert container.state == "running"
    container.delete(force=True)


def is_monitor(pid: str, child: int) -> bool:
    try:
        named = Path(f"/proc/{pid}/comm").read_text() == "execdrivers-mon\n"
        return named and str(child) in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return False


def test_a_terminal_of_a_mount_namespace_of_its_own(engine: Engine, rootfs: Path) -> None:
    """The monitor holds its other side, too: what comes after all have closed it is not lost."""
    script = "t=$(tty); exec </dev/null >/dev/null 2>&1; sleep 0.5; stty size <$t >$t; read x <$t; exit 4"
    container = create(engine, rootfs, script, spec={"tty": True})
    container.start()
    container.resize(21, 43)
    with container.attach() as attachment:
        output = b""
        for _, data in attachment:
            output += data
            if output.endswith(b"21 43\r\n"):
                attachment.write(b"x\n")
    assert container.wait(10).code == 4
    assert b"21 43\r\n" in b"".join(entry.data for entry in container.logs())
    container.delete()


def test_its_log_is_as_large_as_was_asked_for(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    container = create(engine, rootfs, "seq 30000", log=LogOptions("64K", 3))
    container.start()
    assert container.wait(20).ok
    files = list((tmp_path / "state" / "c").glob("log*"))
    assert len(files) == 3 and sum(file.stat().st_size for file in files) <= 3 * 64 << 10
    assert [entry.data for entry in container.logs(tail=2)] == [b"29999\n", b"30000\n"]
    container.delete()
    assert not (tmp_path / "state" / "c").exists()
