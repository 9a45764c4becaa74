"""Device nodes: the standard ones, those of the spec, and those that a container makes for itself."""

from __future__ import annotations

import stat
from typing import Any

import pytest

from execdrivers import defaults
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit

__all__ = ["TestDevices"]

_PRIVATE = {"namespaces": {"mount": "private"}}


class TestDevices(Kit):
    """/dev as OCI has it, and nothing that leads to the host's devices."""

    @needs("namespace.mount", asked=_PRIVATE)
    def test_standard_nodes(self) -> None:
        nodes = self.by_default()["dev"]
        for device in defaults.DEVICES:
            node = nodes[device.path.removeprefix("/dev/")]
            assert stat.S_ISCHR(node["type"])
            assert (node["major"], node["minor"]) == (device.major, device.minor), device.path
            assert node["mode"] == 0o666, device.path

    @needs("namespace.mount", asked=_PRIVATE)
    def test_standard_links(self) -> None:
        nodes = self.by_default()["dev"]
        for path, target in defaults.DEV_LINKS.items():
            if path == "/dev/core":
                continue
            node = nodes.get(path.removeprefix("/dev/"))
            assert node is not None, path
            if path != "/dev/ptmx":
                assert node.get("target") == target, path

    @needs("namespace.mount", asked=_PRIVATE)
    def test_no_other_nodes(self) -> None:
        known = {device.path.removeprefix("/dev/") for device in defaults.DEVICES}
        nodes = self.by_default()["dev"]
        others = {
            name
            for name, node in nodes.items()
            if stat.S_IFMT(node["type"]) in (stat.S_IFCHR, stat.S_IFBLK) and name not in known
        }
        assert not others - {"ptmx", "console"}

    @needs("namespace.mount", asked=_PRIVATE)
    def test_standard_nodes_work(self) -> None:
        attempts = self.attempts(
            "put /dev/null x", "read /dev/null", "read /dev/zero 3", "read /dev/urandom 4", "put /dev/full x"
        )
        assert [attempt.errno for attempt in attempts] == ["", "", "", "", "ENOSPC"]
        assert attempts[1].result == "" and attempts[2].result == "\0\0\0"
        assert len(attempts[3].result or "") == 4 or attempts[3].ok

    @needs("namespace.mount", asked=_PRIVATE)
    def test_shared_memory_is_writable_by_all(self) -> None:
        assert b'"mode":1023' in self.output("stat /dev/shm")

    @needs("namespace.mount", "capabilities", asked=_PRIVATE | {"capabilities": {"drop": ["ALL"]}})
    @pytest.mark.parametrize("place", ["/data", "/dev", "/dev/shm", "/tmp"])
    def test_a_node_made_inside_leads_nowhere(self, place: str) -> None:
        """1:1 is /dev/mem; 7:0 the first loop device."""
        rootfs = self.own_rootfs()
        commands = [f"mknod {place}/mem c 1 1", f"open {place}/mem", f"mknod {place}/loop b 7 0", f"open {place}/loop"]
        attempts = self.attempts(*commands, rootfs=rootfs)
        for made, opened in (attempts[:2], attempts[2:]):
            assert not made.ok or opened.errno in ("EPERM", "EACCES", "ENXIO"), (made, opened)

    @needs("devices")
    def test_a_node_of_the_spec(self) -> None:
        devices = [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "file_mode": 0o640, "uid": 5, "gid": 6}]
        node = self.report(devices=devices)["dev"]["mine"]
        assert stat.S_ISCHR(node["type"]) and (node["major"], node["minor"]) == (1, 3)
        assert (node["mode"], node["uid"], node["gid"]) == (0o640, 5, 6)

    @needs("devices")
    def test_a_node_of_the_spec_works(self) -> None:
        devices = [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "file_mode": 0o666}]
        assert self.attempt("read", "/dev/mine", "2", devices=devices).result == "\0\0"

    @needs("devices")
    def test_a_node_of_the_spec_in_the_place_of_a_standard_one(self) -> None:
        devices = [{"path": "/dev/full", "type": "c", "major": 1, "minor": 5, "file_mode": 0o600}]
        node = self.report(devices=devices)["dev"]["full"]
        assert (node["major"], node["minor"], node["mode"]) == (1, 5, 0o600)

    @needs("devices")
    def test_a_fifo_of_the_spec(self) -> None:
        node = self.report(devices=[{"path": "/dev/pipe", "type": "p", "file_mode": 0o600}])["dev"]["pipe"]
        assert stat.S_ISFIFO(node["type"])

    @needs("devices")
    def test_a_node_in_a_directory_of_its_own(self) -> None:
        devices = [{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "file_mode": 0o666}]
        assert b'"major":10,"minor":200' in self.output("stat /dev/net/tun", devices=devices)

    @needs("devices", "cgroup.devices")
    def test_access_of_a_node(self) -> None:
        devices = [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 11, "file_mode": 0o666, "access": "r"}]
        # It is /dev/kmsg, which takes a capability as well.
        options = {"capabilities": {"add": ["SYSLOG"]}} if "capabilities" in self.features else {}
        attempts = self.attempts("open /dev/mine", "open /dev/mine w", devices=devices, **options)
        assert [attempt.errno for attempt in attempts] == ["", "EPERM"]

    @needs("cgroup.devices")
    def test_rules(self) -> None:
        rules: list[dict[str, Any]] = [
            {"allow": False},
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rw"},
        ]
        options = {"resources": {"devices": rules}}
        rootfs = self.own_rootfs()
        attempts = self.attempts("open /dev/null w", "open /dev/zero", rootfs=rootfs, **options)
        assert all(attempt.ok for attempt in attempts)
        container = self.start_ready(rootfs=rootfs, **options)
        if host.controllers().get("devices") == 1:
            listed = host.cgroup_file(self.first_process(container), "devices", "devices.list", "") or ""
            assert "c 1:11 rw" in listed and "a *:* rwm" not in listed

    @needs("cgroup.devices", "capabilities", asked={"resources": {"devices": [{"allow": True, "type": "b"}]}})
    def test_devices_stay_closed_to_one_that_may_mount(self) -> None:
        """With CAP_SYS_ADMIN no attribute of a mount keeps a container from devices: rules must, unasked."""
        # 1:11 is the kernel's log, which can be opened on every machine.
        options = {"rootfs": self.own_rootfs(), "capabilities": {"add": ["SYS_ADMIN", "SYSLOG"]}}
        commands = ("mknod /data/log c 1 11", "open /data/log", "open /dev/null w")
        made, opened, null = self.attempts(*commands, **options)
        assert (not made.ok or opened.errno == "EPERM") and null.ok, (made, opened, null)
        if made.ok:
            rules = [{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
            again = self.attempts(*commands[1:], "open /data/log w", resources={"devices": rules}, **options)
            assert [attempt.errno for attempt in again] == ["", "", "EPERM"]
