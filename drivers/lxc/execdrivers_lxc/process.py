"""One more process in a container: brought there by lxc-attach, its true end told by a reaper of our own.

lxc-attach itself would tell neither signals from exits nor anything at all once it is killed; it is ended as soon as
the process is there, and the reaper, which inherits the process then, is its parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence

from execdrivers import cgroups, pidfd
from execdrivers.cgroups import CgroupDir
from execdrivers.driver import ProcessHandle, Stdio
from execdrivers.errors import LaunchError
from execdrivers.exit import Exit
from execdrivers.launcher import Launch, Operation, Reaper
from execdrivers_lxc import tools

__all__ = ["LxcProcess"]

#: Seconds in which a reaper tells of an end that was seen.
_SOON = 5.0


class LxcProcess(ProcessHandle):
    """A process that waits for `go`, or runs."""

    def __init__(
        self,
        argv: Sequence[str],
        log: str,
        operations: Sequence[Operation],
        stdio: Stdio | None,
        made: Sequence[CgroupDir],
        agent: Callable[[int, int], object] | None,
    ) -> None:
        """Have it made by ``argv``, which logs to ``log``, and put into the cgroups of the container. ``agent`` is that
        of `Launch`.

        No ``stdio`` where it makes itself a terminal. Raises `LaunchError`; nothing is left of the process then.
        """
        self.pid: int | None = None
        self.exit_fd = -1
        self.terminal: int | None = None
        self._init = any(item.name == "exec" and item.args[0] for item in operations)
        self._ended = False
        self._reaper: Reaper | None = None
        self._launch = Launch(operations, stdio, agent=agent)
        try:
            self._reaper = Reaper(
                argv, Stdio(-1, -1, -1), env=tools.environment(), descriptors=self._launch.descriptors
            )
            self._launch.started()
            self._await_launcher(log)
            self.terminal = self._launch.terminal
            self._release(argv[0])
            _join(made, self.pid)
        except BaseException:
            self.destroy()
            raise

    def _await_launcher(self, log: str) -> None:
        assert self._reaper is not None
        try:
            self._launch.ready(tools.TIMEOUT, tool=self._reaper.exit_fd)
        except LaunchError as error:
            if error.step != "launch":
                raise
            text = ": ".join(tools.log_errors(log)) or error.message
            raise tools.launch_error("lxc-attach", text) from None

    def _release(self, tool: str) -> None:
        """Take the process over from lxc-attach."""
        reaper, pid = self._reaper, self._launch.pid
        assert reaper is not None and pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(reaper.pid, signal.SIGKILL)  # the reaper does not reap it before it is asked
        reaper.status(reaper.pid, _SOON)
        with contextlib.suppress(OSError):
            self.exit_fd = pidfd.open(pid)
        if self.exit_fd < 0 or not reaper.adopted(pid):
            raise LaunchError(f"{tool}: the process ended before its command was executed", step="lxc-attach")
        self.pid = pid

    def go(self) -> None:
        """Have the command executed. Raises `LaunchError`."""
        self._launch.go()
        self.seccomp_listener = self._launch.take_listener()

    def signal(self, number: signal.Signals) -> None:
        if self.exit_fd < 0:
            raise ProcessLookupError(f"process {self.pid} has ended")
        pidfd.send_signal(self.exit_fd, number)

    def exit(self) -> Exit:
        assert self._reaper is not None and self.pid is not None
        self._ended = True
        status = self._launch.exit_status() if self._init else None
        if status is None:
            status = self._reaper.status(self.pid, _SOON)
        if status is None:
            status = pidfd.wait_status(self.exit_fd)
        self.pid = None
        return Exit.from_wait_status(status)

    def close(self) -> None:
        self._close(_SOON if self._ended else 0.0)

    def destroy(self) -> None:
        """Kill it, with what the tool has left beside it, and let go. May be called twice."""
        if self._reaper is not None:
            self._reaper.kill()
        self._close(_SOON)

    def _close(self, timeout: float) -> None:
        self._launch.close()
        if self._reaper is not None:
            self._reaper.close(timeout)
        super().close()


def _join(made: Sequence[CgroupDir], pid: int | None) -> None:
    """On v2 lxc-attach puts the process into a cgroup of its own below the container's."""
    for cgroup in made:
        if cgroup.version == 2 and pid is not None:
            cgroups.move([cgroup], lambda: [pid])
            with contextlib.suppress(OSError):  # another is on its way in or out
                os.rmdir(f"{cgroup.path}/.lxc")
