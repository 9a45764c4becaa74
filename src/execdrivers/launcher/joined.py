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
from execdrivers.launcher.launch import Launch, Started, UnderWay, spawn_launcher
from execdrivers.launcher.operations import Operation
from execdrivers.launcher.reaper import leave, sweep

if TYPE_CHECKING:
    from execdrivers.driver import Stdio

__all__ = ["JoinedProcess", "join"]

#: Seconds that a launcher may take to see that its caller is gone.
_GIVES_UP = 0.02
#: And to end, after what it waits for has ended; and how often to look whether it has, which takes a microsecond.
_FOLLOWS, _LOOKS = 10.0, 100

#: Where there are several, they have no processor to themselves.
_under_way = UnderWay()


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
    with _under_way as alone:
        return _run(launch, stdio, first, place, agent, alone=alone)


def _run(
    launch: Launch,
    stdio: Stdio,
    first: int,
    place: Callable[[int], object] | None,
    agent: Callable[[int, int], object] | None,
    *,
    alone: bool,
) -> JoinedProcess:
    beside = place is None
    child = spawn_launcher(launch, stdio, more=(first,), beside=beside, alone=alone and beside)
    process = JoinedProcess(child)
    try:
        launch.started()
        waits = place is not None or agent is not None or launch.listens
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


def _await(fd: int) -> None:
    """Wait for the end of a process that is about to end: looking, first, for to be woken takes longer than that."""
    if not any(pidfd.wait(fd, 0) for _ in range(_LOOKS)):
        pidfd.wait(fd, _FOLLOWS)


class JoinedProcess(ProcessHandle):
    """One more process in a container. Our child waits for it outside and ends as it does (c/exec.c, op_join).

    Its own end is waited for, not our child's, which comes with it: so the two wake at the same time, not one after the
    other.
    """

    def __init__(self, outside: Started) -> None:
        self._outside = outside
        self.exit_fd = outside.pidfd
        self.pid: int | None = None

    def hold(self, launch: Launch, *, waits: bool) -> int:
        """Take hold of the process that joined; its pid.

        While it ``waits`` it cannot have ended but by being killed, for which `LaunchError` is raised.
        """
        assert launch.pid is not None
        self.pid, self.terminal = launch.pid, launch.terminal
        inside = self._open(launch.pid)
        if inside >= 0:
            self.exit_fd = inside
        elif waits:
            message = "exec: the process was killed before it executed its command"
            raise LaunchError(message, step="exec", errno=errno.ESRCH)
        return launch.pid

    def _open(self, pid: int) -> int:
        """A pidfd of what joined; -1 when it has ended, and its pid may be another's."""
        try:
            fd = pidfd.open(pid)
        except ProcessLookupError:
            return -1
        if pid in pidfd.children(self._outside.pid):  # now, so that the pidfd is of no other
            return fd
        os.close(fd)
        return -1

    def kill_inside(self) -> None:
        """Kill what joined, if it is there by now."""
        for pid in pidfd.children(self._outside.pid):
            fd = self._open(pid)
            if fd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    pidfd.send_signal(fd, signal.SIGKILL)
                os.close(fd)

    def signal(self, number: signal.Signals) -> None:
        if self.exit_fd in (-1, self._outside.pidfd):
            raise ProcessLookupError("the process has ended")
        pidfd.send_signal(self.exit_fd, number)

    def exit(self) -> Exit:
        _await(self._outside.pidfd)
        status = pidfd.wait_status(self._outside.pidfd)
        self.pid = None
        return Exit.from_wait_status(status)

    def close(self) -> None:
        outside, self._outside = self._outside, Started(self._outside.pid, -1)
        if self.exit_fd == outside.pidfd:
            self.exit_fd = -1
        super().close()
        if outside.pidfd >= 0 and self.pid is not None:  # it runs on, and is to be reaped
            leave(outside.pidfd)
        elif outside.pidfd >= 0:
            os.close(outside.pidfd)
