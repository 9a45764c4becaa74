"""Capabilities and no_new_privileges: the sets as the kernel has them, and what they allow."""

from __future__ import annotations

from typing import Any

import pytest

from execdrivers import defaults
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit
from execdrivers.testing.program import Report

__all__ = ["TestCapabilities"]

_ASKED = {"capabilities": {"drop": ["ALL"]}}
_ALL_SETS = ("effective", "permitted", "inheritable", "bounding", "ambient")
_NNP_ASKED = {"no_new_privileges": True}


class TestCapabilities(Kit):
    """Docker's list by default, changed by name, or exact sets."""

    @needs("capabilities", asked=_ASKED)
    def test_default_is_no_more_than_dockers(self) -> None:
        report = self.by_default()
        for kind in ("effective", "permitted", "bounding"):
            assert report.capabilities(kind) <= set(defaults.CAPABILITIES), kind
        assert not report.capabilities("ambient")
        assert not report.capabilities("inheritable")

    @needs("capabilities")
    def test_drop_all(self) -> None:
        report = self.report(capabilities={"drop": ["ALL"]})
        assert {kind: report.capabilities(kind) for kind in _ALL_SETS} == dict.fromkeys(_ALL_SETS, frozenset())

    @needs("capabilities")
    @pytest.mark.parametrize("name", ["CHOWN", "NET_RAW", "SETUID", "MKNOD"])
    def test_drop_one(self, name: str) -> None:
        report = self.report(capabilities={"drop": [name]})
        expected = set(defaults.CAPABILITIES) - {f"CAP_{name}"}
        for kind in ("effective", "permitted", "bounding"):
            assert report.capabilities(kind) == expected, kind

    @needs("capabilities")
    @pytest.mark.parametrize("name", ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "IPC_LOCK"])
    def test_add_one(self, name: str) -> None:
        if not host.capable(f"CAP_{name}"):
            host.lacking(f"CAP_{name}")
        report = self.report(capabilities={"add": [name]})
        for kind in ("effective", "permitted", "bounding"):
            assert report.capabilities(kind) == {*defaults.CAPABILITIES, f"CAP_{name}"}, kind

    @needs("capabilities")
    def test_only_one(self) -> None:
        report = self.report(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]})
        for kind in ("effective", "permitted", "bounding"):
            assert report.capabilities(kind) == {"CAP_NET_BIND_SERVICE"}, kind

    @needs("capabilities")
    def test_all_is_what_there_is(self) -> None:
        report = self.report(capabilities={"add": ["ALL"]})
        for kind in ("effective", "permitted"):
            assert {*defaults.CAPABILITIES} <= report.capabilities(kind)

    @needs("capabilities")
    def test_exact_sets(self) -> None:
        sets = {
            "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_FOWNER"],
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        }
        report = self.report(capabilities=sets)
        assert report.capabilities("bounding") == set(sets["bounding"])
        # execve(2) by root takes from the bounding and inheritable sets, whatever was permitted before.
        assert report.capabilities("permitted") <= set(sets["bounding"])
        assert report.capabilities("inheritable") == set(sets["inheritable"])

    @needs("capabilities", "user")
    def test_ambient_for_another_user(self) -> None:
        sets = dict.fromkeys(_ALL_SETS, ("CAP_NET_BIND_SERVICE", "CAP_KILL"))
        report = self.report(capabilities=sets, user="1000:1000")
        for kind in _ALL_SETS:
            assert report.capabilities(kind) == {"CAP_NET_BIND_SERVICE", "CAP_KILL"}, kind

    @needs("capabilities", "user")
    def test_another_user_keeps_the_bounding_set_only(self) -> None:
        report = self.report(user="1000:1000", capabilities={"drop": ["CHOWN"]})
        assert not report.capabilities("effective") and not report.capabilities("permitted")
        assert report.capabilities("bounding") == set(defaults.CAPABILITIES) - {"CAP_CHOWN"}

    @needs("capabilities")
    def test_as_the_host_sees_it(self) -> None:
        container = self.start_ready(capabilities={"drop": ["ALL"], "add": ["KILL"]})
        status = host.status(self.first_process(container))
        assert {status[key] for key in ("CapEff", "CapPrm", "CapBnd")} == {f"{1 << 5:016x}"}

    @needs("capabilities", "other-users", asked=_ASKED)
    def test_what_a_dropped_one_would_allow_is_denied(self) -> None:
        rootfs = self.own_rootfs()
        commands = ["chown /data 1", "chroot /tmp", "rawsocket", "mknod /data/node c 1 3", "setuid 5"]
        denied = self.attempts(*commands, rootfs=rootfs, capabilities={"drop": ["ALL"]})
        assert {attempt.command: attempt.errno for attempt in denied} == {
            "chown": "EPERM", "chroot": "EPERM", "rawsocket": "EPERM", "mknod": "EPERM", "setuid": "EPERM",
        }  # fmt: skip
        allowed = self.attempts("chown /data 1", "chown /data 0", "rawsocket", "setuid 5", rootfs=rootfs)
        assert [attempt.errno for attempt in allowed] == [""] * 4

    @needs("capabilities", "namespace.mount", asked=_ASKED | {"namespaces": {"mount": "private"}})
    def test_mount_takes_sys_admin(self) -> None:
        if not host.capable("CAP_SYS_ADMIN"):
            host.lacking("CAP_SYS_ADMIN")
        options = {"capabilities": {"add": ["SYS_ADMIN"]}, "seccomp": self.unconfined(), **self.no_apparmor()}
        assert self.attempt("mount", "none", "/tmp", "tmpfs", **options).ok
        assert self.attempt("mount", "none", "/tmp", "tmpfs").errno in ("EPERM", "EACCES")

    def unconfined(self) -> str | None:
        """Of seccomp, for drivers that filter by default."""
        return "unconfined" if "seccomp" in self.features else None

    def no_apparmor(self) -> dict[str, str]:
        """The same of AppArmor."""
        return {"apparmor_profile": "unconfined"} if "apparmor" in self.features else {}

    # --- no_new_privileges

    @needs("no-new-privileges", asked=_NNP_ASKED)
    def test_no_new_privileges_by_default(self) -> None:
        assert self.by_default()["no_new_privs"] == 1

    @needs("no-new-privileges")
    def test_no_new_privileges(self) -> None:
        container = self.start_ready(no_new_privileges=True)
        assert host.status(self.first_process(container))["NoNewPrivs"] == "1"

    @needs("no-new-privileges", "user")
    def test_a_setuid_program_gains_nothing(self) -> None:
        report = self._of_setuid_program(no_new_privileges=True)
        assert report["uid"][1] == 1000 and not report.capabilities("effective")

    @needs("no-new-privileges", "user", "other-users", asked=_NNP_ASKED | {"user": "1000"})
    def test_privileges_where_they_are_allowed(self) -> None:
        report = self._of_setuid_program(no_new_privileges=False)
        assert report["no_new_privs"] == 0
        assert report["uid"][1] == 0

    def _of_setuid_program(self, **options: Any) -> Report:
        rootfs = self.own_rootfs()
        (rootfs / "bin/gain").write_bytes((rootfs / "bin/probe").read_bytes())
        (rootfs / "bin/gain").chmod(0o4755)
        options["rootfs"] = rootfs
        return self.report(args=["/bin/gain", "report"], user="1000:1000", **options)
