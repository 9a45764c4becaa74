"""One more process in a container that is made of namespaces: a launcher that joins them. For `Handle.exec`."""

from __future__ import annotations

import contextlib
import errno
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

#: Seconds that a launcher may take to see that its caller is gone.
_GIVES_UP = 0.02


def join(
    operations: Iterable[Operation] | Callable[[], Iterable[Operation]],
    stdio: Stdio,
    first: int,
    place: Callable[[int], object] | None = None,
    agent: Callable[[int, int], object] | None = None,
) -> JoinedProcess:
    """Run a plan that joins the namespaces of a process (``first``, a pidfd), up to the execution of its command.

    ``operations`` is the plan, or what makes it, which is called while the launcher comes into being. ``place`` is
    called with the pid before: to move it into the container's cgroups. ``agent`` is that of `Launch`.
    With neither it need not wait for us, and does not. Raises `LaunchError`, and what ``operations`` and ``place`` do;
    nothing is left then.
    """
    sweep()
    launch = Launch(operations, agent=agent)
    child = spawn_launcher(launch, stdio, more=(first,), beside=place is None)
    process = JoinedProcess(child)
    try:
        launch.started()
        waits = place is not None or agent is not None or any(item.listens for item in launch.operations)
        if not waits:
            launch.say_go()
            launch.await_end()  # whatever comes of it: to be woken once is enough
        launch.ready()
        pid = process.hold(launch, waits=waits)
        if place is not None:
            place(pid)
        if waits:
            launch.go()
        else:
            launch.outcome()
        process.seccomp_listener = launch.take_listener()
    except BaseException:
        launch.close()  # what waits for its word gives up
        while not pidfd.wait(child.pidfd, _GIVES_UP):
            process.kill_inside()  # it had its word before
        process.exit()
        process.close()
        raise
    launch.close()
    return process


class JoinedProcess(ProcessHandle):
    """One more process in a container. Our child waits for it outside and ends as it does (c/exec.c, op_join)."""

    def __init__(self, outside: Started) -> None:
        self._outside = outside.pid
        self.exit_fd = outside.pidfd
        self.pid: int | None = None
        self._pidfd = -1

    def hold(self, launch: Launch, *, waits: bool) -> int:
        """Take hold of the process that joined; its pid.

        While it ``waits`` it cannot have ended but by being killed, for which `LaunchError` is raised.
        """
        assert launch.pid is not None
        self.pid, self.terminal = launch.pid, launch.terminal
        self._pidfd = self._open(launch.pid)
        if waits and self._pidfd < 0:
            message = "exec: the process was killed before it executed its command"
            raise LaunchError(message, step="exec", errno=errno.ESRCH)
        return launch.pid

    def _open(self, pid: int) -> int:
        """A pidfd of what joined; -1 when it has ended, and its pid may be another's."""
        try:
            fd = pidfd.open(pid)
        except ProcessLookupError:
            return -1
        if pid in pidfd.children(self._outside):  # now, so that the pidfd is of no other
            return fd
        os.close(fd)
        return -1

    def kill_inside(self) -> None:
        """Kill what joined, if it is there by now."""
        for pid in pidfd.children(self._outside):
            fd = self._open(pid)
            if fd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    pidfd.send_signal(fd, signal.SIGKILL)
                os.close(fd)

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
