"""Nothing is left behind, whatever goes wrong; the leak check after each test is the judge."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from execdrivers import DEVNULL, ContainerTimeout, Engine, LaunchError, SpecError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import TIMEOUT, Kit
from execdrivers.testing.leaks import Snapshot

__all__ = ["TestCleanup"]


class TestCleanup(Kit):
    """Failures at each step, interrupts, and what outlives its container elsewhere."""

    def all_sorts(self) -> dict[str, Any]:
        """As much of a spec as the driver has: each field takes something that has to be freed."""
        wishes: dict[str, tuple[set[str], dict[str, Any]]] = {
            "limits": ({"cgroup.memory", "cgroup.pids"}, {"memory": "64M", "pids": 20}),
            "mounts": ({"mount.tmpfs"}, {"mounts": [{"type": "tmpfs", "destination": "/data"}]}),
            "readonly": ({"rootfs.readonly"}, {"readonly": True}),
            "init": ({"init"}, {"init": True}),
            "hostname": ({"hostname"}, {"hostname": "kit"}),
        }
        found: dict[str, Any] = {}
        for features, fields in wishes.values():
            if features <= self.features:
                found.update(fields)
        return found

    def test_after_a_run_with_all_sorts(self) -> None:
        assert self.run("spread 2", "exit 3", **self.all_sorts()).returncode == 3

    def test_after_a_kill(self) -> None:
        container = self.start_ready(**self.all_sorts())
        container.kill()
        container.wait(TIMEOUT)

    def test_after_a_timeout(self) -> None:
        with pytest.raises(ContainerTimeout):
            self.run("spread 2", "sleep", timeout=0.1, **self.all_sorts())

    def test_when_the_first_process_is_killed_from_outside(self) -> None:
        container = self.start_ready(**self.all_sorts())
        os.kill(self.first_process(container), signal.SIGKILL)
        container.wait(TIMEOUT)

    def test_when_it_is_killed_before_the_start(self) -> None:
        container = self.create(**self.all_sorts())
        if container.pid is not None:
            os.kill(container.pid, signal.SIGKILL)
        container.delete()

    def test_when_the_command_is_not_found(self) -> None:
        with pytest.raises(LaunchError):
            self.run(args=["/no/such"], **self.all_sorts())

    @needs("cwd")
    def test_when_the_directory_is_missing(self) -> None:
        with pytest.raises(LaunchError):
            self.run("say x", cwd="/no/such", **self.all_sorts())

    @needs("mount.bind")
    def test_when_a_mount_fails(self) -> None:
        with pytest.raises((SpecError, LaunchError)):
            self.run("say x", mounts=[{"type": "bind", "source": "/no/such", "destination": "/data"}])

    @needs("mount.tmpfs")
    def test_when_the_kernel_refuses_a_mount(self) -> None:
        with pytest.raises((SpecError, LaunchError)):
            self.run("say x", mounts=[{"type": "tmpfs", "destination": "/data", "options": ["no-such-option=1"]}])

    @needs("rlimits")
    def test_when_the_kernel_refuses_a_limit(self) -> None:
        if host.capable("CAP_SYS_RESOURCE"):
            host.lacking("a caller without CAP_SYS_RESOURCE")
        with pytest.raises(LaunchError):
            self.run("say x", rlimits={"nofile": 1 << 30})

    @needs("cgroup.cpuset")
    def test_when_the_kernel_refuses_a_cgroup_value(self) -> None:
        with pytest.raises((SpecError, LaunchError)):
            self.run("say x", cpuset_cpus="4000")

    def test_when_it_is_made_and_never_started(self) -> None:
        self.create(**self.all_sorts()).delete()

    def test_an_interrupt_in_the_middle(self) -> None:
        """Ctrl-C during run(): all is killed, the interrupt goes on."""

        def interrupt() -> None:
            host.until(lambda: any(event.type == "started" for event in self.events), "it runs")
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                self.run("sleep", **self.all_sorts())
        finally:
            signal.signal(signal.SIGINT, before)
        thread.join()

    def test_many_leave_no_descriptor(self) -> None:
        self.run()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            self.run(**self.all_sorts())
        assert len(os.listdir("/proc/self/fd")) == before

    def test_descriptors_are_closed_on_exec(self) -> None:
        """Other children of this program inherit nothing of a container's."""
        import subprocess
        import sys

        self.start_ready(**self.all_sorts())
        program = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
        listed = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, close_fds=False)
        descriptors = [number for number in eval(listed.stdout) if number > 2]
        inheritable = [fd for fd in descriptors[:-1] if _is_inheritable(fd)]
        ours = [os.readlink(f"/proc/self/fd/{fd}") for fd in inheritable]
        assert not [target for target in ours if "pidfd" in target or "memfd" in target or str(self.rootfs) in target]

    def test_while_it_runs_nothing_of_it_is_mounted_on_the_host(self) -> None:
        before = Snapshot().mounts
        self.start_ready(**self.all_sorts())
        assert not [mount for mount in Snapshot().mounts - before if str(self.rootfs) in mount]

    def test_no_process_of_ours_is_left_for_the_caller_to_reap(self) -> None:
        self.run(**self.all_sorts())
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    def test_the_makers_death_before_the_start_leaves_no_process(self) -> None:
        """What waits to be started dies with who would have started it, or is cleaned up by who finds it."""

        def make() -> object:
            engine = Engine(self.engine.root, registry=self.new_registry())
            spec = self.spec("sleep", **self.all_sorts())
            return engine, engine.create(
                spec, driver=self.name, name=self.id, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
            )

        host.in_child(make, killed=True)
        self.engine.delete(self.id, force=True)

    def test_a_fork_of_the_caller_does_not_end_its_containers(self) -> None:
        container = self.start_ready()
        pid = os.fork()
        if pid == 0:
            try:
                self.engine.close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert container.state == "running" and host.alive(self.first_process(container))


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
