"""The driver: what bwrap can do here, and a container's life."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from execdrivers import cgroups, pidfd
from execdrivers.cgroups.notices import notices
from execdrivers.cgroups.stats import sample
from execdrivers.driver import (
    CreateRequest,
    Driver,
    ExecRequest,
    Handle,
    Notice,
    Plan,
    Probe,
    Problem,
    ProcessHandle,
    Stdio,
)
from execdrivers.errors import ExecDriverError, LaunchError
from execdrivers.exit import Exit
from execdrivers.launcher import Launch, Reaper, join, sweep
from execdrivers.spec import ContainerSpec, Resources
from execdrivers.stats import Stats
from execdrivers_bubblewrap import __version__, recipe

__all__ = ["BubblewrapDriver", "BubblewrapHandle"]

_FEATURES = frozenset(
    """
    rootfs rootfs.host rootfs.readonly masked-paths readonly-paths devices
    mount.bind mount.tmpfs mount.proc mount.sysfs mount.devpts mount.mqueue mount.recursive
    namespace.pid namespace.mount namespace.uts namespace.ipc namespace.network namespace.cgroup
    namespace.host.uts namespace.host.ipc namespace.host.network namespace.host.cgroup namespace.host.user
    namespace.host.time network.none network.host hostname
    user groups other-users cwd umask tty rlimits capabilities no-new-privileges init
    pids exec pause update stats events signal kill-all recover
    """.split()
)
_PROPAGATION = Problem("bwrap cuts what it binds off from the host's later mounts")
#: Seconds that bwrap may take, on a busy machine, for what it does in milliseconds.
_TIMEOUT = 30.0


class BubblewrapDriver(Driver):
    """bwrap makes namespaces and root, and executes the launcher, which makes the rest and becomes the command."""

    name = "bubblewrap"
    summary = "namespaces and root by bwrap(1), the rest by the launcher"
    strength = 10
    #: Where the conformance kit is to find it different, and why.
    deviations: ClassVar[Mapping[str, str]] = {
        "TestCapabilities::test_privileges_where_they_are_allowed": "bwrap always sets no_new_privs",
    }

    @cached_property
    def layout(self) -> cgroups.Layout:
        """Where the host has its cgroups."""
        return cgroups.look()

    def probe(self) -> Probe:
        if problem := self._problem():
            return Probe(available=False, version=__version__, problems=(problem,))
        limits = cgroups.features(self.layout)
        missing = {feature: problem for feature, problem in limits.items() if problem}
        missing["mount.propagation"] = _PROPAGATION
        features = (_FEATURES | limits.keys()) - missing.keys()
        facts = {"bwrap": shutil.which("bwrap")}
        return Probe(available=True, version=__version__, features=features, missing=missing, facts=facts)

    def _problem(self) -> Problem | None:
        """Found out by making a container, which is never started."""
        if shutil.which("bwrap") is None:
            return Problem("there is no program bwrap on PATH", "install bubblewrap")
        with open(os.devnull, "r+b") as null:
            spec, stdio, unique = ContainerSpec(["true"]), Stdio(*[null.fileno()] * 3), str(time.monotonic_ns())
            try:
                self.create(CreateRequest(id="probe", spec=spec, stdio=stdio, directory=unique)).delete()
            except ExecDriverError as error:
                return Problem(f"a trial failed: {error}", "run as root, and try bwrap in a shell")
        return None

    def plan(self, spec: ContainerSpec, id: str) -> Plan:
        return recipe.make(spec, id, self.layout).plan()

    def create(self, request: CreateRequest) -> BubblewrapHandle:
        # Engines may use one id at the same time; the cgroups' name tells them apart.
        name = f"{request.id}-{zlib.crc32(request.directory.encode()):08x}"
        made = recipe.make(request.spec, request.id, self.layout, cgroup=name, accounting=request.accounting)
        handle = BubblewrapHandle(self.layout, {"id": request.id, "name": name, "guarantees": made.guarantees})
        try:
            handle.make(made, None if request.spec.tty else request.stdio)
        except BaseException:
            handle.delete()
            raise
        return handle

    def recover(self, id: str, state: Mapping[str, Any], directory: str) -> BubblewrapHandle:
        handle = BubblewrapHandle(self.layout, state)
        fd = pidfd.open_checked(state["pid"], state["start_time"])
        if fd is not None:
            handle.pid, handle.exit_fd = state["pid"], fd
        return handle


class BubblewrapHandle(Handle):
    """One container. Its first process was the launcher; a reaper tells how it ends."""

    def __init__(self, layout: cgroups.Layout, state: Mapping[str, Any]) -> None:
        self.pid: int | None = None
        self.exit_fd = -1
        self._layout = layout
        self._state = {"pid": None, "start_time": None, "reaper": [None, None], "cgroups": [], **state}
        self._launch: Launch | None = None
        self._reaper: Reaper | None = None

    def make(self, made: recipe.Recipe, stdio: Stdio | None) -> None:
        """All but the execution of the command. On an error `delete` is to follow."""
        self._state["cgroups"] = [cgroup.inode for cgroup in cgroups.create(made.cgroups)]
        self._launch = Launch(made.operations, stdio)
        with contextlib.ExitStack() as opened:
            words = os.memfd_create("bwrap", os.MFD_CLOEXEC)
            opened.callback(os.close, words)
            descriptors = list(self._launch.descriptors)
            for cgroup in made.cgroups:
                file = "tasks" if cgroup.version == 1 else "cgroup.procs"
                descriptors.append(os.open(f"{cgroup.path}/{file}", os.O_WRONLY | os.O_CLOEXEC))
                opened.callback(os.close, descriptors[-1])
            try:
                self._reaper = Reaper(made.arguments, Stdio(-1, -1, words), env={}, descriptors=descriptors)
                self._launch.started()
                self._launch.ready(_TIMEOUT, tool=self._reaper.exit_fd)
            except LaunchError as error:
                if said := os.pread(words, 4096, 0).decode(errors="replace").strip():
                    raise LaunchError(said, step="bwrap") from error
                raise
        assert self._launch.pid is not None
        self.pid, self.exit_fd, self.terminal = self._launch.pid, pidfd.open(self._launch.pid), self._launch.terminal
        self._state["pid"], self._state["start_time"] = self.pid, pidfd.start_time(self.pid)
        self._state["reaper"] = [self._reaper.parent, pidfd.start_time(self._reaper.parent)]
        # bwrap only waits now, to tell less than is to be known. Without it the reaper is the first process's parent.
        if self._reaper.adopted(self._reaper.pid):
            os.kill(self._reaper.pid, signal.SIGKILL)

    def start(self) -> None:
        assert self._launch is not None
        self._launch.go()

    def signal(self, number: signal.Signals) -> None:
        if self.exit_fd < 0:
            raise ProcessLookupError(f"container process {self.pid} has ended")
        pidfd.send_signal(self.exit_fd, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)  # all of its pid namespace end with it
        with contextlib.suppress(OSError):
            cgroups.thaw(self._cgroups())  # what is frozen does not even die

    def exit(self) -> Exit:
        oom_kills = cgroups.oom_kills(self._cgroups())
        status = self._launch.exit_status() if self._launch else None  # what the init has seen
        if status is None and self._reaper and self.pid:
            status = self._reaper.status(self.pid, _TIMEOUT)
        if status is None:
            status = pidfd.wait_status(self.exit_fd)
        self.pid = None
        return Exit.from_wait_status(status, oom_kills=oom_kills)

    def delete(self) -> None:
        self.kill()
        if self._reaper is not None:
            self._reaper.kill(_TIMEOUT)
        elif self.exit_fd >= 0:
            pidfd.wait(self.exit_fd, _TIMEOUT)
            reaper = pidfd.open_checked(*self._state["reaper"])
            if reaper is not None:
                pidfd.wait(reaper, _TIMEOUT)
                os.close(reaper)
                sweep()  # it may be a child of this program, let go of by another handle
        cgroups.remove(self._cgroups())
        self._state["cgroups"] = []
        self.pid = None
        self.close()

    def close(self) -> None:
        super().close()
        for held in (self._launch, self._reaper):
            if held is not None:
                held.close()
        self._launch = self._reaper = None

    def state(self) -> Mapping[str, Any]:
        return dict(self._state)

    def guarantees(self) -> Mapping[str, Any]:
        guarantees: Mapping[str, Any] = self._state["guarantees"]
        return guarantees

    def pids(self) -> Sequence[int]:
        return cgroups.processes(self._cgroups())

    def exec(self, request: ExecRequest) -> ProcessHandle:
        # bwrap cannot enter a container; a launcher can.
        operations = recipe.joining(request.spec, self._state["id"], self._state["guarantees"]["namespaces"])
        return join(operations, request.stdio, self.exit_fd, lambda pid: cgroups.move(self._cgroups(), lambda: (pid,)))

    def pause(self) -> None:
        cgroups.freeze(self._cgroups())

    def resume(self) -> None:
        cgroups.thaw(self._cgroups())

    def update(self, resources: Resources) -> None:
        wanted = cgroups.plan(resources, self._state["name"], self._layout)
        before = self._cgroups()  # which hold its processes; of all, a new one may come first
        cgroups.move(cgroups.extend(before, wanted), lambda: cgroups.processes(before))

    def stats(self) -> Stats:
        return sample(self._cgroups(), self.pids, self.pid, self.exit_fd)

    def notices(self) -> Sequence[Notice]:
        return notices(self._cgroups())

    def _cgroups(self) -> tuple[cgroups.CgroupDir, ...]:
        """Those made at the start, and those that an update has added, in this program or another."""
        found = cgroups.find(f"{cgroups.parent()}/{self._state['name']}", self._layout)
        ours = set(self._state["cgroups"])
        return found if ours and ours <= {cgroup.inode for cgroup in found} else ()
