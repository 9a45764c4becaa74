"""The root file system: which, how writable, what becomes of changes; hidden and read-only paths."""

from __future__ import annotations

import os
import subprocess

import pytest

from execdrivers import SpecError, defaults
from execdrivers.testing import host
from execdrivers.testing.declaration import tree
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit
from execdrivers.testing.program import Report

__all__ = ["TestFilesystem"]

_SHARED_MOUNTS = {"namespaces": {"mount": "private"}}


class TestFilesystem(Kit):
    """What the process sees at / and may do there."""

    @needs("rootfs")
    def test_the_root_is_the_rootfs(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "mark").touch()
        assert sorted(self.report(rootfs=rootfs)["root"]) == sorted(os.listdir(rootfs))

    @needs("rootfs")
    def test_nothing_is_above_the_root(self) -> None:
        attempts = self.attempts("read /../../../../../../../../etc/hostname", "chdir ..", "read etc/hostname")
        assert [attempt.result for attempt in attempts] == ["kit\n", None, "kit\n"]

    @needs("rootfs")
    def test_links_lead_inside(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "away").symlink_to("/etc/hostname")
        (rootfs / "up").symlink_to("../../../../../../etc/hostname")
        attempts = self.attempts("read /away", "read /up", rootfs=rootfs)
        assert [attempt.result for attempt in attempts] == ["kit\n"] * 2

    @needs("rootfs")
    def test_the_rootfs_by_a_link(self) -> None:
        (self.tmp / "link").symlink_to(self.rootfs)
        assert "bin" in self.report(rootfs=self.tmp / "link")["root"]

    @needs("rootfs")
    def test_the_rootfs_by_an_odd_path(self) -> None:
        for name in ("with space", "grün", "a=b#c", "quo'te\"", "com,ma:colon", "back\\slash"):
            rootfs = self.own_rootfs(name)
            assert "bin" in self.report(rootfs=rootfs)["root"], name

    @needs("rootfs")
    def test_it_is_writable(self) -> None:
        rootfs = self.own_rootfs()
        assert all(a.ok for a in self.attempts("write /data/made hello", "mkdir /srv/new", rootfs=rootfs))
        assert (rootfs / "data/made").read_text() == "hello"
        assert (rootfs / "srv/new").is_dir()

    @needs("rootfs")
    def test_it_is_left_as_it_was(self) -> None:
        """A driver may have to mount over directories of the rootfs; it makes none."""
        rootfs = self.own_rootfs()
        before = {path: value[:4] for path, value in tree(rootfs).items()}
        self.run("say x", rootfs=rootfs)
        assert {path: value[:4] for path, value in tree(rootfs).items()} == before

    @needs("rootfs.readonly")
    def test_readonly(self) -> None:
        rootfs = self.own_rootfs()
        attempts = self.attempts("write /data/new x", "put /etc/hostname x", "mkdir /new", rootfs=rootfs, readonly=True)
        assert [attempt.errno for attempt in attempts] == ["EROFS"] * 3
        assert not (rootfs / "data/new").exists()

    @needs("rootfs.readonly", "namespace.mount")
    def test_readonly_as_the_host_sees_it(self) -> None:
        container = self.start_ready(readonly=True)
        assert "ro" in self.mounts_of(self.first_process(container))["/"]

    @needs("rootfs.readonly")
    def test_readonly_leaves_the_hosts_mount_alone(self) -> None:
        rootfs = self.own_rootfs()
        self.run("say x", rootfs=rootfs, readonly=True)
        (rootfs / "data/after").touch()

    @needs("rootfs.readonly", "mount.tmpfs")
    def test_mounts_in_a_readonly_root_are_writable(self) -> None:
        mounts = [{"type": "tmpfs", "destination": "/data"}]
        assert self.attempt("write", "/data/x", "y", readonly=True, mounts=mounts).ok

    @needs("rootfs.ephemeral")
    def test_ephemeral_changes_are_dropped(self) -> None:
        rootfs = self.own_rootfs()
        before = tree(rootfs)
        commands = ["write /etc/hostname new", "write /data/new x", "unlink /etc/group", "read /etc/hostname"]
        attempts = self.attempts(*commands, rootfs=rootfs, ephemeral=True)
        assert all(attempt.ok for attempt in attempts), attempts
        assert attempts[-1].result == "new"
        assert {p: v[:4] for p, v in tree(rootfs).items()} == {p: v[:4] for p, v in before.items()}
        assert (rootfs / "etc/hostname").read_text() == "kit\n"

    @needs("rootfs.ephemeral")
    def test_ephemeral_size(self) -> None:
        attempt = self.attempt("fill", "/data/big", str(3 << 20), ephemeral=True, ephemeral_size="1M")
        assert attempt.errno == "ENOSPC" and 0 < int(attempt.result or 0) <= 1 << 20

    @needs("rootfs.ephemeral")
    def test_ephemeral_changes_are_each_containers_own(self) -> None:
        one = self.start_ready("write /data/mine x", "say wrote", "sleep", ephemeral=True)
        assert '"errno":0' in host.read_line(one.stdout)
        assert self.attempt("read", "/data/mine", ephemeral=True).errno == "ENOENT"

    @needs("rootfs.propagation")
    @pytest.mark.parametrize("kind", ["private", "rslave", "rshared"])
    def test_propagation(self, kind: str) -> None:
        root = self.report(rootfs_propagation=kind).mounts["/"]
        if kind == "private":
            assert not root.propagation & {"shared", "master"}
        elif kind == "rshared":
            assert "shared" in root.propagation

    @needs("rootfs.host")
    def test_without_a_rootfs_the_hosts_files_are_readonly(self) -> None:
        if not os.path.exists("/bin/sh"):
            host.lacking("/bin/sh")
        script = "cat /etc/hostname; id -u; (echo x >/etc/execdrivers-kit) 2>/dev/null && echo wrote; exit 4"
        done = self.run(args=["/bin/sh", "-c", script], rootfs=None, text=True)
        assert done.returncode == 4
        assert not os.path.exists("/etc/execdrivers-kit") and "wrote" not in done.stdout
        with open("/etc/hostname") as file:
            assert file.read().split() == done.stdout.split()[:1]
        # An ordinary user is nobody but himself.
        assert done.stdout.split()[-1] in {"65534", str(os.geteuid() or 65534)}

    @needs("rootfs.host")
    def test_without_a_rootfs_the_hosts_temporary_files_are_not_seen(self) -> None:
        path = self.tmp / "seen"
        path.write_text("x")
        assert self.run(args=["/bin/sh", "-c", f"test -e {path}"], rootfs=None).returncode == 1

    # --- hidden and read-only paths

    @needs("masked-paths", asked={"masked_paths": ["/etc"]})
    def test_masked_by_default(self) -> None:
        for path in defaults.MASKED_PATHS:
            done = self.run("open /proc/self/status", ["list", path], ["read", path, "10"])
            _, listed, read = done.stdout.splitlines()
            entries, attempt = Report.parse(listed)["entries"], Report.parse(read)
            empty = not entries and not attempt["result"]
            assert empty or attempt["errno"], f"{path} is seen"

    @needs("masked-paths")
    def test_masked_file_and_directory(self) -> None:
        rootfs = self.own_rootfs()
        (rootfs / "data/secret").write_text("x")
        masked = ["/data", "/etc/hostname", "/no/such"]
        done = self.run("read /etc/hostname", "read /data/secret", "list /data", rootfs=rootfs, masked_paths=masked)
        hostname, secret, listed = (Report.parse(line) for line in done.stdout.splitlines())
        assert not hostname["result"]
        assert secret["errno"] and not listed["entries"]

    @needs("masked-paths")
    def test_masked_paths_cannot_be_written(self) -> None:
        rootfs = self.own_rootfs()
        self.run("put /etc/hostname changed", "write /data/x y", rootfs=rootfs, masked_paths=["/etc/hostname", "/data"])
        assert (rootfs / "etc/hostname").read_text() == "kit\n"
        assert not (rootfs / "data/x").exists()

    @needs("masked-paths", asked={"masked_paths": ["/etc"]})
    def test_nothing_is_masked_when_told_so(self) -> None:
        mounts = self.report(masked_paths=[]).mounts
        assert not set(mounts) & set(defaults.MASKED_PATHS)

    @needs("readonly-paths", asked={"readonly_paths": ["/etc"]})
    def test_readonly_by_default(self) -> None:
        # Opened only, nothing is written: a driver that fails here must not harm the host.
        paths = [
            "/proc/sys/kernel/core_pattern",
            "/proc/sysrq-trigger",
            "/proc/sys/vm/swappiness",
            "/proc/sys/fs/file-max",
        ]
        attempts = self.attempts(*(["open", path, "w"] for path in paths))
        assert {attempt.errno for attempt in attempts} <= {"EROFS", "EACCES", "EPERM", "ENOENT"}, attempts

    @needs("readonly-paths")
    def test_readonly_paths(self) -> None:
        rootfs = self.own_rootfs()
        commands = ["put /etc/hostname x", "write /etc/new x", "write /data/x y", "write /srv/x y"]
        attempts = self.attempts(*commands, rootfs=rootfs, readonly_paths=["/etc", "/data", "/no/such"])
        assert [attempt.errno for attempt in attempts] == ["EROFS", "EROFS", "EROFS", ""]

    @needs("readonly-paths", "mount.sysfs", asked={"readonly_paths": ["/etc"]})
    def test_sys_is_readonly_by_default(self) -> None:
        mounts = self.by_default().mounts
        assert "/sys" in mounts and "ro" in mounts["/sys"].options

    # --- mounts that every container has

    @needs(
        "namespace.mount", "mount.proc", asked=_SHARED_MOUNTS | {"mounts": [{"type": "proc", "destination": "/proc"}]}
    )
    def test_default_mounts(self) -> None:
        mounts = self.by_default().mounts
        for mount in defaults.MOUNTS:
            seen = mounts.get(mount.destination)
            assert seen is not None and seen.type == mount.type, mount.destination
            assert mount.parse_options().set & {"nosuid", "noexec", "nodev", "ro"} <= seen.options, mount.destination

    @needs(
        "namespace.mount", "mount.proc", asked=_SHARED_MOUNTS | {"mounts": [{"type": "proc", "destination": "/proc"}]}
    )
    def test_no_mount_of_the_host_is_seen(self) -> None:
        report = self.by_default()
        assert report["mountinfo"]
        assert not [point for point in report.mounts if str(self.rootfs) in point or point.startswith("/work")]
        allowed = {"/", "/proc", "/dev", "/sys", *defaults.MASKED_PATHS, *defaults.READONLY_PATHS}
        strangers = [p for p in report.mounts if p not in allowed and not p.startswith(("/dev/", "/sys/", "/proc/"))]
        assert not set(strangers) - {"/run/.containerenv", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}

    @needs("namespace.mount", asked=_SHARED_MOUNTS)
    def test_mounts_of_the_container_are_not_seen_by_the_host(self) -> None:
        container = self.start_ready()
        with open("/proc/self/mountinfo") as file:
            assert not [line for line in file if str(self.rootfs) in line]
        assert self.first_process(container)

    @needs("namespace.mount", asked=_SHARED_MOUNTS)
    def test_mounts_of_the_host_are_not_seen_by_the_container(self) -> None:
        if not host.capable("CAP_SYS_ADMIN"):
            host.lacking("CAP_SYS_ADMIN")
        rootfs = self.own_rootfs()
        container = self.start("say ready", "line", "list /data", rootfs=rootfs)
        assert host.read_line(container.stdout) == "ready"
        subprocess.run(["mount", "-t", "tmpfs", "kit", rootfs / "data"], check=True)
        try:
            (rootfs / "data/late").touch()
            out, _ = container.communicate(b"\n", timeout=20)
        finally:
            subprocess.run(["umount", rootfs / "data"], check=True)
        assert b"late" not in (out or b"")

    def mounts_of(self, pid: int) -> dict[str, frozenset[str]]:
        """Mount point → options, of a process of the host."""
        from execdrivers.testing.program import MountPoint

        with open(f"/proc/{pid}/mountinfo") as file:
            return {mount.point: mount.options for mount in map(MountPoint.parse, file.read().splitlines())}

    def test_rootfs_is_named_by_what_is_wrong(self) -> None:
        with pytest.raises(SpecError) as caught:
            self.run("say x", rootfs=self.tmp / "no-such-directory")
        assert "no-such-directory" in str(caught.value)
