"""Users by name and number, from a root filesystem that may be hostile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from execdrivers.errors import SpecError
from execdrivers.users import MAX_FILE, User, open_in_root, resolve

PASSWD = """\
# a comment
root:x:0:0:root:/root:/bin/sh
broken:x:zero:0::/:
alice:x:1000:100:Alice,,,:/home/alice:/bin/sh
homeless:x:1001:100:::
"""
GROUP = """\
root:x:0:
users:x:100:bob
audio:x:29:alice,bob
video:x:44:alice
bad:x:many:alice
"""


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, User(uid=0, gid=0, home="/root", name="root")),
        ("alice", User(uid=1000, gid=100, groups=(29, 44), home="/home/alice", name="alice")),
        ("1000", User(uid=1000, gid=100, groups=(29, 44), home="/home/alice", name="alice")),
        ("alice:video", User(uid=1000, gid=44, home="/home/alice", name="alice")),
        ("alice:7", User(uid=1000, gid=7, home="/home/alice", name="alice")),
        ("5:audio", User(uid=5, gid=29)),
        ("5", User(uid=5, gid=0)),
        ("5:6", User(uid=5, gid=6)),
        ("homeless", User(uid=1001, gid=100, name="homeless")),
    ],
)
def test_found(rootfs: str, user: str | None, expected: User) -> None:
    assert resolve(user, rootfs) == expected


def test_a_number_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("1000:x:0:0::/:\n")
    (tmp_path / "etc/group").write_text("5:x:0:\n")
    assert resolve("1000:5", str(tmp_path)) == User(uid=1000, gid=5)


def test_given_groups_are_exact(rootfs: str) -> None:
    assert resolve("alice", rootfs, (1, 2)).groups == (1, 2)
    assert resolve("alice", rootfs, ()).groups == ()


@pytest.mark.parametrize("user", ["bob", "alice:nobody", "broken"])
def test_unknown(rootfs: str, user: str) -> None:
    with pytest.raises(SpecError, match=r"use a numeric [ug]id") as caught:
        resolve(user, rootfs)
    assert caught.value.field == "user"


def test_without_files(tmp_path: Path) -> None:
    assert resolve(None, str(tmp_path)) == User(uid=0, gid=0)
    assert resolve("7:8", str(tmp_path)) == User(uid=7, gid=8)
    with pytest.raises(SpecError):
        resolve("alice", str(tmp_path))


def test_without_a_rootfs() -> None:
    assert resolve(None, None) == User(uid=65534, gid=65534)
    assert resolve("root", None).uid == 0


class TestHostileRoot:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/passwd").write_text("evil:x:0:0::/:\n")
        return tmp_path / "outside"

    @pytest.fixture
    def root(self, tmp_path: Path, outside: Path) -> Path:
        root = tmp_path / "root"
        (root / "etc").mkdir(parents=True)
        return root

    @pytest.mark.parametrize("target", ["{outside}/passwd", "../../outside/passwd", "/../../outside/passwd"])
    def test_links_out_lead_nowhere(self, root: Path, outside: Path, target: str) -> None:
        (root / "etc/passwd").symlink_to(target.format(outside=outside))
        with pytest.raises(SpecError, match="is not in"):
            resolve("evil", str(root))

    def test_directory_link_out_leads_nowhere(self, root: Path, outside: Path) -> None:
        (root / "etc").rmdir()
        (root / "etc").symlink_to(outside)
        with pytest.raises(SpecError, match="is not in"):
            resolve("evil", str(root))

    def test_links_inside_are_followed(self, root: Path) -> None:
        (root / "usr/share").mkdir(parents=True)
        (root / "usr/share/passwd").write_text("alice:x:5:6::/:\n")
        (root / "etc/there").symlink_to("../usr/./share")
        (root / "etc/passwd").symlink_to("/etc/there/passwd")
        assert resolve("alice", str(root)) == User(uid=5, gid=6, name="alice")

    def test_loops_and_special_files_are_refused(self, root: Path) -> None:
        passwd = root / "etc/passwd"
        passwd.symlink_to("passwd")
        with pytest.raises(SpecError, match="unusable /etc/passwd"):
            resolve("alice", str(root))
        passwd.unlink()
        os.mkfifo(passwd)
        with pytest.raises(SpecError, match="not a regular file"):
            resolve("alice", str(root))
        passwd.unlink()
        passwd.mkdir()
        with pytest.raises(SpecError, match="not a regular file"):
            resolve("alice", str(root))

    def test_huge_file_is_refused(self, root: Path) -> None:
        with open(root / "etc/passwd", "wb") as file:
            file.truncate(MAX_FILE + 1)
        with pytest.raises(SpecError, match="more than"):
            resolve("alice", str(root))

    def test_binary_file_and_endless_names_do_no_harm(self, root: Path) -> None:
        (root / "etc/passwd").write_bytes(os.urandom(5000) + b"\nalice:x:5:6::/:\n")
        assert resolve("alice", str(root)).uid == 5

    def test_nothing_stays_open(self, root: Path) -> None:
        (root / "etc/passwd").write_text(PASSWD)
        before = len(os.listdir("/proc/self/fd"))
        os.close(open_in_root(str(root), "etc/passwd"))
        with pytest.raises(OSError, match="not a regular file"):
            open_in_root(str(root), "etc")
        with pytest.raises(FileNotFoundError):
            open_in_root(str(root), "etc/none")
        with pytest.raises(NotADirectoryError):
            open_in_root(str(root), "etc/passwd/x")
        assert len(os.listdir("/proc/self/fd")) == before
