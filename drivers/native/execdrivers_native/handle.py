"""The hold on one native container."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import cgroups, pidfd, seccomp
from execdrivers.cgroups import CgroupDir, devices
from execdrivers.driver import ExecRequest, Handle, Notice, ProcessHandle
from execdrivers.errors import LaunchError, OperationError, UnsupportedFeature
from execdrivers.exit import Exit
from execdrivers.launcher import HookPoints, Launch, Started, join, run_left_poststop, sweep
from execdrivers_native.host import Host
from execdrivers_native.kept import KeptExecution
from execdrivers_native.process import exec_device_rules

if TYPE_CHECKING:
    from execdrivers.launcher import Operation
    from execdrivers.spec import Resources
    from execdrivers.stats import Stats

__all__ = ["NativeHandle"]


#: File in the container's directory: cgroups that were made after its start, by whichever program.
_LATER = "cgroups.json"


class _Overtaken(Exception):
    """Another program has changed the container just before it was kept from it."""


class NativeHandle(Handle):
    """A container whose first process is our child, or, recovered, somebody's."""

    admits = True

    def __init__(
        self,
        *,
        id: str,
        directory: str,
        host: Host,
        made: Sequence[CgroupDir],
        cgroups_path: str | None,
        nodes: Sequence[str],
        guarantees: Mapping[str, Any],
        launch: Launch | None = None,
        hooks: HookPoints | None = None,
        poststop: str = "",
    ) -> None:
        self.pid: int | None = None
        self.exit_fd = -1
        #: In a pid namespace of others: a pidfd of the first process, and who tells its end.
        self._inside = -1
        self._outside: Mapping[str, Any] | None = None
        self._id = id
        self._later = f"{directory}/{_LATER}"
        self._host = host
        #: Pid and start time of the first process, also when it has ended: they tell this container from any other of
        #: its name.
        self._identity: list[int | None] = [None, None]
        self._namespaces = tuple(guarantees["namespaces"])
        self._made = tuple(made)
        self._cgroups_path = cgroups_path
        self._nodes = tuple(nodes)
        self._guarantees = guarantees
        self._execution = KeptExecution()
        self._launch = launch
        #: Early, and nobody has heard yet what came of it.
        self._said_go = False
        self._reaped = False
        self._directory = directory
        self._hooks = hooks
        self._poststop = poststop

    def go_when_ready(self) -> None:
        """Do not wait for `start`, which then tells what came of it. For a plan without points, and before it is
        ready."""
        assert self._launch is not None
        self._said_go = True
        self._launch.say_go()

    def hold(self, child: Started) -> None:
        """Take hold of the first process, a child of ours, instead of the one that went before it and has ended."""
        if self.exit_fd >= 0:
            pidfd.wait(self.exit_fd)
            pidfd.wait_status(self.exit_fd)
            os.close(self.exit_fd)
        self.pid, self.exit_fd, started = child
        self._identity = [child.pid, pidfd.start_time(child.pid) if started is None else started]

    def hold_inside(self, first: Started) -> None:
        """Take hold of the first process, whose parent, which we hold already, stays outside and ends as it does."""
        self._outside = {"pid": self._identity[0], "start_time": self._identity[1]}
        self.pid, self._inside, _ = first
        self._identity = [first.pid, pidfd.start_time(first.pid)]

    def find(self, state: Mapping[str, Any]) -> None:
        """Hold the processes that another program has started, unless they have ended."""
        self._outside = state["outside"]
        self._identity = [state["pid"], state["start_time"]]
        ends = self._outside or state
        fd = pidfd.open_checked(ends["pid"], ends["start_time"])
        if fd is not None:
            self.pid, self.exit_fd = state["pid"], fd
        if self._outside:
            inside = pidfd.open_checked(state["pid"], state["start_time"])
            self._inside = -1 if inside is None else inside

    def go(self) -> None:
        if not self._said_go:
            self.start()

    def start(self) -> None:
        assert self._launch is not None
        if self._said_go:
            self._said_go = False
            self._launch.ready()
            self._launch.outcome()
        else:
            self._launch.go()
        self.seccomp_listener = self._launch.take_listener()
        self.channels = (self._launch.channel,)
        if self._hooks:
            self._hooks.run_all("poststart", self.pid)

    def signal(self, number: signal.Signals) -> None:
        first = self._first()
        if first < 0:
            raise ProcessLookupError(f"container process {self.pid} has ended")
        signal.pidfd_send_signal(first, number)

    def _first(self) -> int:
        """A pidfd of the first process, or of who is to become it."""
        return self.exit_fd if self._outside is None else self._inside

    def kill(self) -> None:
        if "pid" not in self._namespaces:
            cgroups.kill(self._cgroups())
        # With a pid namespace the kernel ends all its processes with the first.
        try:
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            self._kill_by_cgroup()
        # The freezer of v1 holds even what is killed. It is there from the start, or since a pause.
        if any("freezer" in cgroup.controllers for cgroup in self._made) or os.path.exists(self._later):
            with contextlib.suppress(OSError):
                cgroups.thaw(self._cgroups())

    def _kill_by_cgroup(self) -> None:
        """AppArmor lets no signal through to who has a profile without ``signal (receive) peer=unconfined``; it is not
        asked about what cgroup v2 kills."""
        layout = attrs.evolve(self._host.cgroups, v1={})
        if not layout.v2:
            problem = "kill: the container's AppArmor profile lets no signal through"
            remedy = "add to the profile: signal (receive) peer=unconfined"
            raise OperationError(problem, operation="kill", errno=errno.EACCES, remedy=remedy)
        self._extend("kill", cgroups.plan(None, self._id, layout, path=self._cgroups_path, track=True))
        cgroups.kill(self._cgroups())

    def exit(self) -> Exit:
        oom_kills = cgroups.oom_kills(self._cgroups())
        status = pidfd.wait_status(self.exit_fd)
        self._reaped = status is not None and self._outside is None
        self.pid = None
        if status is None or status & 0x7F or status >> 8 >= LaunchError.exit_code:
            reported = self._reported()
            if reported is not None:
                status = reported
        return Exit.from_wait_status(status, oom_kills=oom_kills)

    def _reported(self) -> int | None:
        """The wait status that the init has told. Raises `LaunchError`, for which a launcher ends with 125 or more."""
        if self._launch is None:
            return None
        if self._said_go:
            self._said_go = False
            return self._launch.last_words()
        return self._launch.exit_status()

    def close(self) -> None:
        super().close()
        if self._inside >= 0:
            os.close(self._inside)
            self._inside = -1
        if self._launch is not None:
            self._launch.close()

    def delete(self) -> None:
        # With a pid namespace nothing is alive that came after the first process.
        if not (self._reaped and "pid" in self._namespaces):
            self.kill()
            if self.exit_fd >= 0:
                pidfd.wait(self.exit_fd)  # SIGKILL is on its way to it
                pidfd.wait_status(self.exit_fd)
        cgroups.remove(self._cgroups())
        self._made = ()
        self.pid = None
        self.close()
        sweep()  # what was executed in it, and let go of
        run_left_poststop(self._directory, self._poststop)

    def pids(self) -> Sequence[int]:
        return self._processes(self._cgroups())

    def _processes(self, made: Sequence[CgroupDir]) -> Sequence[int]:
        """All in these cgroups, which alone can tell them where the pid namespace is shared."""
        if made:
            return cgroups.processes(made)
        found = [] if self.pid is None else _in_pid_namespace(self.pid)
        return [] if pidfd.wait(self._first(), 0) else found  # ended: the pid may have been another's

    def notices(self) -> Sequence[Notice]:
        from execdrivers.cgroups.notices import notices

        return notices(self._cgroups())

    def stats(self) -> Stats:
        from execdrivers.cgroups.stats import sample

        return sample(self._cgroups(), self.pids, self.pid, self._first())

    def exec(self, request: ExecRequest) -> ProcessHandle:
        rules = exec_device_rules(request.spec, self._host, self._guarantees["capabilities"])
        if request.admit is not None and not rules and not self._cgroups():
            with contextlib.suppress(_Overtaken):
                return self._join(request, request.admit)
        elif request.admit is not None:
            request.admit()
        if rules:
            self._extend("exec", self._plan(None, rules))
        return self._join(request)

    def _join(self, request: ExecRequest, admit: Callable[[], object] | None = None) -> ProcessHandle:
        """``admit``: to be called while the launcher comes into being. Raises `_Overtaken` where there are cgroups by
        then, though there were none."""
        made = self._cgroups() if admit is None else ()

        def compile() -> tuple[Operation, ...]:
            if admit is not None:
                admit()
                if self._cgroups():
                    raise _Overtaken
            return self._execution.compile(request.spec, self._id, self._host, self._guarantees)

        return join(
            compile,
            request.stdio,
            self._first(),
            (lambda pid: cgroups.move(made, lambda: (pid,))) if made else None,
            seccomp.agent(request.spec, self._id, request.directory, self.pid or 0),
        )

    def pause(self) -> None:
        self._require("pause")
        layout, path = self._host.cgroups, self._cgroups_path
        self._extend("pause", cgroups.plan(None, self._id, layout, path=path, track=True))
        cgroups.freeze(self._cgroups())

    def resume(self) -> None:
        cgroups.thaw(self._cgroups())

    def update(self, resources: Resources) -> None:
        self._require("update")
        cgroups.check(resources, self._host.cgroups)
        rules: tuple[devices.Rule, ...] = ()
        if resources.devices is not None:
            rules = devices.rules(resources.devices, map(devices.Rule.parse, self._nodes))
        self._extend("update", self._plan(resources, rules))

    def _require(self, feature: str) -> None:
        if problem := self._host.cgroup_features()[feature]:
            raise UnsupportedFeature("native", feature, "", reason=problem.reason, remedy=problem.remedy)

    def _plan(self, resources: Resources | None, rules: Sequence[devices.Rule]) -> tuple[CgroupDir, ...]:
        return cgroups.plan(resources, self._id, self._host.cgroups, path=self._cgroups_path, devices=rules)

    def _cgroups(self) -> tuple[CgroupDir, ...]:
        """Those made at the start, and later ones, which may be another program's doing."""
        if not os.access(self._later, os.F_OK):  # as ever, and without the cost of an exception
            return self._made
        try:
            with open(self._later, encoding="ascii") as file:
                noted = json.load(file)
        except FileNotFoundError:
            return self._made
        except OSError as error:
            message = f"cannot read {self._later}: {error.strerror}"
            raise OperationError(message, operation="cgroups", errno=error.errno or 0, path=self._later) from error
        if isinstance(noted, list):
            noted = {"process": self._identity, "cgroups": noted}  # by a version before 2 of the layout
        if noted["process"] != self._identity:
            return self._made  # the directory is another container's by now
        return (*self._made, *map(CgroupDir.from_dict, noted["cgroups"]))

    def _extend(self, operation: str, wanted: Sequence[CgroupDir]) -> None:
        """Bring these cgroups into force, with all processes in them."""
        before = self._cgroups()
        later, known = before[len(self._made) :], {cgroup.path for cgroup in before}
        fresh = [cgroup for cgroup in wanted if cgroup.path not in known]
        if fresh:  # noted before they are made, so that they are found whatever becomes of us
            self._note_later((*later, *fresh))
        try:
            made = cgroups.extend(before, wanted, operation=operation)
        except BaseException:
            self._note_later(later)
            raise
        if made:
            self._note_later((*later, *made))
            cgroups.move(made, lambda: self._processes(before))

    def _note_later(self, made: Sequence[CgroupDir]) -> None:
        if made:
            with open(f"{self._later}.new", "w", encoding="ascii") as file:
                json.dump({"process": self._identity, "cgroups": [attrs.asdict(cgroup) for cgroup in made]}, file)
            os.rename(f"{self._later}.new", self._later)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._later)

    def identity(self) -> tuple[int, int] | None:
        pid, started = self._identity
        return None if self.pid is None or pid is None or started is None else (pid, started)

    def state(self) -> Mapping[str, Any]:
        return {
            "pid": self._identity[0],
            "start_time": self._identity[1],
            "outside": self._outside,
            "cgroups": [attrs.asdict(cgroup) for cgroup in self._made],
            "cgroups_path": self._cgroups_path,
            "nodes": list(self._nodes),
            "guarantees": self._guarantees,
            "poststop": self._poststop,
        }

    def guarantees(self) -> Mapping[str, Any]:
        return self._guarantees


def _in_pid_namespace(pid: int) -> list[int]:
    """The processes of the same pid namespace, and those of namespaces below it: all have the first one above them."""
    try:
        own = os.readlink(f"/proc/{pid}/ns/pid")  # a third of the time that stat(2) takes
    except OSError:
        return []
    found, pending = set(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{name}/ns/pid") == own:
                pending.append(int(name))
    while pending:
        found.add(above := pending.pop())
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{above}/task"):
                with open(f"/proc/{above}/task/{task}/children", encoding="ascii") as file:
                    pending.extend(child for child in map(int, file.read().split()) if child not in found)
    return sorted(found)
