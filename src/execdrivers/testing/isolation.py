"""What a hostile process tries in a container that was made with no word about security."""

from __future__ import annotations

import os

import pytest

from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestIsolation"]

#: A driver that has these contains by default; one that lacks them (chroot) says so by refusing to be asked.
_CONTAINING = ("namespace.pid", "namespace.mount", "capabilities")
_ASKED = {"namespaces": {"pid": "private", "mount": "private"}, "capabilities": {"drop": ["ALL"]}}

_NEW_NAMESPACES = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "pid": 0x20000000, "network": 0x40000000}


class TestIsolation(Kit):
    """Secure by default: each of these is denied to root in the container."""

    @needs(*_CONTAINING, asked=_ASKED)
    @pytest.mark.parametrize(
        "command",
        [
            "mount none /tmp tmpfs",
            "mount /proc /data none 4096",
            "umount /proc",
            "settime",
            "sethostname kit-denied",
            "nice -5",
            "rlimit NOFILE 100000000 100000000",
            "ptrace 1",
        ],
    )
    def test_denied(self, command: str) -> None:
        assert self.attempt(*command.split()).errno in ("EPERM", "EACCES", "EROFS", "EINVAL", "ENOSYS")

    @needs(*_CONTAINING, asked=_ASKED)
    @pytest.mark.parametrize("kind", _NEW_NAMESPACES)
    def test_no_new_namespaces(self, kind: str) -> None:
        assert self.attempt("unshare", str(_NEW_NAMESPACES[kind])).errno in ("EPERM", "ENOSYS")

    @needs(*_CONTAINING, asked=_ASKED)
    def test_no_kernel_modules_no_reboot_no_swap(self) -> None:
        import platform

        numbers = {"x86_64": (175, 169, 167, 246), "aarch64": (105, 142, 224, 104)}.get(platform.machine())
        if numbers is None:
            host.lacking("a machine whose system calls the kit knows")
        # init_module, reboot with a bad magic, swapon, kexec_load: all with arguments that would fail anyway.
        assert numbers is not None
        attempts = self.attempts(*(["syscall", str(number), "0", "0", "0"] for number in numbers))
        assert {attempt.errno for attempt in attempts} <= {"EPERM", "ENOSYS"}, attempts

    @needs(*_CONTAINING, asked=_ASKED)
    @pytest.mark.parametrize(
        "path",
        [
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sysrq-trigger",
            "/proc/irq/default_smp_affinity",
            "/sys/kernel/uevent_helper",
            "/sys/power/state",
        ],
    )
    def test_kernel_files_cannot_be_written(self, path: str) -> None:
        assert self.attempt("open", path, "w").errno in ("EROFS", "EACCES", "EPERM", "ENOENT")

    @needs(*_CONTAINING, asked=_ASKED)
    @pytest.mark.parametrize("path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"])
    def test_kernel_secrets_cannot_be_read(self, path: str) -> None:
        attempt = self.attempt("read", path, "64")
        assert attempt.errno or not attempt.result

    @needs(*_CONTAINING, asked=_ASKED)
    def test_the_host_is_not_reached_through_proc(self) -> None:
        for path in ("/proc/1/root/proc/1/root/etc/hostname", "/proc/self/root/../etc/hostname"):
            assert self.attempt("read", path).result in ("kit\n", None)

    @needs(*_CONTAINING, asked=_ASKED)
    def test_files_of_the_host_are_not_reached_by_descriptor(self) -> None:
        """As in CVE-2024-21626: no descriptor of the runtime's is left open, none is the working directory."""
        report = self.by_default()
        assert sorted(report["fds"]) == ["0", "1", "2"]
        attempts = self.attempts(*(["chdir", f"/proc/self/fd/{number}"] for number in range(3, 20)))
        assert not [attempt for attempt in attempts if attempt.ok]

    @needs(*_CONTAINING, asked=_ASKED)
    def test_the_executable_of_the_first_process_cannot_be_overwritten(self) -> None:
        """As in CVE-2019-5736."""
        options = {"init": True} if "init" in self.features else {}
        attempt = self.attempt("open", "/proc/1/exe", "w", **options)
        assert attempt.errno in ("ETXTBSY", "EACCES", "EPERM", "EROFS", "ENOENT")

    @needs(*_CONTAINING, asked=_ASKED)
    def test_the_caller_is_not_seen(self) -> None:
        environ = self.attempt("read", f"/proc/{os.getpid()}/environ")
        assert environ.errno == "ENOENT" or not (environ.result or "").count("PYTEST")

    @needs(*_CONTAINING, "init", asked=_ASKED | {"init": True})
    def test_the_parent_does_not_show_the_callers_environment(self) -> None:
        attempt = self.attempt("read", "/proc/1/environ", init=True)
        assert "PYTEST_CURRENT_TEST" not in (attempt.result or "")

    @needs("namespace.user", asked={"namespaces": {"user": "private"}})
    def test_own_user_namespace(self) -> None:
        inodes = host.namespaces(self.first_process(self.start_ready(namespaces={"user": "private"})))
        assert inodes["user"] != host.namespaces()["user"]
