"""Namespaces: which are the container's own by default, by wish, the host's, or joined; and what lives in them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from execdrivers import PIPE
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Kit, args_of
from execdrivers.testing.program import Report

__all__ = ["TestNamespaces"]

#: Kind of the spec → kind in /proc/PID/ns.
_KINDS = {"pid": "pid", "mount": "mnt", "uts": "uts", "ipc": "ipc", "network": "net", "cgroup": "cgroup",
          "user": "user", "time": "time"}  # fmt: skip
_DEFAULT = ("pid", "mount", "uts", "ipc", "network", "cgroup")


def private(*kinds: str) -> dict[str, Any]:
    return {"namespaces": dict.fromkeys(kinds, "private")}


class TestNamespaces(Kit):
    """By the inodes that the host's /proc has, and by what they keep apart."""

    def inodes(self, **options: Any) -> dict[str, int]:
        """Those of a container's first process."""
        return host.namespaces(self.first_process(self.start_ready(**options)))

    def _default(self, kind: str) -> None:
        assert self.inodes()[_KINDS[kind]] != host.namespaces()[_KINDS[kind]]

    @needs("namespace.pid", asked=private("pid"))
    def test_own_pids_by_default(self) -> None:
        self._default("pid")

    @needs("namespace.mount", asked=private("mount"))
    def test_own_mounts_by_default(self) -> None:
        self._default("mount")

    @needs("namespace.uts", asked=private("uts"))
    def test_own_host_name_by_default(self) -> None:
        self._default("uts")

    @needs("namespace.ipc", asked=private("ipc"))
    def test_own_ipc_by_default(self) -> None:
        self._default("ipc")

    @needs("namespace.network", asked=private("network"))
    def test_own_network_by_default(self) -> None:
        self._default("network")

    @needs("namespace.cgroup", asked=private("cgroup"))
    def test_own_view_of_cgroups_by_default(self) -> None:
        self._default("cgroup")

    @needs("namespace.pid")
    def test_private_pid(self) -> None:
        self._private("pid")

    @needs("namespace.mount")
    def test_private_mount(self) -> None:
        self._private("mount")

    @needs("namespace.uts")
    def test_private_uts(self) -> None:
        self._private("uts")

    @needs("namespace.ipc")
    def test_private_ipc(self) -> None:
        self._private("ipc")

    @needs("namespace.network")
    def test_private_network(self) -> None:
        self._private("network")

    @needs("namespace.cgroup")
    def test_private_cgroup(self) -> None:
        self._private("cgroup")

    @needs("namespace.time")
    def test_private_time(self) -> None:
        self._private("time")

    @needs("namespace.user")
    def test_private_user(self) -> None:
        self._private("user")

    def _private(self, kind: str) -> None:
        assert self.inodes(**private(kind))[_KINDS[kind]] != host.namespaces()[_KINDS[kind]]

    @needs("namespace.host.pid")
    def test_host_pid(self) -> None:
        self._host("pid")

    @needs("namespace.host.mount")
    def test_host_mount(self) -> None:
        self._host("mount")

    @needs("namespace.host.uts")
    def test_host_uts(self) -> None:
        self._host("uts")

    @needs("namespace.host.ipc")
    def test_host_ipc(self) -> None:
        self._host("ipc")

    @needs("namespace.host.network")
    def test_host_network_namespace(self) -> None:
        self._host("network")

    @needs("namespace.host.cgroup")
    def test_host_cgroup(self) -> None:
        self._host("cgroup")

    @needs("namespace.host.user")
    def test_host_user(self) -> None:
        self._host("user")

    @needs("namespace.host.time")
    def test_host_time(self) -> None:
        self._host("time")

    def _host(self, kind: str) -> None:
        inodes = self.inodes(namespaces={kind: "host"})
        assert inodes[_KINDS[kind]] == host.namespaces()[_KINDS[kind]]
        others = [other for other in _DEFAULT if other != kind and f"namespace.{other}" in self.features]
        assert not [other for other in others if inodes[_KINDS[other]] == host.namespaces()[_KINDS[other]]]

    @needs("namespace.pid", asked=private("pid"))
    def test_two_containers_share_none(self) -> None:
        one, two = self.inodes(), self.inodes()
        kinds = [_KINDS[kind] for kind in _DEFAULT if f"namespace.{kind}" in self.features]
        assert not [kind for kind in kinds if one[kind] == two[kind]]

    # --- joining

    @contextmanager
    def holder(self, *flags: str) -> Iterator[int]:
        """A process of the host in namespaces of its own."""
        with subprocess.Popen(
            ["unshare", *flags, "sh", "-c", "echo; exec sleep 100"], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            if not process.stdout.readline():
                host.lacking("unshare(1) and the right to use it")
            try:
                yield process.pid
            finally:
                process.kill()

    @needs("namespace.join")
    @pytest.mark.parametrize("kind", ["network", "uts", "ipc"])
    def test_join(self, kind: str) -> None:
        with self.holder("--net", "--uts", "--ipc") as pid:
            inodes = self.inodes(namespaces={kind: f"/proc/{pid}/ns/{_KINDS[kind]}"})
            assert inodes[_KINDS[kind]] == host.namespaces(pid)[_KINDS[kind]]

    @needs("namespace.join", "namespace.pid")
    def test_join_pids_and_end_alone(self) -> None:
        """The first process there goes on, and sees no more of it."""
        if not host.capable("CAP_SYS_ADMIN"):
            host.lacking("CAP_SYS_ADMIN")
        first = self.start_ready("line", "say still here")
        pid = self.first_process(first)
        variable = {"KIT": self.id}
        guest = self.start_ready("spread 2 orphan", "sleep", namespaces={"pid": f"/proc/{pid}/ns/pid"}, env=variable)
        assert host.namespaces(self.first_process(guest))["pid"] == host.namespaces(pid)["pid"]
        host.until(lambda: len(host.with_variable(f"KIT={self.id}")) == 3, "three processes")
        guest.delete(force=True)
        host.until(lambda: not host.with_variable(f"KIT={self.id}"), "all of the guest's ended")
        assert b"still here" in (first.communicate(b"\n")[0] or b"")

    @needs("namespace.join", "exec")
    def test_a_further_process_joins_as_well(self) -> None:
        with self.holder("--net", "--uts") as pid:
            joined = {"network": f"/proc/{pid}/ns/net", "uts": f"/proc/{pid}/ns/uts"}
            container = self.start_ready(namespaces=joined)
            with container.exec(args_of("report"), stdout=PIPE) as process:
                out, _ = process.communicate(timeout=TIMEOUT)
            found, theirs = Report.parse(out or b"")["namespaces"], host.namespaces(pid)
        assert (found["net"], found["uts"]) == (theirs["net"], theirs["uts"])

    @needs("namespace.join")
    def test_join_what_is_no_namespace(self) -> None:
        from execdrivers import LaunchError, SpecError

        with pytest.raises((SpecError, LaunchError)):
            self.run("say x", namespaces={"network": "/etc/passwd"})
        with pytest.raises((SpecError, LaunchError)):
            self.run("say x", namespaces={"network": "/no/such/namespace"})

    # --- pids

    @needs("namespace.pid", "mount.proc", asked=private("pid"))
    def test_processes_of_the_host_are_not_seen(self) -> None:
        report = self.by_default()
        assert report["pid"] == 1 and report.processes == [1]

    @needs("namespace.pid", asked=private("pid"))
    def test_processes_of_the_host_cannot_be_signalled(self) -> None:
        with subprocess.Popen(["sleep", "100"]) as innocent:
            attempt = self.attempt("kill", str(innocent.pid), "9")
            alive = host.alive(innocent.pid)
            innocent.kill()
        assert alive and attempt.errno == "ESRCH"

    @needs("namespace.host.pid", "kill-all")
    def test_in_the_hosts_pids_all_end_all_the_same(self) -> None:
        container = self.start("spread 3 orphan", "say ready", "line", namespaces={"pid": "host"}, env={"KIT": self.id})
        assert host.read_line(container.stdout) == "ready"
        pids = self.all_processes(4)
        container.communicate(b"\n")
        host.until(lambda: not any(map(host.alive, pids)), "all ended")

    # --- names

    @needs("hostname")
    def test_hostname(self) -> None:
        report = self.report(hostname="kit.example")
        assert report["hostname"] == report.env["HOSTNAME"] == "kit.example"
        assert socket.gethostname() != "kit.example"

    @needs("domainname")
    def test_domainname(self) -> None:
        assert self.report(domainname="domain.example")["domainname"] == "domain.example"

    @needs("namespace.uts", asked=private("uts"))
    def test_a_name_of_its_own_by_default(self) -> None:
        assert self.by_default()["hostname"] != socket.gethostname()

    @needs("namespace.uts", "capabilities", asked=private("uts") | {"capabilities": {"drop": ["ALL"]}})
    def test_the_host_name_cannot_be_changed_from_inside(self) -> None:
        before = socket.gethostname()
        assert self.attempt("sethostname", "kit-inside").errno == "EPERM"
        assert socket.gethostname() == before

    # --- ipc

    @needs("namespace.ipc", asked=private("ipc"))
    def test_message_queues_of_the_host_are_not_seen(self) -> None:
        key = 0x6B697400 + os.getpid() % 256
        with self.message_queue(key):
            assert self.attempt("msgget", str(key)).errno == "ENOENT"

    @needs("namespace.host.ipc")
    def test_message_queues_of_the_host_are_seen_when_asked_for(self) -> None:
        key = 0x6B697400 + os.getpid() % 256
        with self.message_queue(key):
            assert self.attempt("msgget", str(key), namespaces={"ipc": "host"}).ok

    @contextmanager
    def message_queue(self, key: int) -> Iterator[None]:
        """One of the host."""
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        number = libc.msgget(key, 0o1600)  # IPC_CREAT
        if number < 0:
            host.lacking("System V message queues")
        try:
            yield
        finally:
            libc.msgctl(number, 0, None)  # IPC_RMID

    # --- network

    @needs("namespace.network", asked=private("network"))
    def test_only_loopback_by_default(self) -> None:
        assert list(self.by_default()["interfaces"]) == ["lo"]

    @needs("network.none")
    def test_loopback_is_up_and_works(self) -> None:
        assert self.report(network="none")["interfaces"] == {"lo": 0x49}
        assert self.attempt("connect", network="none").ok

    @needs("namespace.network", asked=private("network"))
    def test_the_host_cannot_be_reached(self) -> None:
        with self.listener() as (port, name):
            attempts = self.attempts(f"connect {port}", f"connect-abstract {name}")
        assert [attempt.errno for attempt in attempts] == ["ECONNREFUSED"] * 2

    @needs("network.host")
    def test_host_network(self) -> None:
        with self.listener() as (port, name):
            report = self.report(network="host")
            attempts = self.attempts(f"connect {port}", f"connect-abstract {name}", network="host")
        assert set(report["interfaces"]) == set(os.listdir("/sys/class/net"))
        assert all(attempt.ok for attempt in attempts)

    @contextmanager
    def listener(self) -> Iterator[tuple[int, str]]:
        """A TCP port of 127.0.0.1 and an abstract socket of the host."""
        name = f"execdrivers-{self.id}"
        with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as local:
            tcp.bind(("127.0.0.1", 0))
            tcp.listen()
            local.bind(f"\0{name}")
            local.listen()
            yield tcp.getsockname()[1], name

    # --- sysctls, clocks

    @needs("sysctl")
    def test_sysctl(self) -> None:
        sysctls = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "1234", "net.ipv4.ip_local_port_range": "3000 4000"}
        commands = [["read", f"/proc/sys/{name.replace('.', '/')}"] for name in sysctls]
        results = [(attempt.result or "").split() for attempt in self.attempts(*commands, sysctls=sysctls)]
        assert results == [["1"], ["1234"], ["3000", "4000"]]

    @needs("sysctl")
    def test_sysctl_leaves_the_hosts_alone(self) -> None:
        with open("/proc/sys/kernel/msgmax") as file:
            before = file.read()
            self.run("say x", sysctls={"kernel.msgmax": "4321"})
            file.seek(0)
            assert file.read() == before

    @needs("sysctl")
    def test_unknown_sysctl(self) -> None:
        from execdrivers import LaunchError, SpecError

        with pytest.raises((SpecError, LaunchError)) as caught:
            self.run("say x", sysctls={"net.no.such": "1"})
        assert "net.no.such" in str(caught.value) or "net/no/such" in str(caught.value)

    @needs("namespace.time", "time-offsets")
    def test_time_offsets(self) -> None:
        here = self.by_default()
        there = self.report(
            namespaces={"time": "private"}, time_offsets={"boottime": {"secs": 86400}, "monotonic": {"secs": 3600}}
        )
        assert there["boottime"] - here["boottime"] >= 86400
        assert 3600 <= there["monotonic"] - here["monotonic"] < 86400

    @needs("namespace.time", "time-offsets", "exec")
    def test_time_offsets_of_a_further_process(self) -> None:
        container = self.start_ready(time_offsets={"boottime": {"secs": 86400}})
        with container.exec(args_of("report"), stdout=PIPE) as process:
            out, _ = process.communicate(timeout=TIMEOUT)
        assert Report.parse(out or b"")["boottime"] - self.by_default()["boottime"] >= 86400

    @needs("namespace.cgroup", "mount.proc", asked=private("cgroup"))
    def test_its_cgroups_are_the_root_of_what_it_sees(self) -> None:
        lines = (self.by_default()["cgroup"] or "").splitlines()
        assert lines and all(line.split(":", 2)[2] in ("/", "/.", "") or "/.." not in line for line in lines)
