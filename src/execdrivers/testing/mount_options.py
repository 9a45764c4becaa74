"""Options of mounts: what they are told of the host's, attributes, access times, copies of what a tmpfs covers."""

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

from execdrivers import LaunchError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT
from execdrivers.testing.mounts import MountKit, bind

__all__ = ["TestMountOptions"]


class TestMountOptions(MountKit):
    """Each option has the effect that mount(8) and mount_setattr(2) tell."""

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
