"""One more process in a container that is made of namespaces: a launcher that joins them. For `Handle.exec`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from execdrivers import pidfd
from execdrivers.driver import ProcessHandle
from execdrivers.errors import LaunchError
from execdrivers.exit import Exit
from execdrivers.launcher.launch import Launch, Started, spawn_launcher
from execdrivers.launcher.operations import Operation
from execdrivers.launcher.reaper import leave, sweep

if TYPE_CHECKING:
    from execdrivers.driver import Stdio

__all__ = ["JoinedProcess", "join"]


def join(
    operations: Iterable[Operation],
    stdio: Stdio,
    first: int,
    place: Callable[[int], object] | None = None,
    agent: Callable[[int, int], object] | None = None,
) -> JoinedProcess:
    """Run a plan that joins the namespaces of a process (``first``, a pidfd), up to the execution of its command.

    ``place`` is called with the pid before: to move it into the container's cgroups. ``agent`` is that of `Launch`.
    Raises `LaunchError`, and what ``place`` does; nothing is left then.
    """
    sweep()
    launch = Launch(operations, agent=agent)
    try:
        child = spawn_launcher(launch, stdio, more=(first,))
    except BaseException:
        launch.close()
        raise
    process = JoinedProcess(child)
    try:
        launch.started()
        launch.ready()
        pid = process.hold(launch)
        if place is not None:
            place(pid)
        launch.go()
        process.seccomp_listener = launch.take_listener()
    except BaseException:
        launch.close()  # what waits for its word gives up
        pidfd.wait(child.pidfd)
        process.exit()
        process.close()
        raise
    launch.close()
    return process


class JoinedProcess(ProcessHandle):
    """One more process in a container. Our child waits for it outside and ends as it does (c/exec.c, op_join)."""

    def __init__(self, outside: Started) -> None:
        self.exit_fd = outside.pidfd
        self.pid: int | None = None
        self._pidfd = -1

    def hold(self, launch: Launch) -> int:
        """Take hold of the process that joined, while it waits; its pid. Raises `LaunchError` when it was killed."""
        assert launch.pid is not None
        self.pid, self.terminal = launch.pid, launch.terminal
        try:
            self._pidfd = pidfd.open(launch.pid)
        except ProcessLookupError as error:
            message = "exec: the process was killed before it executed its command"
            raise LaunchError(message, step="exec", errno=error.errno or 0) from error
        return launch.pid

    def signal(self, number: signal.Signals) -> None:
        if self._pidfd < 0:
            raise ProcessLookupError("the process has ended")
        pidfd.send_signal(self._pidfd, number)

    def exit(self) -> Exit:
        status = pidfd.wait_status(self.exit_fd)
        self.pid = None
        return Exit.from_wait_status(status)

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self.pid is not None and self.exit_fd >= 0:  # it runs on, and is to be reaped
            leave(self.exit_fd)
            self.exit_fd = -1
        super().close()
