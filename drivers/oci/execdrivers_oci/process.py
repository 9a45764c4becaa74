"""Has a runtime make processes whose end will be known: the first of a container, and those executed in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from execdrivers import pidfd
from execdrivers.driver import Stdio
from execdrivers.errors import LaunchError
from execdrivers.launcher import Launch, Operation, Reaper, Spawner, ending
from execdrivers_oci.tool import Tool, environment, launch_error

if TYPE_CHECKING:
    from execdrivers_oci.console import Console

__all__ = ["Process", "command_line"]

#: Seconds in which a reaper tells of an end that was seen, a runtime's terminal arrives …
_SOON = 5.0


def command_line(tool: Tool, args: Sequence[str], name: str, label: str, console: str = "") -> tuple[str, ...]:
    """What makes a process of container ``name``: a verb and its options, with those that concern the process.

    ``label`` is what its files are called, ``console`` the path of the socket for its terminal.
    """
    terminal = ("--console-socket", console) if console else ()
    options = ("--preserve-fds", "3", "--pid-file", f"{tool.directory}/{label}.pid", *terminal)
    return tool.argv(label, *args, *options, name)


class Process:
    """A process that a runtime has made, through a reaper that is its parent from then on.

    ``pid``, ``exit_fd`` (a pidfd) and ``start_time`` are known as soon as it is made; it waits for `launch` then.
    """

    def __init__(
        self,
        tool: Tool,
        args: Sequence[str],
        name: str,
        operations: Sequence[Operation],
        stdio: Stdio,
        *,
        step: str = "create",
        label: str = "create",
        by: Spawner | None = None,
    ) -> None:
        """Run the `command_line`; ``by`` is that of `Reaper`. Raises `LaunchError`, whose ``step`` that is; nothing is
        left then."""
        self.pid: int | None = None
        #: Pid and start time of its parent.
        self.reaper: tuple[int, int | None] = (-1, None)
        self.exit_fd = -1
        self.terminal: int | None = None
        self._tool = tool
        self._step = step
        self._label = label
        self._ended = False
        self._init = any(item.name == "exec" and item.args[0] for item in operations)
        self._stdio: list[int] = []
        self._reaper: Reaper | None = None
        tty = not any(item.name == "stdio" for item in operations)
        try:
            # The engine's are gone when the launcher takes them over.
            for fd in () if tty else (stdio.stdin, stdio.stdout, stdio.stderr):
                self._stdio.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
            self._launch = Launch(operations, None if tty else Stdio(*self._stdio))
        except OSError as error:
            self._close_stdio()
            if isinstance(error, LaunchError):
                raise
            raise LaunchError(f"stdio: {error.strerror}", step="stdio", errno=error.errno or 0) from error
        pid_file = f"{label}.pid"
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(tool.forget, f"{label}.log", pid_file)
                console = self._console(stack) if tty else None
                argv = command_line(tool, args, name, label, console.path if console else "")
                self._reaper = Reaper(
                    argv, Stdio(-1, -1, -1), env=environment(), descriptors=self._launch.descriptors, by=by
                )
                self._launch.started()
                self._await_tool()
                self._hold(pid_file)
                if console:
                    self.terminal = console.receive(_SOON)
        except BaseException:
            self.abandon()
            raise

    def _console(self, stack: contextlib.ExitStack) -> Console:
        from execdrivers_oci.console import Console

        return stack.enter_context(Console(self._tool.directory, self._label))

    def _await_tool(self) -> None:
        assert self._reaper is not None
        status = self._reaper.status(self._reaper.pid, self._tool.timeout)
        if status is None:
            text = f"{self._tool.path} did not end within {self._tool.timeout:g} seconds and was killed"
            raise LaunchError(f"{self._step}: {text}", step=self._step, remedy="see whether it works by itself")
        if status:
            text = self._tool.reason(self._label) or f"{self._tool.path} {ending(status)} and does not say why"
            raise launch_error(self._step, text)

    def _hold(self, pid_file: str) -> None:
        """Take hold of the process that the pid file names, if the runtime has really made it."""
        assert self._reaper is not None
        try:
            with open(f"{self._tool.directory}/{pid_file}", encoding="ascii", errors="replace") as file:
                text = file.read(32)
            pid = int(text)
            if not 0 < pid < 1 << 31:
                raise ValueError(text)
        except (OSError, ValueError) as error:
            what = f"wrote {text!r} as a pid" if isinstance(error, ValueError) else "reports success, but no process"
            raise LaunchError(f"{self._step}: {self._tool.path} {what}", step=self._step) from None
        with contextlib.suppress(OSError):
            self.exit_fd = pidfd.open(pid)
        # Asked once we hold it: now it cannot become another's.
        if self.exit_fd < 0 or not self._reaper.adopted(pid):
            status = self._reaper.status(pid, 0)
            if status is None:
                text = f"{self._tool.path} says that the process is {pid}, which is none that it has made"
            else:
                text = f"the process {ending(status)} before the command was executed"
            raise LaunchError(f"{self._step}: {text}", step=self._step)
        self.pid = pid
        self.reaper = self._reaper.parent, pidfd.start_time(self._reaper.parent)
        self.start_time = pidfd.start_time(pid)

    def launch(self) -> None:
        """Have the command executed. Raises `LaunchError`."""
        assert self._reaper is not None
        try:
            self._launch.ready(self._tool.timeout, tool=self._reaper.exit_fd)
        finally:
            self._close_stdio()
        self._launch.go()

    @property
    def channels(self) -> tuple[int, ...]:
        """Where its end will be told: see `ProcessHandle.channels`."""
        assert self._reaper is not None
        return (*((self._launch.channel,) if self._init else ()), self._reaper.channel)

    def signal(self, number: signal.Signals) -> None:
        """Raises ProcessLookupError when it has ended."""
        if self.exit_fd < 0:
            raise ProcessLookupError(f"process {self.pid} has ended")
        pidfd.send_signal(self.exit_fd, number)

    def wait_status(self) -> int | None:
        """How the command ended; called once ``exit_fd`` is readable."""
        assert self._reaper is not None and self.pid is not None
        self._ended = True
        status = self._launch.exit_status() if self._init else None
        if status is None:
            status = self._reaper.status(self.pid, _SOON)
        # Without the reaper, which somebody must have killed, the kernel may know.
        return pidfd.wait_status(self.exit_fd) if status is None else status

    def close(self) -> None:
        """Let go of it; it lives on. May be called twice."""
        # When all that the reaper cares for has ended, it is about to end too, and ours to reap.
        alone = self._ended and self._reaper is not None and not self._reaper.children()
        self._close(_SOON if alone else 0.0)

    def destroy(self) -> None:
        """Kill it, with what the runtime has left beside it, and let go. May be called twice."""
        if self._reaper is not None:
            self._reaper.kill()
        self._close(_SOON)

    def abandon(self) -> None:
        """Destroy it before anybody else holds its terminal."""
        self.destroy()
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = None

    def _close(self, timeout: float) -> None:
        self._launch.close()
        self._close_stdio()
        if self._reaper is not None:
            self._reaper.close(timeout)
        if self.exit_fd >= 0:
            os.close(self.exit_fd)
            self.exit_fd = -1

    def _close_stdio(self) -> None:
        while self._stdio:
            os.close(self._stdio.pop())
