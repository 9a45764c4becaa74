"""The native driver itself: what it can enforce here, and the making of containers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from execdrivers import __version__, cgroups, pidfd
from execdrivers.cgroups import CgroupDir
from execdrivers.driver import CreateRequest, Driver, Plan, Probe, Problem, Stdio
from execdrivers.launcher import Launch, Started, check_capabilities, landlock_features, spawn_launcher
from execdrivers_native import host
from execdrivers_native.compile import NativePlan, compile
from execdrivers_native.handle import NativeHandle

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec

__all__ = ["NativeDriver"]

#: What the driver enforces wherever it runs.
_ALWAYS = frozenset(
    """
    rootfs rootfs.host rootfs.readonly rootfs.ephemeral
    mount.bind mount.tmpfs mount.proc mount.sysfs mount.devpts mount.mqueue mount.propagation mount.recursive
    mount.replace-defaults
    namespace.pid namespace.mount namespace.uts namespace.ipc namespace.network namespace.cgroup
    namespace.host.network namespace.host.uts namespace.host.ipc namespace.host.cgroup namespace.host.time
    hostname domainname user cwd umask tty rlimits capabilities no-new-privileges oom-score-adj
    scheduler io-priority cpu-affinity personality annotations stop-signal
    sysctl masked-paths readonly-paths network.none network.host init
    exec pids recover signal kill-all
    """.split()
)
#: What takes privilege as well.
_PRIVILEGED = frozenset({"groups", "devices", "mount.cgroup", "mount.overlay", "namespace.host.user"})
_NEEDS_ROOT = Problem("it takes privilege on this host", "run as root")


class NativeDriver(Driver):
    """Namespaces, mounts, capabilities and cgroups by system calls alone; about a millisecond a container."""

    name = "native"
    summary = "the kernel's own interfaces, no tool in between"
    strength = 100

    @cached_property
    def host(self) -> host.Host:
        """Facts of the host, looked up at first use."""
        return host.look()

    def probe(self) -> Probe:
        facts = self.host
        features = set(_ALWAYS)
        missing: dict[str, Problem] = {}
        if facts.privileged:
            features |= _PRIVILEGED
        else:
            missing.update(dict.fromkeys(_PRIVILEGED, _NEEDS_ROOT))
        for feature, problem in {**self._cgroup_features(), **landlock_features()}.items():
            if problem:
                missing[feature] = problem
            else:
                features.add(feature)
        problems = self._problems()
        return Probe(
            available=not problems,
            version=__version__,
            features=frozenset(features),
            missing=missing,
            problems=tuple(problems),
            facts={
                "kernel": facts.release,
                "cgroups": facts.cgroups.kind,
                "rootless": not facts.privileged,
            },
        )

    def _cgroup_features(self) -> dict[str, Problem | None]:
        layout = self.host.cgroups
        freezer = layout.problem("freezer" if "freezer" in layout.v1 else "")
        limits = cgroups.features(layout)
        some = None if None in limits.values() else limits["cgroup.memory"]
        # Without a pid namespace its processes are found, and held still to be killed, by their cgroup.
        host_pid = freezer if self.host.privileged else _NEEDS_ROOT
        return {**limits, "cgroup.path": some, "update": some, "pause": freezer, "namespace.host.pid": host_pid}

    def _problems(self) -> list[Problem]:
        facts = self.host
        problems = []
        if facts.kernel < host.MINIMUM_KERNEL:
            needed = ".".join(map(str, host.MINIMUM_KERNEL))
            problems.append(Problem(f"the kernel is {facts.release}", f"run Linux {needed} or later"))
        if not facts.privileged and not facts.user_namespaces:
            problems.append(
                Problem(
                    "without privilege it takes user namespaces, and this host forbids them",
                    "run as root, or set sysctl user.max_user_namespaces (and kernel.unprivileged_userns_clone=1)",
                )
            )
        return problems

    def plan(self, spec: ContainerSpec, id: str) -> Plan:
        return compile(spec, id, self.host).plan()

    def create(self, request: CreateRequest) -> NativeHandle:
        if self.host.privileged:
            check_capabilities(request.spec.capabilities, self.host.bounding)
        compiled = compile(request.spec, request.id, self.host)
        launch = Launch(compiled.operations)
        made: tuple[CgroupDir, ...] = ()
        try:
            made = cgroups.create(compiled.cgroups)
            child = _spawn(launch, compiled, made, request.stdio)
        except BaseException:
            launch.close()
            cgroups.remove(made)
            raise
        handle = NativeHandle(
            id=request.id,
            directory=request.directory,
            host=self.host,
            pid=child.pid,
            exit_fd=child.pidfd,
            start_time=pidfd.start_time(child.pid),
            made=made,
            cgroups_path=request.spec.cgroups_path,
            guarantees=compiled.guarantees,
            launch=launch,
        )
        try:
            launch.started()
            launch.ready()
            handle.terminal = launch.terminal
        except BaseException:
            handle.delete()
            raise
        return handle

    def recover(self, id: str, state: Mapping[str, Any], directory: str) -> NativeHandle:
        fd = pidfd.open_checked(state["pid"], state["start_time"]) if state["pid"] else None
        made = [CgroupDir.from_dict(data) for data in state["cgroups"]]
        handle = NativeHandle(
            id=id,
            directory=directory,
            host=self.host,
            pid=state["pid"],
            exit_fd=-1 if fd is None else fd,
            start_time=state["start_time"],
            made=made,
            cgroups_path=state["cgroups_path"],
            guarantees=state["guarantees"],
        )
        if fd is None:
            handle.pid = None
        return handle


def _spawn(launch: Launch, compiled: NativePlan, made: Sequence[CgroupDir], stdio: Stdio) -> Started:
    """Start the launcher in its namespaces and, on v2, its cgroup."""
    flags, rootless = compiled.clone_flags, "user" in compiled.namespaces
    unified = next((cgroup.path for cgroup in made if cgroup.version == 2), None)
    fd = os.open(unified, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if unified else -1
    try:
        return spawn_launcher(launch, stdio, flags=flags, cgroup=fd, keep_capabilities=rootless)
    finally:
        if fd >= 0:
            os.close(fd)
