"""Users, groups, and what a process of another user than root may not do."""

from __future__ import annotations

import os

import pytest

from execdrivers import SpecError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestUsers"]


class TestUsers(Kit):
    """``user`` and ``additional_gids``, by number and by the names of the container's own /etc."""

    def test_root_by_default(self) -> None:
        report = self.by_default()
        assert report["uid"] == [0, 0, 0] and report["gid"] == [0, 0, 0]

    def test_groups_by_default_are_those_of_root_in_the_container(self) -> None:
        """Not the caller's."""
        assert set(self.by_default()["groups"]) <= {0, 10}

    @needs("user")
    @pytest.mark.parametrize(
        ("user", "uid", "gid", "groups"),
        [
            ("alice", 1000, 1000, {10, 100}),
            ("1000", 1000, 1000, {10, 100}),
            ("alice:users", 1000, 100, set()),
            ("alice:7", 1000, 7, set()),
            ("1000:1000", 1000, 1000, set()),
            ("4321:1234", 4321, 1234, set()),
            ("4321", 4321, 0, set()),
            ("0:0", 0, 0, set()),
            ("nobody", 65534, 65534, set()),
            ("root", 0, 0, {10}),
        ],
    )
    def test_user(self, user: str, uid: int, gid: int, groups: set[int]) -> None:
        report = self.report(user=user)
        assert report["uid"] == [uid] * 3
        assert report["gid"] == [gid] * 3
        assert set(report["groups"]) - {gid} == (groups if "groups" in self.features else set())

    @needs("user")
    def test_user_as_the_host_sees_it(self) -> None:
        container = self.start_ready(user="4321:1234")
        pid = self.first_process(container)
        assert host.status(pid)["Uid"].split() == [str(host.outside(pid, "uid", 4321))] * 4
        assert host.status(pid)["Gid"].split() == [str(host.outside(pid, "gid", 1234))] * 4

    @needs("user")
    @pytest.mark.parametrize(("user", "home"), [("alice", "/home/alice"), ("1000", "/home/alice"), ("4321", "/")])
    def test_home(self, user: str, home: str) -> None:
        assert self.report(user=user).env["HOME"] == home

    @needs("user")
    @pytest.mark.parametrize("user", ["no-such-user", "alice:no-such-group"])
    def test_unknown_names_are_refused(self, user: str) -> None:
        with pytest.raises(SpecError) as caught:
            self.run("say x", user=user)
        assert caught.value.field == "user"

    @needs("user")
    def test_names_are_the_containers_not_the_hosts(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "etc/passwd").write_text("daemon:x:77:78::/srv:/bin/probe\n")
        (rootfs / "etc/group").write_text("extra:x:79:daemon\n")
        report = self.report(user="daemon", rootfs=rootfs)
        assert (report["uid"][0], report["gid"][0], report.env["HOME"]) == (77, 78, "/srv")
        assert set(report["groups"]) - {78} == ({79} if "groups" in self.features else set())

    @needs("user")
    def test_names_in_files_that_lead_out_are_not_read(self) -> None:
        rootfs = self.own_rootfs()
        (self.tmp / "passwd").write_text("eve:x:0:0::/:/bin/probe\n")
        (rootfs / "etc/passwd").unlink()
        (rootfs / "etc/passwd").symlink_to(self.tmp / "passwd")
        with pytest.raises(SpecError):
            self.run("say x", user="eve", rootfs=rootfs)

    @needs("user")
    def test_without_etc_numbers_do(self) -> None:
        rootfs = self.own_rootfs()
        for name in ("passwd", "group"):
            (rootfs / "etc" / name).unlink()
        assert self.report(user="5:6", rootfs=rootfs)["uid"] == [5, 5, 5]

    @needs("groups")
    def test_additional_groups(self) -> None:
        report = self.report(additional_gids=[4, 5, 60000])
        assert {4, 5, 60000} <= set(report["groups"]) <= {0, 4, 5, 60000}

    @needs("user", "groups")
    def test_additional_groups_replace_those_of_the_file(self) -> None:
        report = self.report(user="alice", additional_gids=[4])
        assert set(report["groups"]) - {1000} == {4}

    @needs("groups")
    def test_no_additional_groups(self) -> None:
        assert set(self.report(additional_gids=[])["groups"]) <= {0}

    @needs("user")
    def test_files_belong_to_the_user(self) -> None:
        rootfs = self.own_rootfs()
        container = self.start("write /tmp/made", "sleep", user="4321:1234", rootfs=rootfs)
        host.read_line(container.stdout)
        pid = self.first_process(container)
        if not (rootfs / "tmp/made").exists():
            return  # /tmp is the container's own
        made = os.stat(rootfs / "tmp/made")
        assert (made.st_uid, made.st_gid) == (host.outside(pid, "uid", 4321), host.outside(pid, "gid", 1234))

    @needs("user")
    def test_another_user_has_no_capabilities(self) -> None:
        report = self.report(user="1000:1000")
        for kind in ("effective", "permitted", "ambient", "inheritable"):
            assert not report.capabilities(kind), kind

    @needs("user")
    def test_another_user_cannot_become_root(self) -> None:
        attempts = self.attempts("setuid 0", "setgid 0", "setgroups 0", user="1000:1000")
        # EINVAL: where no root exists.
        assert {attempt.errno for attempt in attempts} <= {"EPERM", "EINVAL"}

    @needs("user", "other-users")
    def test_another_user_cannot_write_roots_files(self) -> None:
        rootfs = self.own_rootfs()
        attempts = self.attempts("put /etc/passwd x", "write /etc/new x", user="1000:1000", rootfs=rootfs)
        assert [attempt.errno for attempt in attempts] == ["EACCES"] * 2
        assert "alice" in (rootfs / "etc/passwd").read_text()
