"""The hold on one container that a runtime has made, and on the processes executed in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import cgroups, pidfd
from execdrivers.cgroups import CgroupDir
from execdrivers.driver import ExecRequest, Handle, Notice, ProcessHandle
from execdrivers.errors import OperationError
from execdrivers.exit import Exit
from execdrivers.launcher import (
    ToolError,
    bounding_set,
    sweep,
)
from execdrivers_oci import bundle
from execdrivers_oci.process import Process
from execdrivers_oci.tool import Tool, launch_error, operation_error

if TYPE_CHECKING:
    from execdrivers.cgroups import Layout
    from execdrivers.spec import Resources
    from execdrivers.stats import Stats

__all__ = ["Container", "OciExec", "OciHandle", "discard"]

#: Seconds that a killed process may take to be gone.
_DEATH = 10.0


@attrs.frozen(kw_only=True)
class Container:
    """What a program that comes later must know to take hold of a container; all of it JSON."""

    id: str
    runtime: str
    timeout: float
    #: None while it is being made.
    pid: int | None
    start_time: int | None
    #: Pid and start time of the parent that its maker gave it.
    reaper: tuple[int, int | None]
    own_pids: bool
    #: The runtime must delete it: it has hooks for that, or keeps who knows what.
    untidy: bool
    cgroups: tuple[CgroupDir, ...]
    #: Of one that is being made: the name that its cgroups are to have.
    cgroup: str = ""
    guarantees: Mapping[str, Any]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Container:
        """Inverse of `attrs.asdict`, also from JSON."""
        return cls(**{**data, "cgroups": tuple(CgroupDir.from_dict(item) for item in data["cgroups"])})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        state: dict[str, Any] = json.loads(json.dumps(attrs.asdict(self)))
        return state


class OciHandle(Handle):
    """A container that this program has made (``process``), or another."""

    def __init__(
        self,
        container: Container,
        directory: str,
        *,
        layout: Layout,
        process: Process | None = None,
        started: bool = False,
    ) -> None:
        """``started``: for the runtime it is, and only the launcher waits."""
        self._started = started
        self._container = container
        self._directory = directory
        self._tool = Tool(container.runtime, directory, container.timeout)
        self._layout = layout
        self._process = process
        fd = process.exit_fd if process else pidfd.open_checked(container.pid, container.start_time)
        self.exit_fd = -1 if fd is None else fd
        self.pid: int | None = None if fd is None else container.pid
        self.terminal = process.terminal if process else None
        self._present = True
        #: Its directory, whose name may be another container's as soon as somebody has removed this one.
        self._place = _open_directory(directory)

    def start(self) -> None:
        assert self._process is not None
        if not self._started:
            try:
                self._tool.call("start", self._container.id)
            except ToolError as failure:
                raise launch_error("start", str(failure)) from None
        self._process.launch()
        self.channels = self._process.channels

    def signal(self, number: signal.Signals) -> None:
        if self.exit_fd < 0:
            raise ProcessLookupError(f"container process {self._container.pid} has ended")
        pidfd.send_signal(self.exit_fd, number)

    def kill(self) -> None:
        if not self._container.own_pids:
            cgroups.kill(self._container.cgroups)
        # With a pid namespace the kernel ends all its processes with the first.
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        with contextlib.suppress(OSError):
            cgroups.thaw(self._container.cgroups)  # frozen by v1 it would not die

    def exit(self) -> Exit:
        oom_kills = cgroups.oom_kills(self._container.cgroups)
        status = self._process.wait_status() if self._process else pidfd.wait_status(self.exit_fd)
        self.pid = None
        return Exit.from_wait_status(status, oom_kills=oom_kills)

    def pids(self) -> Sequence[int]:
        return cgroups.processes(self._container.cgroups)

    def notices(self) -> Sequence[Notice]:
        from execdrivers.cgroups.notices import notices

        return notices(self._container.cgroups)

    def stats(self) -> Stats:
        from execdrivers.cgroups.stats import sample

        return sample(self._container.cgroups, self.pids, self.pid, self.exit_fd)

    def exec(self, request: ExecRequest) -> OciExec:
        compiled = bundle.compile(request.spec, self._container.id, self._layout, bounding_set())
        label = f"exec-{request.id}"
        file = f"{self._directory}/{label}.json"
        with open(file, "w") as stream:
            json.dump(compiled.config["process"], stream)
        try:
            args = ("exec", "--detach", "--process", file)
            process = Process(
                self._tool, args, self._container.id, compiled.operations, request.stdio, step="exec", label=label
            )
        finally:
            os.unlink(file)
        try:
            process.launch()
        except BaseException:
            process.abandon()
            raise
        return OciExec(process)

    def pause(self) -> None:
        self._operate("pause")

    def resume(self) -> None:
        try:
            self._operate("resume")
        except OperationError as error:
            if "not paused" not in error.message:
                raise

    def update(self, resources: Resources) -> None:
        file = f"{self._directory}/resources.json"
        with open(file, "w") as stream:
            json.dump(bundle.resources(resources, self._layout), stream)
        try:
            self._operate("update", "--resources", file)
        finally:
            os.unlink(file)

    def _operate(self, verb: str, *options: str) -> None:
        try:
            self._tool.call(verb, *options, self._container.id)
        except ToolError as failure:
            raise operation_error(verb, str(failure)) from None

    def delete(self) -> None:
        self.kill()
        pidfd.wait(self.exit_fd, _DEATH)
        if self._present:
            self._present = False
            if self._container.pid is None:
                end_tools(self._tool.state)
            tool = attrs.evolve(self._tool, directory=f"/proc/{os.getpid()}/fd/{self._place}")
            if self._container.untidy and os.path.exists(tool.state):
                discard(tool, self._container.id)
            cgroups.remove(self._container.cgroups)
            shutil.rmtree(tool.state, ignore_errors=True)
        if self._process is not None:
            self._process.destroy()
        elif (fd := pidfd.open_checked(*self._container.reaper)) is not None:
            pidfd.wait(fd, _DEATH)
            os.close(fd)
            sweep()  # it may be a child of ours, let go of by another handle
        self.pid = None
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self.exit_fd = -1
        if self._place >= 0:
            os.close(self._place)
            self._place = -1
        super().close()

    def state(self) -> Mapping[str, Any]:
        return self._container.to_dict()

    def guarantees(self) -> Mapping[str, Any]:
        return self._container.guarantees


class OciExec(ProcessHandle):
    """One more process in a container."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid
        self.exit_fd = process.exit_fd
        self.terminal = process.terminal

    def signal(self, number: signal.Signals) -> None:
        self._process.signal(number)

    def exit(self) -> Exit:
        status = self._process.wait_status()
        self.pid = None
        return Exit.from_wait_status(status)

    def close(self) -> None:
        self._process.close()
        self.exit_fd = -1


def _open_directory(path: str) -> int:
    """-1 where it is gone."""
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def end_tools(path: str) -> None:
    """Kill the calls of a runtime that have this directory for its state: of a maker that was killed meanwhile."""
    deadline = time.monotonic() + _DEATH
    while tools := _with_argument(path):
        for fd in tools:
            with contextlib.suppress(ProcessLookupError):
                pidfd.send_signal(fd, signal.SIGKILL)
            pidfd.wait(fd, _DEATH)
            os.close(fd)
        if time.monotonic() > deadline:
            return


def _with_argument(text: str) -> list[int]:
    """Pidfds of the living processes that have this argument."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(os.close, fd := pidfd.open(int(name)))
            with open(f"/proc/{name}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")  # a zombie has none
            if os.fsencode(text) in arguments:
                stack.pop_all()
                found.append(fd)
    return found


def discard(tool: Tool, id: str) -> None:
    """Have the runtime forget a dead container and run its hooks for that; what it keeps after all, is logged."""
    try:
        tool.call("delete", "--force", id)
    except ToolError as error:
        import logging

        logging.getLogger("execdrivers").warning("container %r: %s delete: %s", id, tool.path, str(error))
