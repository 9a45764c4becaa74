"""User namespaces and idmapped mounts: whose the ids of a container are on the host, and what they are good for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from execdrivers import PIPE, SpecError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Kit, args_of
from execdrivers.testing.program import Report

__all__ = ["TestIds"]

BASE = 100000
_MAPPED = ("namespace.user", "user-mappings")


class TestIds(Kit):
    """By what the host's /proc and file systems say of processes and files, and by what root inside may do."""

    def mapped(self, size: int = 65536) -> dict[str, Any]:
        """Fields of a spec that give its container ids of its own, and a rootfs that is its root's."""
        if not host.capable("CAP_SETUID"):
            host.lacking("CAP_SETUID, to map any ids")
        mappings = [{"container_id": 0, "host_id": BASE, "size": size}]
        rootfs = self.own_rootfs()
        for directory, names, files in os.walk(rootfs):
            for name in [".", *names, *files]:
                os.chown(os.path.join(directory, name), BASE, BASE, follow_symlinks=False)
        for path in (rootfs, *list(rootfs.parents)[:-2]):
            if path.stat().st_uid == os.getuid() or path == rootfs:
                path.chmod(path.stat().st_mode | 0o055)
        return {
            "namespaces": {"user": "private"},
            "uid_mappings": mappings,
            "gid_mappings": mappings,
            "rootfs": rootfs,
        }

    @needs(*_MAPPED)
    def test_user_mappings(self) -> None:
        options = self.mapped()
        container = self.start_ready(**options)
        status = host.status(self.first_process(container))
        assert status["Uid"].split() == [str(BASE)] * 4 and status["Gid"].split() == [str(BASE)] * 4
        assert not {int(group) for group in status["Groups"].split()} - {BASE, BASE + 10}
        assert self.report(**options)["uid"] == [0, 0, 0]

    @needs(*_MAPPED, "mount.bind")
    def test_no_descriptors_but_stdio(self) -> None:
        mount = {"type": "bind", "source": str(self.tmp), "destination": "/data"}
        container = self.start_ready(**self.mapped(), mounts=[mount])
        assert sorted(os.listdir(f"/proc/{self.first_process(container)}/fd")) == ["0", "1", "2"]

    @needs(*_MAPPED, "user")
    def test_another_user(self) -> None:
        options = {**self.mapped(), "user": "1000:1001"}
        status = host.status(self.first_process(self.start_ready(**options)))
        assert status["Uid"].split() == [str(BASE + 1000)] * 4 and status["Gid"].split() == [str(BASE + 1001)] * 4
        report = self.report(**options)
        assert (report["uid"], report["gid"]) == ([1000] * 3, [1001] * 3)
        assert not report.capabilities("effective")

    @needs(*_MAPPED, "groups")
    def test_groups(self) -> None:
        report = self.report(**self.mapped(), user="0:0", additional_gids=[4, 5])
        assert {4, 5} <= set(report["groups"]) <= {0, 4, 5}

    @needs(*_MAPPED, "user")
    def test_a_user_that_is_not_mapped_is_refused(self) -> None:
        with pytest.raises(SpecError) as caught:
            self.run("say x", **self.mapped(10), user="10:0")
        assert caught.value.field == "user"

    @needs(*_MAPPED)
    def test_what_root_makes_is_its_own_on_the_host(self) -> None:
        options = self.mapped()
        attempts = self.attempts("write /made x", "chown /made 1000", **options)
        assert all(attempt.ok for attempt in attempts), attempts
        made = os.stat(Path(options["rootfs"]) / "made")
        assert (made.st_uid, made.st_gid) == (BASE + 1000, BASE + 1000)

    @needs(*_MAPPED)
    def test_its_device_and_terminal_directories_are_roots(self) -> None:
        done = self.run("stat /dev", "stat /dev/pts", "stat /dev/shm", **self.mapped())
        assert [line.count(b'"uid":0,') for line in done.stdout.splitlines()] == [1, 1, 1], done

    @needs(*_MAPPED, "capabilities")
    def test_all_capabilities_are_good_for_nothing_of_the_hosts(self) -> None:
        options = {**self.mapped(), "capabilities": {"add": ["ALL"]}}
        rootfs = Path(options["rootfs"])
        (rootfs / "foreign").write_text("x")
        (rootfs / "foreign").chmod(0o600)
        os.chown(rootfs / "foreign", 0, 0)
        attempts = self.attempts("read /foreign", "chown /foreign 0", "settime", "mknod /node c 1 1", **options)
        assert [attempt.errno for attempt in attempts] == ["EACCES", "EPERM", "EPERM", "EPERM"]

    @needs(*_MAPPED, "capabilities")
    def test_all_capabilities_are_good_for_what_is_its_own(self) -> None:
        options = {**self.mapped(), "capabilities": {"add": ["ALL"]}, "apparmor_profile": "unconfined"}
        attempts = self.attempts("sethostname other", "mount none /tmp tmpfs", **options)
        assert all(attempt.ok for attempt in attempts), attempts

    @needs(*_MAPPED)
    def test_default_capabilities_are_no_more_than_without(self) -> None:
        report = self.report(**self.mapped())
        for kind in ("effective", "permitted", "inheritable", "bounding", "ambient"):
            assert set(report.capabilities(kind)) <= set(self.by_default().capabilities(kind)), kind

    @needs(*_MAPPED, "exec")
    @pytest.mark.parametrize(("user", "uid"), [(None, 0), ("1000:1000", 1000)])
    def test_a_further_process(self, user: str | None, uid: int) -> None:
        container = self.start_ready(**self.mapped())
        given: dict[str, Any] = {"user": user} if user else {}
        with container.exec(args_of("report"), stdout=PIPE, **given) as process:
            out, _ = process.communicate(timeout=TIMEOUT)
        report = Report.parse(out or b"")
        assert report["uid"] == [uid] * 3
        assert report["namespaces"]["user"] == host.namespaces(self.first_process(container))["user"]
        assert bool(report.capabilities("effective")) == (uid == 0)

    @needs(*_MAPPED, "tty")
    def test_terminal(self) -> None:
        container = self.start("report", tty=True, **self.mapped())
        out, _ = container.communicate(timeout=TIMEOUT)
        assert Report.parse(out or b"")["uid"] == [0, 0, 0]

    @needs(*_MAPPED, "mount.bind")
    def test_what_others_may_not_reach_on_the_host_can_be_bound(self) -> None:
        closed = self.tmp / "closed"
        (closed / "data").mkdir(parents=True)
        (closed / "data/file").write_text("hello")
        mount = {"type": "bind", "source": str(closed / "data"), "destination": "/data"}
        options = self.mapped()
        closed.chmod(0o700)
        assert self.attempt("read", "/data/file", **options, mounts=[mount]).result == "hello"

    @needs(*_MAPPED, "mount.bind", "mount.idmap")
    @pytest.mark.parametrize("option", ["idmap", "ridmap"])
    def test_a_mount_with_the_containers_mappings(self, option: str) -> None:
        source = self.tmp / "source"
        source.mkdir()
        (source / "file").write_text("hello")
        (source / "file").chmod(0o600)
        mount = {"type": "bind", "source": str(source), "destination": "/data", "options": [option]}
        attempts = self.attempts("read /data/file", "write /data/new x", **self.mapped(), mounts=[mount])
        assert all(attempt.ok for attempt in attempts), attempts
        assert os.stat(source / "new").st_uid == os.stat(source).st_uid

    @needs("mount.bind", "mount.idmap")
    def test_a_mount_with_mappings_of_its_own(self) -> None:
        source = self.tmp / "source"
        source.mkdir()
        (source / "file").touch()
        for path in (source, source / "file") if host.capable("CAP_CHOWN") else ():
            os.chown(path, 1000, 1000)
        mapping = [{"container_id": 1000, "host_id": 2000, "size": 1}]
        mount = {"type": "bind", "source": str(source), "destination": "/data", "options": ["idmap"],
                 "uid_mappings": mapping, "gid_mappings": mapping}  # fmt: skip
        done = self.run("stat /data/file", "write /data/new x", mounts=[mount], user="2000:2000")
        assert b'"uid":2000' in done.stdout, done
        assert os.stat(source / "new").st_uid == 1000
