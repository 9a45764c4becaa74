"""OCI hooks of the spec, and annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from execdrivers import LaunchError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestHooks"]


class TestHooks(Kit):
    """Commands at points of the container's life: run in order, with the state on their input."""

    def hook(self, *commands: str, **more: Any) -> dict[str, Any]:
        """One that runs the probe program on the host."""
        from execdrivers.testing.kit import args_of

        program = str(self.rootfs / "bin/probe")
        return {"path": program, "args": [program, *args_of(*commands)[1:]], **more}

    @needs("hooks")
    @pytest.mark.parametrize("moment", ["prestart", "create_runtime", "poststart", "poststop"])
    def test_runs_on_the_host(self, moment: str) -> None:
        mark = self.tmp / "mark"
        container = self.start_ready(hooks={moment: [self.hook(f"write {mark} {moment}")]})
        if moment == "poststop":
            assert not mark.exists()
        container.delete(force=True)
        assert host.until(lambda: mark.exists() and mark.read_text(), "the hook ran") == moment

    @needs("hooks")
    @pytest.mark.parametrize("moment", ["create_container", "start_container"])
    def test_runs_in_the_container(self, moment: str) -> None:
        rootfs = self.own_rootfs()
        hook = {"path": "/bin/probe", "args": ["probe", "write", "/data/mark", moment]}
        if moment == "create_container":
            hook = self.hook(f"write {self.tmp / 'mark'} {moment}")
        self.run("say x", rootfs=rootfs, hooks={moment: [hook]})
        place = rootfs / "data/mark" if moment == "start_container" else self.tmp / "mark"
        assert place.read_text() == moment

    @needs("hooks")
    def test_state_is_on_its_input(self) -> None:
        container = self.start_ready(hooks={"poststart": [self._that_keeps_its_input()]})
        host.until(self._kept().exists, "the hook ran")
        state = json.loads(self._kept().read_text())
        assert state["id"] == container.id and state["pid"] == container.pid
        assert state["status"] == "running"

    def _kept(self) -> Path:
        return self.tmp / "state"

    def _that_keeps_its_input(self) -> dict[str, Any]:
        return {
            "path": "/bin/sh",
            "args": ["sh", "-c", f"cat >{self._kept()}.new; mv {self._kept()}.new {self._kept()}"],
        }

    @needs("hooks")
    def test_in_order(self) -> None:
        log = self.tmp / "log"
        hooks = [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {number} >>{log}"]} for number in (1, 2, 3)]
        self.run("say x", hooks={"create_runtime": hooks})
        assert log.read_text().split() == ["1", "2", "3"]

    @needs("hooks")
    def test_one_that_fails_stops_the_launch(self) -> None:
        with pytest.raises(LaunchError):
            self.run("say x", hooks={"create_runtime": [self.hook("exit 3")]})

    @needs("hooks")
    def test_one_that_hangs_is_stopped(self) -> None:
        with pytest.raises(LaunchError):
            self.run("say x", hooks={"create_runtime": [self.hook("sleep", timeout=1)]})

    @needs("annotations")
    def test_annotations_do_not_disturb(self) -> None:
        assert self.run("exit 2", annotations={"org.example.kit": "x y\nz"}).returncode == 2

    @needs("stop-signal")
    def test_stop_signal(self) -> None:
        container = self.start("catch 1", stop_signal="SIGUSR1")
        assert host.read_line(container.stdout) == "ready"
        container.stop(20)
        assert host.read_line(container.stdout) == "10"

    @needs("stats")
    def test_stats(self) -> None:
        """There is no call yet that a driver would answer."""
