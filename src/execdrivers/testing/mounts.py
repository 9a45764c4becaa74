"""Mounts of the spec: each type, their options, and destinations that a hostile rootfs has prepared."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from execdrivers import LaunchError, SpecError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Kit

__all__ = ["TestMounts"]


def bind(source: Path | str, destination: str = "/data", *options: str) -> dict[str, Any]:
    """A bind mount."""
    return {"type": "bind", "source": str(source), "destination": destination, "options": list(options)}


class TestMounts(Kit):
    """What the spec says is mounted, where it says, and nowhere else."""

    def source(self) -> Path:
        """A directory of the host with a file in it."""
        path = self.tmp / "source"
        path.mkdir()
        (path / "file").write_text("hello")
        return path

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

    @needs("mount.bind", "mount.recursive")
    def test_rbind_brings_what_is_mounted_below(self) -> None:
        source = self.source()
        with self.mounted(source / "below"):
            with_it = self.attempt("read", "/data/below/inner", mounts=[bind(source, "/data", "rbind")])
            without = self.attempt("read", "/data/below/inner", mounts=[bind(source, "/data", "bind")])
        assert (with_it.result, without.errno) == ("inner", "ENOENT")

    @needs("mount.bind", "mount.recursive")
    def test_rro_holds_below(self) -> None:
        source = self.source()
        with self.mounted(source / "below"):
            mounts = [bind(source, "/data", "rbind", "rro")]
            attempts = self.attempts("write /data/x y", "write /data/below/x y", mounts=mounts)
        assert [attempt.errno for attempt in attempts] == ["EROFS", "EROFS"]

    @needs("mount.bind", "mount.recursive", "mount.tmpfs")
    def test_rro_does_not_hold_for_what_is_mounted_on_it(self) -> None:
        source = self.source()
        (source / "below").mkdir(exist_ok=True)
        mounts = [
            bind(source, "/data", "rbind", "ro", "rro"),
            {"type": "tmpfs", "destination": "/data/below", "options": ["noexec"]},
            bind(self.tmp, "/data/below/bound", "bind"),
        ]
        words = ("write /data/x y", "write /data/below/x y", "write /data/below/bound/x y")
        attempts = self.attempts(*words, mounts=mounts)
        assert [attempt.errno for attempt in attempts] == ["EROFS", "", ""]

    @needs("mount.bind", "mount.propagation")
    @pytest.mark.parametrize("kind", ["private", "rprivate", "rslave", "rshared"])
    def test_propagation(self, kind: str) -> None:
        seen = self.report(mounts=[bind(self.source(), "/data", "rbind" if kind[0] == "r" else "bind", kind)]).mounts[
            "/data"
        ]
        assert ("shared" in seen.propagation) == ("shared" in kind)

    @contextmanager
    def on_the_host(self, path: Path, *options: str) -> Iterator[Path]:
        """A tmpfs of the host that has a propagation of its own, with what is mounted below it later."""
        with self.mounted(path):
            subprocess.run(["mount", *options, path], check=True)
            (path / "late").mkdir()
            yield path

    def finds(self, place: Path, path: str, **fields: Any) -> bool:
        """Whether a container that runs already finds at ``path`` what the host then mounts at ``place``."""
        container = self.start("say ready", "line", f"read {path}", **fields)
        assert host.read_line(container.stdout) == "ready"
        with self.mounted(place):
            out, _ = container.communicate(b"\n", timeout=TIMEOUT)
        return b'"result":"inner"' in (out or b"")

    @needs("mount.bind", "mount.propagation")
    @pytest.mark.parametrize(("kind", "told"), [("rprivate", False), ("slave", True), ("rslave", True)])
    def test_what_the_host_mounts_later(self, kind: str, told: bool) -> None:
        with self.on_the_host(self.tmp / "shared", "--make-shared") as path:
            assert self.finds(path / "late", "/data/late/inner", mounts=[bind(path, "/data", "rbind", kind)]) == told

    @needs("mount.bind")
    def test_what_the_host_mounts_later_is_not_seen_by_default(self) -> None:
        with self.on_the_host(self.tmp / "shared", "--make-shared") as path:
            assert not self.finds(path / "late", "/data/late/inner", mounts=[bind(path)])

    @needs("mount.bind", "mount.propagation", "capabilities")
    @pytest.mark.parametrize(("kind", "sent"), [("rprivate", False), ("rslave", False), ("rshared", True)])
    def test_what_the_container_mounts_later(self, kind: str, sent: bool) -> None:
        mounts = [bind(self.tmp / "shared", "/data", "rbind", kind)]
        with self.on_the_host(self.tmp / "shared", "--make-shared") as path:
            container = self.start_ready(
                "mount tmpfs /data/late tmpfs",
                "sleep",
                mounts=mounts,
                capabilities={"add": ["SYS_ADMIN"]},
                apparmor_profile="unconfined",
            )
            assert b'"errno":0' in host.read_line(container.stdout).encode()
            assert os.path.ismount(path / "late") == sent
            container.delete(force=True)

    @needs("rootfs.propagation")
    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("private", set()),
            ("rslave", {"master"}),
            ("shared", {"master", "shared"}),
            ("unbindable", {"unbindable"}),
        ],
    )
    def test_propagation_of_the_root(self, kind: str, expected: set[str]) -> None:
        rootfs = self.own_rootfs()
        with self.bound(rootfs):
            assert self.report(rootfs=rootfs, rootfs_propagation=kind).mounts["/"].propagation == expected
            found = self.finds(rootfs / "srv", "/srv/inner", rootfs=rootfs, rootfs_propagation=kind)
        assert found == ("master" in expected)

    @contextmanager
    def bound(self, path: Path) -> Iterator[None]:
        """Bound onto itself, and shared: what is mounted below it is told to whoever has it."""
        if not host.capable("CAP_SYS_ADMIN"):
            host.lacking("CAP_SYS_ADMIN")
        subprocess.run(["mount", "--bind", path, path], check=True)
        try:
            subprocess.run(["mount", "--make-private", path], check=True)
            subprocess.run(["mount", "--make-shared", path], check=True)
            yield
        finally:
            subprocess.run(["umount", "-l", path], check=True)

    @needs("mount.bind", "mount.tmpfs")
    @pytest.mark.parametrize("option", ["noatime", "relatime", "nodiratime"])
    def test_access_times(self, option: str) -> None:
        self.need_unlocked_access_times()
        mounts = [bind(self.source(), "/data", option), {"type": "tmpfs", "destination": "/srv", "options": [option]}]
        found = self.report(mounts=mounts).mounts
        assert option in found["/data"].options and option in found["/srv"].options

    @needs("mount.bind", "mount.tmpfs")
    def test_strict_access_times(self) -> None:
        self.need_unlocked_access_times()
        options = ["noatime", "strictatime"]  # the last one counts
        mounts = [bind(self.source(), "/data", *options), {"type": "tmpfs", "destination": "/srv", "options": options}]
        found = self.report(mounts=mounts).mounts
        for place in ("/data", "/srv"):
            assert not found[place].options & {"noatime", "relatime"}

    def need_unlocked_access_times(self) -> None:
        """In a user namespace those of the host's mounts stay as they are: mount_namespaces(7)."""
        if not host.capable("CAP_SYS_ADMIN"):
            host.lacking("CAP_SYS_ADMIN")

    @needs("mount.bind", "mount.recursive")
    @pytest.mark.parametrize("option", ["rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnodiratime"])
    def test_recursive_attributes_of_a_deep_tree(self, option: str) -> None:
        source = self.source()
        with self.mounted(source / "a"), self.mounted(source / "a/b"), self.mounted(source / "a/b/c"):
            found = self.report(mounts=[bind(source, "/data", "rbind", option)]).mounts
        for place in ("/data", "/data/a", "/data/a/b", "/data/a/b/c"):
            assert option[1:] in found[place].options, place

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

    @needs("mount.tmpfs", "mount.tmpcopyup")
    def test_tmpfs_filled_with_what_it_covers(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "data/below").write_text("copied")
        mounts = [{"type": "tmpfs", "destination": "/data", "options": ["tmpcopyup"]}]
        attempts = self.attempts("read /data/below", "write /data/new x", rootfs=rootfs, mounts=mounts)
        assert (attempts[0].result, attempts[1].errno) == ("copied", "")
        assert os.listdir(rootfs / "data") == ["below"]

    def covered(self) -> Path:
        """A rootfs with a directory of all kinds of things, /data."""
        if not host.capable("CAP_CHOWN"):
            host.lacking("CAP_CHOWN")
        rootfs = self.own_rootfs()
        data = rootfs / "data"
        (data / "deep/er").mkdir(parents=True)
        (data / "deep").chmod(0o2750)
        (data / "deep/er/file").write_text("x" * 100_000)
        (data / "deep/er/file").chmod(0o4711)
        (data / "empty").mkdir(mode=0o700)
        (data / "link").symlink_to("/etc/passwd")
        (data / "broken").symlink_to("../../../../nowhere")
        os.mkfifo(data / "fifo", 0o640)
        os.chown(data / "deep/er/file", 1000, 100)
        os.chmod(data / "deep/er/file", 0o4711)
        os.lchown(data / "link", 1, 2)
        os.chown(data, 7, 8)
        os.chmod(data, 0o751)
        for place in (data / "deep/er/file", data / "deep", data):
            os.utime(place, (1_000_000_000, 1_100_000_000))
        return rootfs

    @needs("mount.tmpfs", "mount.tmpcopyup")
    def test_copies_keep_what_they_have(self) -> None:
        rootfs = self.covered()
        places = ("", "/deep", "/deep/er", "/deep/er/file", "/empty", "/link", "/broken", "/fifo")
        mounts = [{"type": "tmpfs", "destination": "/data", "options": ["tmpcopyup"]}]

        def look(**more: Any) -> list[dict[str, Any]]:
            out = self.output(*(f"stat /data{place}" for place in places), rootfs=rootfs, **more)
            found = [json.loads(line) for line in out.splitlines()]
            # What a directory takes is the file system's affair.
            return [{**node, "size": None} if stat.S_ISDIR(node["type"]) else node for node in found]

        assert look(mounts=mounts) == look()
        assert self.attempt("read", "/data/deep/er/file", rootfs=rootfs, mounts=mounts).result == "x" * 100_000

    @needs("mount.tmpfs", "mount.tmpcopyup")
    def test_what_is_copied_is_bounded(self) -> None:
        rootfs = self.covered()
        mounts = [{"type": "tmpfs", "destination": "/data", "options": ["tmpcopyup", "size=64k"]}]
        with pytest.raises(LaunchError):
            self.run("say x", rootfs=rootfs, mounts=mounts)

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
