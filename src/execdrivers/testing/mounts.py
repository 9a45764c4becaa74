"""Mounts of the spec: each type, their options, and destinations that a hostile rootfs has prepared."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from execdrivers import LaunchError, SpecError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["MountKit", "TestMounts", "bind"]


def bind(source: Path | str, destination: str = "/data", *options: str) -> dict[str, Any]:
    """A bind mount."""
    return {"type": "bind", "source": str(source), "destination": destination, "options": list(options)}


class MountKit(Kit):
    """What tests of mounts need on the host."""

    def source(self) -> Path:
        """A directory of the host with a file in it."""
        path = self.tmp / "source"
        path.mkdir()
        (path / "file").write_text("hello")
        return path

    @contextmanager
    def mounted(self, path: Path, *options: str) -> Iterator[None]:
        """A tmpfs of the host, with a file."""
        if not host.capable("CAP_SYS_ADMIN"):
            host.lacking("CAP_SYS_ADMIN")
        path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "kit", path], check=True)
        try:
            (path / "inner").write_text("inner")
            yield
        finally:
            subprocess.run(["umount", "-l", path], check=True)


class TestMounts(MountKit):
    """What the spec says is mounted, where it says, and nowhere else."""

    @needs("mount.bind")
    def test_bind_a_directory(self) -> None:
        source = self.source()
        attempts = self.attempts("read /data/file", "write /data/new x", mounts=[bind(source)])
        assert attempts[0].result == "hello" and attempts[1].ok
        assert (source / "new").read_text() == "x"

    @needs("mount.bind")
    def test_bind_a_file(self) -> None:
        source = self.source()
        rootfs = self.own_rootfs()
        (rootfs / "srv/file").touch()
        attempts = self.attempts(
            "read /srv/file", "put /srv/file more", rootfs=rootfs, mounts=[bind(source / "file", "/srv/file")]
        )
        assert attempts[0].result == "hello"
        assert (source / "file").read_text() == "more!"[:4] + "o"

    @needs("mount.bind")
    def test_bind_readonly(self) -> None:
        source = self.source()
        attempts = self.attempts(
            "write /data/new x", "put /data/file x", "read /data/file", mounts=[bind(source, "/data", "ro")]
        )
        assert [attempt.errno for attempt in attempts] == ["EROFS", "EROFS", ""]
        assert not (source / "new").exists()

    @needs("mount.bind")
    @pytest.mark.parametrize("option", ["nosuid", "nodev", "noexec"])
    def test_bind_options(self, option: str) -> None:
        mount = self.report(mounts=[bind(self.source(), "/data", option)]).mounts["/data"]
        assert option in mount.options

    @needs("mount.bind")
    def test_noexec_is_enforced(self) -> None:
        source = self.source()
        (source / "probe").write_bytes((self.rootfs / "bin/probe").read_bytes())
        (source / "probe").chmod(0o755)
        command = ["spawn", "/data/probe", "exit", "0"]
        assert self.attempt(*command, mounts=[bind(source, "/data", "noexec")]).errno == "EACCES"
        assert self.attempt(*command, mounts=[bind(source)]).ok

    @needs("mount.bind")
    def test_bind_leaves_the_hosts_mount_alone(self) -> None:
        source = self.source()
        self.run("say x", mounts=[bind(source, "/data", "ro", "nosuid")])
        (source / "still-writable").touch()

    @needs("mount.bind")
    def test_bind_where_nothing_is_yet(self) -> None:
        rootfs = self.own_rootfs()
        source = self.source()
        mounts = [bind(source, "/made/for/it"), bind(source / "file", "/made/file")]
        attempts = self.attempts("read /made/for/it/file", "read /made/file", rootfs=rootfs, mounts=mounts)
        assert [attempt.result for attempt in attempts] == ["hello"] * 2

    @needs("mount.bind")
    def test_bind_with_odd_paths(self) -> None:
        for name in ("with space", "grün", "a=b#c", "quo'te\"", "back\\slash", "new\nline"):
            source = self.tmp / name
            source.mkdir()
            (source / "file").write_text(name)
            assert self.attempt("read", "/data/file", mounts=[bind(source)]).result == name

    @needs("mount.bind")
    def test_odd_destinations(self) -> None:
        source = self.source()
        for name in ("with space", "grün", "a=b#c", "quo'te\""):
            rootfs = self.own_rootfs(f"rootfs {name}")
            (rootfs / "srv" / name).mkdir()
            mounts = [bind(source, f"/srv/{name}")]
            assert self.attempt("read", f"/srv/{name}/file", rootfs=rootfs, mounts=mounts).result == "hello"

    @needs("mount.bind")
    def test_in_the_order_of_the_spec(self) -> None:
        one, two = self.source(), self.tmp / "two"
        (one / "below").mkdir()
        two.mkdir()
        (two / "file").write_text("below")
        mounts = [bind(one), bind(two, "/data/below")]
        assert self.attempt("read", "/data/below/file", mounts=mounts).result == "below"

    @needs("mount.bind")
    def test_missing_source(self) -> None:
        with pytest.raises((SpecError, LaunchError)) as caught:
            self.run("say x", mounts=[bind("/no/such/source")])
        assert "/no/such/source" in str(caught.value)

    @needs("mount.bind", "mount.recursive")
    def test_rbind_brings_what_is_mounted_below(self) -> None:
        source = self.source()
        with self.mounted(source / "below"):
            with_it = self.attempt("read", "/data/below/inner", mounts=[bind(source, "/data", "rbind")])
            without = self.attempt("read", "/data/below/inner", mounts=[bind(source, "/data", "bind")])
        assert (with_it.result, without.errno) == ("inner", "ENOENT")

    # --- other file systems

    @needs("mount.tmpfs")
    def test_tmpfs(self) -> None:
        mounts = [{"type": "tmpfs", "destination": "/data", "options": ["size=1m", "mode=700", "nosuid"]}]
        report = self.report(mounts=mounts)
        assert report.mounts["/data"].type == "tmpfs" and "nosuid" in report.mounts["/data"].options
        attempts = self.attempts("statfs /data", f"fill /data/big {3 << 20}", mounts=mounts)
        assert attempts[0].result == str(1 << 20)
        assert attempts[1].errno == "ENOSPC"
        assert b'"mode":448' in self.output("stat /data", mounts=mounts)

    @needs("mount.tmpfs")
    def test_tmpfs_hides_and_keeps_what_is_below(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "data/below").touch()
        mounts = [{"type": "tmpfs", "destination": "/data"}]
        attempts = self.attempts("read /data/below", "write /data/new x", rootfs=rootfs, mounts=mounts)
        assert [attempt.errno for attempt in attempts] == ["ENOENT", ""]
        assert os.listdir(rootfs / "data") == ["below"]

    @needs("mount.tmpfs")
    def test_a_mount_in_the_place_of_a_default_one(self) -> None:
        mounts = [{"type": "tmpfs", "destination": "/dev/shm", "options": ["size=2m"]}]
        assert self.attempt("statfs", "/dev/shm", mounts=mounts).result == str(2 << 20)

    @needs("mount.tmpfs")
    def test_bad_options_are_told(self) -> None:
        mounts = [{"type": "tmpfs", "destination": "/data", "options": ["size=lots"]}]
        with pytest.raises((SpecError, LaunchError)):
            self.run("say x", mounts=mounts)

    @needs("mount.proc")
    def test_proc(self) -> None:
        mounts = [{"type": "proc", "source": "proc", "destination": "/data", "options": ["nosuid"]}]
        attempt = self.attempt("read", "/data/self/comm", mounts=mounts)
        assert attempt.result == "probe\n"

    @needs("mount.sysfs")
    def test_sysfs(self) -> None:
        mounts = [{"type": "sysfs", "source": "sysfs", "destination": "/data", "options": ["ro", "nosuid"]}]
        mount = self.report(mounts=mounts).mounts["/data"]
        assert mount.type == "sysfs" and "ro" in mount.options

    @needs("mount.devpts")
    def test_devpts(self) -> None:
        mounts = [
            {"type": "devpts", "source": "devpts", "destination": "/data", "options": ["newinstance", "ptmxmode=0666"]}
        ]
        done = self.run("list /data", mounts=mounts)
        assert done.stdout.strip() == b'{"entries":["ptmx"]}'

    @needs("mount.mqueue")
    def test_mqueue(self) -> None:
        mounts = [{"type": "mqueue", "source": "mqueue", "destination": "/data"}]
        assert self.report(mounts=mounts).mounts["/data"].type == "mqueue"

    @needs("mount.cgroup")
    def test_cgroup(self) -> None:
        mounts = [{"type": "cgroup", "source": "cgroup", "destination": "/data", "options": ["ro", "nosuid"]}]
        report = self.report(mounts=mounts)
        types = {mount.type for point, mount in report.mounts.items() if point.startswith("/data")}
        assert types & {"cgroup", "cgroup2"}

    @needs("mount.cgroup")
    def test_cgroup_shows_its_own_part_only(self) -> None:
        mounts = [{"type": "cgroup", "source": "cgroup", "destination": "/data", "options": ["ro"]}]
        points = [p for p, m in self.report(mounts=mounts).mounts.items() if m.type in ("cgroup", "cgroup2")]
        for point in points:
            listed = self.output(["list", point], mounts=mounts).decode()
            assert "execdrivers" not in listed and "process_api" not in listed and "system.slice" not in listed

    @needs("mount.overlay")
    def test_overlay(self) -> None:
        lower, upper, work = (self.tmp / name for name in ("lower", "upper", "work"))
        for path in (lower, upper, work):
            path.mkdir()
        (lower / "file").write_text("lower")
        options = [f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}"]
        mounts = [{"type": "overlay", "source": "overlay", "destination": "/data", "options": options}]
        attempts = self.attempts("read /data/file", "put /data/file upper", mounts=mounts)
        assert attempts[0].result == "lower" and attempts[1].ok
        assert (upper / "file").read_text() == "upper" and (lower / "file").read_text() == "lower"

    @needs("mount.replace-defaults")
    def test_nothing_but_what_the_spec_lists(self) -> None:
        container = self.start_ready(default_mounts=False)
        with open(f"/proc/{self.first_process(container)}/mountinfo") as file:
            points = [line.split()[4] for line in file]
        assert points == ["/"] or not set(points) & {"/proc", "/dev", "/sys"}

    @needs("mount.replace-defaults", "mount.proc")
    def test_only_proc(self) -> None:
        mounts = [{"type": "proc", "source": "proc", "destination": "/proc"}]
        report = self.report(default_mounts=False, mounts=mounts)
        assert {point for point in report.mounts if not point.startswith("/proc/")} == {"/", "/proc"}

    # --- a rootfs that means harm

    @needs("mount.tmpfs")
    @pytest.mark.parametrize("target", ["/", "../../../../../..", "/proc/1/root", "/proc/self/cwd"])
    def test_destination_through_a_link_stays_inside(self, target: str) -> None:
        """It is mounted inside, or refused; the host's directory stays as it is."""
        outside = self.tmp / "outside"
        outside.mkdir()
        rootfs = self.own_rootfs()
        (rootfs / "evil").symlink_to(target)
        (rootfs / str(outside).lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        mounts = [{"type": "tmpfs", "destination": f"/evil{outside}/below"}]
        try:
            self.run("say x", rootfs=rootfs, mounts=mounts)
        except (SpecError, LaunchError):
            pass
        assert os.listdir(outside) == []

    @needs("mount.bind")
    def test_destination_link_to_a_file_of_the_host_is_not_followed(self) -> None:
        victim = self.tmp / "victim"
        victim.write_text("precious")
        rootfs = self.own_rootfs()
        (rootfs / "etc/evil").symlink_to(victim)
        try:
            self.run("put /etc/evil broken", rootfs=rootfs, mounts=[bind(self.source() / "file", "/etc/evil")])
        except (SpecError, LaunchError):
            pass
        assert victim.read_text() == "precious"

    @needs("mount.tmpfs")
    def test_link_inside_the_rootfs_is_followed(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "var/run").symlink_to("/run")
        (rootfs / "run/app").mkdir()
        mounts = [{"type": "tmpfs", "destination": "/var/run/app"}]
        assert "/run/app" in self.report(rootfs=rootfs, mounts=mounts).mounts
