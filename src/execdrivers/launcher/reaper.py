"""True exits of what tools make and leave: a launcher that becomes the parent."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from execdrivers import pidfd
from execdrivers.launcher.launch import Launch, Spawner, Started, spawn_launcher
from execdrivers.launcher.operations import operation

if TYPE_CHECKING:
    from execdrivers.driver import Stdio

__all__ = ["Reaper", "leave", "sweep"]

#: Reentrant: the collector may drop a container anywhere.
_lock = threading.RLock()
#: Pidfds of children of this program that nobody waits for, which has to look after those that have left.
_leaving: list[int] = []


class Reaper:
    """Runs a tool that makes processes and leaves, as ``runc create`` does, and tells how each of them really ended.

    A launcher of its own becomes their parent; the calling program, which may have other children to care for, does not
    become a subreaper. It lives as long as they do.
    """

    def __init__(
        self,
        argv: Sequence[str],
        stdio: Stdio,
        *,
        env: Mapping[str, str],
        descriptors: Sequence[int] = (),
        by: Spawner | None = None,
    ) -> None:
        """Start the tool with ``descriptors`` as its 3, 4 …; ``by`` is to be the reaper's parent, None: this program.
        Raises `LaunchError`."""
        adopt = operation("adopt", tuple(argv), tuple(f"{key}={value}" for key, value in env.items()), len(descriptors))
        sweep()
        self._launch = Launch([adopt])
        self._statuses: dict[int, int] = {}
        #: To be reaped by this program.
        self._ours = by is None
        try:
            self._process = spawn_launcher(self._launch, stdio, more=descriptors, by=by)
            self._launch.started()
            self._launch.ready()
        except BaseException:
            self._launch.close()
            if hasattr(self, "_process"):
                pidfd.reap(self._process.pidfd)
            raise
        #: The tool's.
        self.pid = self._launch.step

    def status(self, pid: int, timeout: float | None = None) -> int | None:
        """The wait status of the tool or of a process that it left; waits for its end.

        None: not within ``timeout`` seconds, or the reaper was killed and nobody can tell.
        """
        while pid not in self._statuses:
            poll = select.poll()
            poll.register(self._launch._control, select.POLLIN)
            if not poll.poll(None if timeout is None else max(0.0, 1000 * timeout)):
                return None
            message = self._launch._receive()
            if message is None:
                return None
            self._statuses[self._launch.step] = message[1]
        return self._statuses[pid]

    @property
    def parent(self) -> int:
        """The pid of the reaper itself: the parent of all whose end it tells."""
        return self._process.pid

    @property
    def channel(self) -> int:
        """The socket on which the ends are told: for `ProcessHandle.channels`. -1 once closed."""
        return self._launch.channel

    @property
    def exit_fd(self) -> int:
        """Readable when the tool and all that it made have ended: for `Launch.ready`."""
        return self._process.pidfd

    def adopted(self, pid: int) -> bool:
        """Whether the process is alive and the tool's or one that it left: its end will be told by `status`."""
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                return int(file.read().rpartition(")")[2].split()[1]) == self._process.pid
        except (OSError, IndexError):
            return False

    def kill(self, timeout: float = 10.0) -> None:
        """Kill the tool and all that it left, until there is none, and close; so many seconds at the most."""
        if self._process.pidfd < 0:
            return
        deadline = time.monotonic() + timeout
        while not pidfd.wait(self._process.pidfd, 0) and time.monotonic() < deadline:
            # What one of them leaves behind becomes the reaper's own child, and is found the next time.
            for pid in self.children():
                try:
                    fd = pidfd.open(pid)
                except OSError:
                    continue  # ended meanwhile
                with contextlib.suppress(ProcessLookupError):
                    if self.adopted(pid):
                        pidfd.send_signal(fd, signal.SIGKILL)
                os.close(fd)
            pidfd.wait(self._process.pidfd, 0.02)
        self.close()

    def children(self) -> list[int]:
        """The pids of all whose end is still to be told."""
        return pidfd.children(self._process.pid)

    def close(self, timeout: float = 0.0) -> None:
        """Let go of it. It leaves when the last of its processes has; that is waited for, so many seconds. May be
        called twice."""
        self._launch.close()
        if self._process.pidfd >= 0:
            pidfd.wait(self._process.pidfd, timeout)
            if self._ours:
                leave(self._process.pidfd)
            else:
                os.close(self._process.pidfd)
            self._process = Started(self._process.pid, -1)
        sweep()


def leave(fd: int) -> None:
    """Let go of a child of this program by its pidfd, which is closed once it has ended and `sweep` has reaped it."""
    _leaving.append(fd)


def sweep() -> None:
    """Reap the children that were let go of and have ended since. Each new reaper sees to that too."""
    if not _leaving:
        return
    poll = select.poll()
    with _lock:
        for fd in tuple(_leaving):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(0):
            if fd in _leaving:  # else it was swept up meanwhile
                _leaving.remove(fd)
                pidfd.wait_status(fd)
                os.close(fd)
