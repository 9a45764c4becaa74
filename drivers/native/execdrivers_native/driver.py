"""The native driver itself: what it can enforce here, and the making of containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from execdrivers import __version__, apparmor, cgroups, seccomp
from execdrivers.cgroups import CgroupDir, devices
from execdrivers.driver import CreateRequest, Driver, Plan, Probe, Problem
from execdrivers.launcher import UnderWay, landlock_features
from execdrivers_native import host, ids
from execdrivers_native.compile import NativePlan, compile
from execdrivers_native.handle import NativeHandle
from execdrivers_native.kept import KeptPlan, KeptPlans
from execdrivers_native.start import Start

if TYPE_CHECKING:
    from execdrivers.driver import Handle
    from execdrivers.spec import ContainerSpec

__all__ = ["NativeDriver"]

#: What the driver enforces wherever it runs.
_ALWAYS = frozenset(
    """
    rootfs rootfs.host rootfs.readonly rootfs.ephemeral rootfs.propagation
    mount.bind mount.tmpfs mount.proc mount.sysfs mount.devpts mount.mqueue mount.propagation mount.recursive
    mount.tmpcopyup mount.replace-defaults
    namespace.pid namespace.mount namespace.uts namespace.ipc namespace.network namespace.cgroup
    namespace.host.network namespace.host.uts namespace.host.ipc namespace.host.cgroup namespace.host.time
    hostname domainname user cwd umask tty rlimits capabilities no-new-privileges oom-score-adj
    scheduler io-priority cpu-affinity personality annotations stop-signal
    sysctl masked-paths readonly-paths network.none network.host init hooks
    exec pids stats events recover detach signal kill-all
    namespace.user user-mappings namespace.join
    """.split()
)
#: What takes privilege as well.
_PRIVILEGED = frozenset({"devices", "mount.cgroup", "mount.overlay", "mount.idmap", "namespace.host.user"})
#: What takes more ids than one.
_SEVERAL = ("groups", "other-users")
_TIME = ("namespace.time", "time-offsets")
#: What takes libseccomp.
_SECCOMP = ("seccomp", "seccomp.notify")


class NativeDriver(Driver):
    """Namespaces, mounts, capabilities and cgroups by system calls alone; about a millisecond a container."""

    name = "native"
    summary = "the kernel's own interfaces, no tool in between"
    strength = 100

    @cached_property
    def host(self) -> host.Host:
        """Facts of the host, looked up at first use."""
        return host.look()

    @cached_property
    def _under_way(self) -> UnderWay:
        """Starts whose launchers have not got all that they need."""
        return UnderWay()

    @cached_property
    def _plans(self) -> KeptPlans:
        return KeptPlans(self.host)

    def probe(self) -> Probe:
        facts = self.host
        features = set(_ALWAYS)
        missing: dict[str, Problem] = {}
        if facts.privileged:
            features |= _PRIVILEGED
        else:
            missing.update(dict.fromkeys(_PRIVILEGED, host.NEEDS_ROOT))
        if facts.time_namespaces:
            features.update(_TIME)
        else:
            missing.update(dict.fromkeys(_TIME, Problem("the kernel has no time namespaces", "build it with TIME_NS")))
        several = None if facts.privileged else ids.several_problem(facts)
        if several is None:
            features.update(_SEVERAL)
        else:
            missing.update(dict.fromkeys(_SEVERAL, Problem(*several)))
        others = {**facts.cgroup_features(), **landlock_features()}
        others.update(apparmor=apparmor.problem(), selinux=_selinux_problem())
        others.update(dict.fromkeys(_SECCOMP, seccomp.problem()))
        for feature, problem in others.items():
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
        kept = self._plans.find(request.spec, request.accounting)
        if kept is not None and request.born is not None and request.spawner is None:
            if (handle := self._create_at_once(request, kept, request.born)) is not None:
                return handle
            kept = None
        if kept is not None and self._plans.fits(request.spec, kept):
            compiled = kept.named(request.id)
        else:
            compiled = self._compile(request)
        if compiled.profile:
            apparmor.check(compiled.profile)
        hooks = compiled.hooks
        made: tuple[CgroupDir, ...] = ()
        start = None
        try:
            if hooks:
                hooks.write_bundle(request.spec)
            if compiled.cgroups:
                request.intend(self._handle(request, compiled, made=compiled.cgroups).state())
            made = cgroups.create(compiled.cgroups)
            start = self._start(request, compiled, made)
            handle = self._handle(request, compiled, start=start, made=made)
            start.spawn(request.stdio, handle, request.spawner)
        except BaseException:
            if start is not None:
                start.close()
            cgroups.remove(made)
            raise
        try:
            if request.born is not None and compiled.alone:
                # The rest of what we do for it is done while the launcher is at work.
                request.born(handle)
                handle.go_when_ready()
                start.launch.started()
                return handle
            start.ready()
            cgroups.restrict(made)
            handle.terminal = start.launch.terminal
        except BaseException:
            handle.delete()
            raise
        return handle

    def _create_at_once(
        self, request: CreateRequest, kept: KeptPlan, born: Callable[[Handle], object]
    ) -> NativeHandle | None:
        """By a plan that was kept, which a launcher gets that was started before; None: it does not fit any more.

        What the launcher needs comes first, all else while it is at work.
        """
        start = Start(kept.plan, (), operations=lambda: kept.operations(request.id))
        # Where others are at it, too, the other processors are busy, and what is done for this one here is done later.
        with self._under_way as alone:
            return self._begin_and_give(request, kept, born, start, alone)

    def _begin_and_give(
        self, request: CreateRequest, kept: KeptPlan, born: Callable[[Handle], object], start: Start, alone: bool
    ) -> NativeHandle | None:
        """``alone``: no other is being started."""
        child = start.begin(request.stdio, alone=alone)
        try:
            if self._plans.fits(request.spec, kept) and start.give(kept.encoded(request.id)):
                handle = self._handle(request, kept.plan, start=start)
                handle.hold(child)
                if kept.plan.profile:
                    apparmor.check(kept.plan.profile)
                born(handle)
                handle.go_when_ready()
                return handle
        except BaseException:
            start.abandon(child)
            raise
        start.abandon(child)
        return None

    def _compile(self, request: CreateRequest) -> NativePlan:
        spec, id, accounting = request.spec, request.id, request.accounting
        compiled = compile(spec, id, self.host, request.directory, accounting=accounting)
        self._plans.keep(spec, id, accounting, compiled)
        return compiled

    def _start(self, request: CreateRequest, compiled: NativePlan, made: Sequence[CgroupDir]) -> Start:
        return Start(compiled, made, seccomp.agent(request.spec, request.id, request.directory))

    def _handle(
        self,
        request: CreateRequest,
        compiled: NativePlan,
        *,
        start: Start | None = None,
        made: Sequence[CgroupDir] = (),
    ) -> NativeHandle:
        """The hold on a container; without a ``start`` on one of which there is nothing yet but, perhaps, cgroups."""
        hooks = compiled.hooks if start is not None else None
        return NativeHandle(
            id=request.id,
            directory=request.directory,
            host=self.host,
            made=made,
            cgroups_path=request.spec.cgroups_path,
            nodes=[str(rule) for rule in devices.nodes(request.spec.devices)],
            guarantees=compiled.guarantees,
            launch=start.launch if start is not None else None,
            hooks=hooks,
            poststop=hooks.leave_poststop() if hooks else "",
        )

    def recover(self, id: str, state: Mapping[str, Any], directory: str) -> NativeHandle:
        made = [CgroupDir.from_dict(data) for data in state["cgroups"]]
        handle = NativeHandle(
            id=id,
            directory=directory,
            host=self.host,
            made=made,
            cgroups_path=state["cgroups_path"],
            nodes=state["nodes"],
            guarantees=state["guarantees"],
            poststop=state["poststop"],
        )
        handle.find(state)
        return handle


def _selinux_problem() -> Problem | None:
    if os.path.exists("/sys/fs/selinux/enforce"):
        return None
    reason = "the kernel has no SELinux, or it is off"
    return Problem(reason, "boot a kernel that has it with selinux=1 security=selinux, and load a policy")
