"""OCI hooks of the spec, and annotations."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from execdrivers import Container, LaunchError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Kit, args_of
from execdrivers.testing.program import COMMAND, Report

__all__ = ["TestHooks"]


#: In the order in which they come, and what the container is then.
_STATUS = {
    "prestart": "creating",
    "create_runtime": "creating",
    "create_container": "creating",
    "start_container": "created",
    "poststart": "running",
    "poststop": "stopped",
}
_MOMENTS = tuple(_STATUS)
#: What fails at one of these, the container does.
_BEFORE = _MOMENTS[:4]


class TestHooks(Kit):
    """Commands at points of the container's life: run in order, with the state on their input."""

    def hook(self, *commands: str, inside: bool = False, **more: Any) -> dict[str, Any]:
        """One that runs the probe program, on the host or in the container's root."""
        program = COMMAND if inside else str(self.rootfs / "bin/probe")
        return {"path": program, "args": args_of(*commands), **more}

    def shared(self) -> dict[str, Any]:
        """``tmp`` in the container, where it is /data."""
        return {"mounts": [{"type": "bind", "source": str(self.tmp), "destination": "/data"}]}

    def place(self, moment: str, name: str) -> str:
        """A file in ``tmp``, as a hook at that moment finds it."""
        return f"/data/{name}" if moment == "start_container" else str(self.tmp / name)

    def telling(self, moment: str) -> dict[str, Any]:
        """One that keeps its input and its report."""
        commands = (f"to {self.place(moment, 'state')}", "cat", f"to {self.place(moment, 'report')}", "report")
        return self.hook(*commands, inside=moment == "start_container", env={"B": "x y", "A": ""})

    def live(self, moment: str, hooks: list[dict[str, Any]], **fields: Any) -> Container:
        """A container that has lived through all moments."""
        container = self.start_ready(hooks={moment: hooks}, **self.shared(), **fields)
        self.pid = container.pid
        container.delete(force=True)
        return container

    @needs("hooks", "mount.bind")
    @pytest.mark.parametrize("moment", _MOMENTS)
    def test_state_is_on_its_input(self, moment: str) -> None:
        container = self.live(moment, [self.telling(moment)], annotations={"org.example.kit": "x y"})
        state = json.loads((self.tmp / "state").read_text())
        assert state["ociVersion"] and state["id"] == container.id
        assert state["status"] == _STATUS[moment]
        assert state["annotations"]["org.example.kit"] == "x y"
        assert state["bundle"].startswith("/")
        # As seen from where the hook is.
        own = "namespace.pid" in self.features and moment in ("create_container", "start_container")
        assert (state.get("pid") or None) == (None if moment == "poststop" else 1 if own else self.pid)

    @needs("hooks", "mount.bind")
    @pytest.mark.parametrize("moment", _MOMENTS)
    def test_it_is_given_what_the_spec_says_and_nothing_else(self, moment: str) -> None:
        hook = self.telling(moment)
        self.live(moment, [hook])
        report = Report.parse((self.tmp / "report").read_bytes())
        assert report["argv"] == hook["args"]
        assert report.env == hook["env"]
        assert sorted(report["fds"]) == ["0", "1", "2"]

    @needs("hooks", "mount.bind")
    def test_the_bundle_is_one(self) -> None:
        copy = {"path": "/bin/sh", "args": ["sh", "-c", f"cp config.json {self.tmp}/config.json"]}
        self.live("create_runtime", [copy])
        config = json.loads((self.tmp / "config.json").read_text())
        assert os.path.realpath(config["root"]["path"]) == os.path.realpath(self.rootfs)

    @needs("hooks", "mount.bind")
    @pytest.mark.parametrize("moment", _MOMENTS)
    def test_in_order(self, moment: str) -> None:
        inside = moment == "start_container"
        words = [(f"to {self.place(moment, 'log')}", f"say {number}") for number in (1, 2, 3)]
        self.live(moment, [self.hook(*each, inside=inside) for each in words])
        assert (self.tmp / "log").read_text().split() == ["1", "2", "3"]

    @needs("hooks", "mount.bind")
    def test_moments_in_order(self) -> None:
        words = {moment: (f"to {self.place(moment, 'log')}", f"say {moment}") for moment in _MOMENTS}
        hooks = {
            moment: [self.hook(*each, inside=moment == "start_container")] for moment, each in reversed(words.items())
        }
        container = self.start_ready(
            f"to {self.place('start_container', 'log')}", "say command", hooks=hooks, **self.shared()
        )
        container.wait(TIMEOUT)
        container.delete()
        told = (self.tmp / "log").read_text().split()
        assert [each for each in told if each not in ("command", "poststart")] == [
            each for each in _MOMENTS if each != "poststart"
        ]
        assert told.index("start_container") < told.index("command") < told.index("poststop")
        assert told.index("start_container") < told.index("poststart") < told.index("poststop")

    @needs("hooks", "mount.bind")
    def test_namespaces(self) -> None:
        """Those of the container are there when hooks run; only the two in the middle are in them."""
        hooks = {
            moment: [self.hook(f"to {self.place(moment, moment)}", "report", inside=moment == "start_container")]
            for moment in _MOMENTS
        }
        container = self.start_ready(hooks=hooks, **self.shared())
        first = f"/proc/{self.first_process(container)}/ns"
        own = {kind: os.stat(f"{first}/{kind}").st_ino for kind in ("mnt", "net", "uts")}
        container.delete(force=True)
        for moment in _MOMENTS:
            seen = Report.parse((self.tmp / moment).read_bytes())["namespaces"]
            inside = moment in ("create_container", "start_container")
            assert all((seen[kind] == value) == inside for kind, value in own.items()), moment

    @needs("hooks", "mount.bind", "user", "capabilities")
    def test_one_in_the_container_has_no_more_rights_than_the_command(self) -> None:
        self.tmp.chmod(0o777)
        fields: dict[str, Any] = {"user": "alice", "capabilities": {"drop": ["ALL"]}}
        self.live("start_container", [self.telling("start_container")], **fields)
        report = Report.parse((self.tmp / "report").read_bytes())
        of_command = self.report(**fields)
        for key in ("uid", "gid", "groups", "capabilities", "no_new_privs", "seccomp", "apparmor"):
            assert report[key] == of_command[key], key
        assert report["uid"] == [1000] * 3 and not report.capabilities("bounding")

    @needs("hooks")
    @pytest.mark.parametrize("moment", _BEFORE)
    def test_one_that_fails_stops_the_launch(self, moment: str) -> None:
        inside = moment == "start_container"
        after = self.tmp / "after"
        hooks = {
            moment: [self.hook("exit 3", inside=inside)],
            "poststart": [self.hook(f"to {after}", "say poststart")],
            "poststop": [self.hook(f"to {after}", "say poststop")],
        }
        with pytest.raises(LaunchError):
            self.run("say x", hooks=hooks)
        assert after.read_text().split() == ["poststop"]

    @needs("hooks")
    @pytest.mark.parametrize("moment", _BEFORE)
    def test_one_that_is_not_there_stops_the_launch(self, moment: str) -> None:
        with pytest.raises(LaunchError):
            self.run("say x", hooks={moment: [{"path": "/no/such/hook"}]})

    @needs("hooks")
    @pytest.mark.parametrize("moment", _BEFORE)
    def test_one_that_hangs_is_stopped(self, moment: str) -> None:
        inside = moment == "start_container"
        with pytest.raises(LaunchError):
            self.run("say x", hooks={moment: [self.hook("spread 2", "sleep", inside=inside, timeout=1)]})

    @needs("hooks")
    @pytest.mark.parametrize("moment", ["poststart", "poststop"])
    def test_one_that_fails_late_is_no_failure(self, moment: str) -> None:
        after = self.tmp / "after"
        hooks = [self.hook("exit 3"), {"path": "/no/such/hook"}, self.hook(f"write {after} x")]
        assert self.run("exit 5", hooks={moment: hooks}).returncode == 5
        assert after.exists()

    @needs("hooks", "recover")
    def test_poststop_when_another_program_deletes_it(self) -> None:
        log = self.tmp / "log"
        container = self.start_ready(hooks={"poststop": [self.hook(f"to {log}", "say x")]})
        with self.new_engine() as other:
            other.get(container.id).delete(force=True)
        assert log.read_text() == "x\n"
        container.delete(force=True)
        assert log.read_text() == "x\n"

    @needs("annotations")
    def test_annotations_do_not_disturb(self) -> None:
        assert self.run("exit 2", annotations={"org.example.kit": "x y\nz"}).returncode == 2

    @needs("stop-signal")
    def test_stop_signal(self) -> None:
        container = self.start("catch 1", stop_signal="SIGUSR1")
        assert host.read_line(container.stdout) == "ready"
        container.stop(20)
        assert host.read_line(container.stdout) == "10"
