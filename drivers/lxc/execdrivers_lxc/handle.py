"""The hold on one container: its first process, LXC's monitor, and the cgroups that LXC has made."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import cgroups, pidfd, seccomp
from execdrivers.cgroups import CgroupDir
from execdrivers.driver import ExecRequest, Handle, Notice
from execdrivers.errors import LaunchError, OperationError
from execdrivers.exit import Exit
from execdrivers.launcher import LAUNCHER_PATH, ToolError
from execdrivers_lxc import locks, tools
from execdrivers_lxc.config import has_proc, render_exec
from execdrivers_lxc.process import LxcProcess

if TYPE_CHECKING:
    from execdrivers.cgroups import Layout
    from execdrivers.launcher import Launch
    from execdrivers.spec import Resources
    from execdrivers.stats import Stats
    from execdrivers_lxc.probe import Host

__all__ = ["Container", "LxcHandle", "all_cgroups", "remove_traces"]

#: Seconds that a killed container, and then its monitor, may take to be gone.
_DEATH = 10.0
#: Seconds that LXC may take to notice that its caller was killed while it made a container.
_ENDING = 2.0


@attrs.frozen(kw_only=True)
class Container:
    """What a program that comes later must know to take hold of a container; all of it JSON."""

    id: str
    #: 0: LXC was about to make it when that was noted.
    pid: int
    start_time: int | None
    monitor: int
    monitor_start_time: int | None
    own_pids: bool
    notes_oom: bool
    #: What it has used is noted as well.
    accounting: bool = False
    #: Below each hierarchy's root; the monitor has another of its own beside it.
    cgroup: str
    #: Path of each of them → its inode: another of the same name is none of our business.
    inodes: Mapping[str, int]
    guarantees: Mapping[str, Any]

    def state(self) -> Mapping[str, Any]:
        """As JSON."""
        return attrs.asdict(self, recurse=False)


class LxcHandle(Handle):
    """A container whose monitor is our child, or, recovered, somebody's."""

    def __init__(
        self,
        container: Container,
        directory: str,
        host: Host,
        *,
        exit_fd: int | None = None,
        monitor_fd: int | None = None,
        launch: Launch | None = None,
    ) -> None:
        self._container = container
        self._directory = directory
        self._host = host
        self._launch = launch
        if exit_fd is None:
            exit_fd = pidfd.open_checked(container.pid, container.start_time)
        if monitor_fd is None:
            monitor_fd = pidfd.open_checked(container.monitor, container.monitor_start_time)
        self.exit_fd = -1 if exit_fd is None else exit_fd
        self._monitor = -1 if monitor_fd is None else monitor_fd
        self.pid: int | None = container.pid if _is_alive(self.exit_fd) else None
        self.terminal = launch.terminal if launch else None
        self._deleted = False

    # --- its life

    def start(self) -> None:
        assert self._launch is not None
        self._launch.go()
        self.seccomp_listener = self._launch.take_listener()
        self.channels = (self._launch.channel,)

    def signal(self, number: signal.Signals) -> None:
        if not _is_alive(self.exit_fd):  # perhaps not reaped yet
            raise ProcessLookupError(f"container process {self._container.pid} has ended")
        pidfd.send_signal(self.exit_fd, number)

    def kill(self) -> None:
        if not self._container.own_pids:
            cgroups.kill(self._cgroups())
        # With a pid namespace the kernel ends all its processes with the first.
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
            with contextlib.suppress(OSError):
                cgroups.thaw(self._cgroups())  # frozen by v1 it would not die

    def exit(self) -> Exit:
        status = self._launch.exit_status() if self._launch else None
        if status is None:
            status = pidfd.wait_status(self.exit_fd)
        if status is None or self._container.notes_oom:
            pidfd.wait(self._monitor, _DEATH)
        if status is None:
            status = self._logged_status()
        oom_kills = self._oom_kills()
        self.pid = None
        return Exit.from_wait_status(status, oom_kills=oom_kills)

    def _logged_status(self) -> int | None:
        """The wait status as LXC's monitor, the parent, has logged it: when nobody was there in time to be told by the
        kernel, which before 6.15 tells parents alone."""
        try:
            with open(self._file("log"), encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            return None
        child = f"Child <{self._container.pid}> ended on"
        # "… on error (3)", "… on signal (9)" (LXC 4), "… on signal Killed(9)" (LXC 5); of an exit with 0 it says no
        # more than that it was one.
        if found := re.search(rf"{child} (error|signal).*\((\d+)\)$", text, re.MULTILINE):
            return int(found[2]) << 8 if found[1] == "error" else int(found[2])
        seen = f"init process {self._container.pid} exited" in text and child not in text
        return 0 if seen and not _is_alive(self._monitor) else None

    def _oom_kills(self) -> int:
        if self._container.notes_oom:
            with contextlib.suppress(OSError, ValueError), open(self._file("oom"), encoding="ascii") as file:
                counts = dict(line.split() for line in file)
                return int(counts.get("oom_kill", 0))
        return cgroups.oom_kills(self._cgroups())  # the monitor is dead, and they are there still

    def delete(self) -> None:
        self.kill()
        pidfd.wait(self.exit_fd, _DEATH)
        if not pidfd.wait(self._monitor, _DEATH):
            with contextlib.suppress(ProcessLookupError):
                pidfd.send_signal(self._monitor, signal.SIGKILL)
            pidfd.wait(self._monitor, _DEATH)
        if not self._deleted:
            self._deleted = True
            if not self._container.pid:
                remove_empty(self._container.cgroup, self._host.cgroups)
            remove_traces(self._container.id, self._directory, self._all_cgroups(), self._host.cgroups)
        self.pid = None
        self.close()

    def close(self) -> None:
        if self._launch is not None:
            self._launch.close()
        if self._monitor >= 0:
            pidfd.wait_status(self._monitor)  # reap it when it is ours
            os.close(self._monitor)
            self._monitor = -1
        super().close()

    def state(self) -> Mapping[str, Any]:
        return self._container.state()

    def guarantees(self) -> Mapping[str, Any]:
        return self._container.guarantees

    # --- operations on it

    def pids(self) -> Sequence[int]:
        return cgroups.processes(self._cgroups())

    def notices(self) -> Sequence[Notice]:
        from execdrivers.cgroups.notices import notices

        return notices(self._cgroups())

    def stats(self) -> Stats:
        from execdrivers.cgroups.stats import sample

        if self._container.accounting and not _is_alive(self.exit_fd):
            from execdrivers_lxc.account import noted

            pidfd.wait(self._monitor, _DEATH)
            return sample(noted(self._file("account")), tuple)
        return sample(self._cgroups(), self.pids, self.pid, self.exit_fd)

    def exec(self, request: ExecRequest) -> LxcProcess:
        if not has_proc(request.spec):
            raise LaunchError("exec: lxc-attach needs a /proc in the container", step="exec", remedy="mount one")
        log = self._file(f"exec-{request.id}.log")
        argv = self._argv("lxc-attach", log, "--elevated-privileges=CAP|LSM", "--clear-env", "--", LAUNCHER_PATH)
        operations = render_exec(request.spec, self._container.id, self._host)
        try:
            stdio = None if request.spec.tty else request.stdio
            agent = seccomp.agent(request.spec, self._container.id, self._directory, self._container.pid)
            process = LxcProcess(argv, log, operations, stdio, self._cgroups(), agent)
        finally:
            _forget(log)
        try:
            process.go()
        except BaseException:
            process.destroy()
            raise
        return process

    def pause(self) -> None:
        self._operate("pause", "lxc-freeze")
        # LXC does not wait for v1 to have frozen them all.
        try:
            cgroups.freeze(self._cgroups())
        except OSError as error:
            raise tools.operation_error("pause", f"{error.filename}: {error.strerror}") from None

    def resume(self) -> None:
        try:
            self._operate("resume", "lxc-unfreeze")
            # LXC leaves it frozen if it did not come to note that it is, as where lxc-freeze was killed.
            cgroups.thaw(self._cgroups())
        except OperationError:
            if _is_alive(self.exit_fd):  # else it ended as it was let go
                raise

    def update(self, resources: Resources) -> None:
        for files in cgroups.values(resources, self._host.cgroups).values():
            try:
                self._write(files)
            except ToolError:
                # Memory may not exceed memory with swap at any time: which goes first depends on the direction.
                try:
                    self._write(files[::-1])
                    self._write(files)
                except ToolError as error:
                    raise tools.operation_error("update", str(error)) from None

    def _write(self, files: Sequence[tuple[str, str]]) -> None:
        for name, value in files:
            self._call("lxc-cgroup", "--", name, value)  # -1 is no option

    def _operate(self, operation: str, tool: str) -> None:
        try:
            self._call(tool)
        except ToolError as error:
            raise tools.operation_error(operation, str(error)) from None

    def _call(self, tool: str, *args: str) -> None:
        log = self._file(f"{tool}.log")
        try:
            tools.run(self._argv(tool, log, *args), log, cgroup=self._host.cgroup)
        finally:
            _forget(log)

    def _argv(self, tool: str, log: str, *args: str) -> tuple[str, ...]:
        path = self._host.tools.get(tool, tool)
        return (path, "-q", "-n", self._container.id, "-P", f"{self._directory}/lxc", "-o", log, *args)

    def _file(self, name: str) -> str:
        return f"{self._directory}/lxc/{self._container.id}/{name}"

    def _cgroups(self) -> tuple[CgroupDir, ...]:
        """Those of the container that are still what LXC made for it."""
        found = cgroups.find(self._container.cgroup, self._host.cgroups)
        return tuple(cgroup for cgroup in found if self._container.inodes.get(cgroup.path) == cgroup.inode)

    def _all_cgroups(self) -> list[CgroupDir]:
        found = all_cgroups(self._container.cgroup, self._host.cgroups)
        return [cgroup for cgroup in found if self._container.inodes.get(cgroup.path) == cgroup.inode]


def all_cgroups(name: str, layout: Layout) -> list[CgroupDir]:
    """A container's, by their name below the hierarchies' roots, and its monitor's."""
    return [*cgroups.find(name, layout), *cgroups.find(f"{name}.monitor", layout)]


def remove_empty(name: str, layout: Layout) -> None:
    """Remove what LXC may have made before its caller was killed: all of it is ending then. What stays in use is that
    of another container, which has got the name since."""
    deadline = time.monotonic() + _ENDING
    while (left := all_cgroups(name, layout)) and time.monotonic() < deadline:
        for top in left:
            if cgroups.processes([top]):
                continue  # another's, or still ending
            for path, _, _ in os.walk(top.path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
        time.sleep(0.01)


def remove_traces(id: str, directory: str, made: Sequence[CgroupDir], layout: Layout) -> None:
    """Remove what LXC leaves outside the container's directory, most of it only when its monitor was killed."""
    for top in made:
        # The container may have made some in its own; the deepest go first.
        paths = [path for path, _, _ in os.walk(top.path, topdown=False)]
        tree = [attrs.evolve(top, name=os.path.relpath(p, top.mount_point), inode=os.stat(p).st_ino) for p in paths]
        cgroups.kill(tree)
        cgroups.remove(tree)
    # Where monitors end; while one does, it stays for it.
    for point in layout.mount_points():
        with contextlib.suppress(OSError):
            os.rmdir(f"{point}/{cgroups.parent()}/lxc.pivot")
    locks.remove(f"{directory}/lxc", id)


def _is_alive(fd: int) -> bool:
    return not pidfd.wait(fd, 0)


def _forget(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
