"""Detached containers as a whole, where it is about the monitor: on the native driver. The rest is the kit's."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from execdrivers import PIPE, ContainerNotFound, ContainerSpec, Engine, InvalidState, LogOptions
from execdrivers.store import Store

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


def test_a_log_is_not_another_containers(engine: Engine, rootfs: Path) -> None:
    """Nor an empty one: whoever asks for it is told, at once."""
    stale = create(engine, rootfs, "echo first")
    stale.start()
    stale.wait(20)
    entries = stale.logs()
    with Engine(engine.root) as others:
        other = others.get("c")
        other.delete()
        with pytest.raises(InvalidState, match="is deleted"):
            other.logs()
        second = create(others, rootfs, "echo SECOND")
        second.start()
        second.wait(20)
        with pytest.raises(ContainerNotFound):
            stale.logs()
        with pytest.raises(TypeError):
            second.logs(head=1)
        assert [entry.data for entry in second.logs()] == [b"SECOND\n"]
        second.delete()
    assert [entry.data for entry in entries] == [b"first\n"]  # it was open
    stale.delete()


def test_a_maker_that_is_killed_with_the_lock_leaves_it_to_others(engine: Engine, rootfs: Path) -> None:
    """As in `pause`, `update` and `exec`. The monitor, which has the container's directory, lives on."""
    if not (pid := os.fork()):
        with create(Engine(engine.root), rootfs, "exec sleep 60") as container:
            container.start()
            with container._entry:
                os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    container = engine.get("c")
    assert container.state == "running"
    with contextlib.closing(Store(engine.root).open("c")) as entry:
        assert entry.lock_now()
    container.delete(force=True)


def test_without_a_journal(engine: Engine, rootfs: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It runs, and ends, all the same."""
    Path(engine.root).mkdir(0o700)
    Path(engine.root, ".events").touch()
    container = create(engine, rootfs, "echo a", spec={"resources": {"memory": "64M"}})
    container.start()
    assert container.wait(20).ok
    assert [entry.data for entry in container.logs()] == [b"a\n"]
    container.delete()
    assert "events are not written" in caplog.text


def test_deleted_as_soon_as_its_end_is_told(engine: Engine, rootfs: Path) -> None:
    """By its monitor, to who is attached; that has not come to its own end by then."""
    for _ in range(3):
        container = create(engine, rootfs, "read x", stdin=PIPE)
        container.start()
        with container.attach() as attachment:
            attachment.write(b"x\n")
            assert list(attachment) == []
        container.delete()
