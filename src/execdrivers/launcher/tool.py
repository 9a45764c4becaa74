"""Calls a tool, for what it says and how it ends: within a time, and with nothing of ours but what it is given."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence

from execdrivers import pidfd
from execdrivers.driver import Stdio
from execdrivers.errors import LaunchError
from execdrivers.launcher.launch import spawn

__all__ = ["ToolError", "call", "ending"]

#: Most that is kept of what a tool prints, in bytes.
_LIMIT = 64 * 1024


class ToolError(Exception):
    """A tool could not be run, failed, or did not end in time; the text says it, without the tool's name.

    ``errno``: why it could not be run; ETIMEDOUT; 0 when it ran and failed.
    """

    def __init__(self, text: str, errno: int = 0) -> None:
        super().__init__(text)
        self.errno = errno


def call(
    argv: Sequence[str],
    timeout: float | None,
    *,
    env: Mapping[str, str],
    cgroup: int = -1,
    stdin: int = -1,
    path: str = "",
    directory: str = "",
) -> str:
    """Run a tool and wait, ``timeout`` seconds at the most; what it prints on both streams.

    ``argv[0]`` is its absolute path unless ``path`` is; ``cgroup`` is a descriptor of one of v2 to run it in,
    ``directory`` its working directory. Raises `ToolError`; nothing of it runs any more then. It is killed when this
    program is.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child, data, ended, status = None, b"", False, None
    try:
        given = Stdio(stdin, writer, writer)
        # Killed as we are: what it did later would be against whoever comes after us.
        child = spawn(argv, given, env=env, cgroup=cgroup, path=path, directory=directory, bound=True)
        os.close(writer)
        writer = -1
        data, ended = _listen(child.pidfd, reader, timeout)
    except LaunchError as error:
        raise ToolError(f"cannot be executed: {error.strerror}", error.errno or 0) from None
    finally:
        if child is not None:
            if not ended:
                _kill(child.pid)
                pidfd.wait(child.pidfd)
            status = pidfd.wait_status(child.pidfd)
            os.close(child.pidfd)
        for fd in filter(lambda fd: fd >= 0, (reader, writer)):
            os.close(fd)
    if not ended:
        raise ToolError(f"did not end within {timeout:g} seconds and was killed", errno.ETIMEDOUT)
    text = data.decode(errors="replace").strip()
    if status:
        raise ToolError(": ".join(filter(None, (ending(status), text[-500:]))))
    return text


def ending(status: int) -> str:
    """A wait status in words."""
    number = os.waitstatus_to_exitcode(status)
    if number >= 0:
        return f"exited with {number}"
    try:
        return f"was killed by {signal.Signals(-number).name}"
    except ValueError:
        return f"was killed by signal {-number}"


def _kill(leader: int) -> None:
    """Kill a tool that is not reaped yet: the session that it leads, and its descendants that have left that."""
    held: dict[int, int] = {}
    pending = [leader]
    while pending:
        above = pending.pop()
        for pid in pidfd.children(above):
            with contextlib.suppress(OSError):
                if pid not in held:
                    held[pid] = pidfd.open(pid)
                    pending.append(pid)
    os.killpg(leader, signal.SIGKILL)
    for fd in held.values():
        with contextlib.suppress(ProcessLookupError):
            pidfd.send_signal(fd, signal.SIGKILL)
        os.close(fd)


def _listen(process: int, reader: int, timeout: float | None) -> tuple[bytes, bool]:
    """What comes out until the process ends, and whether it does in time."""
    deadline = None if timeout is None else time.monotonic() + timeout
    poll = select.poll()
    for fd in (process, reader):
        poll.register(fd, select.POLLIN)
    data = b""
    while events := poll.poll(None if deadline is None else max(0.0, 1000 * (deadline - time.monotonic()))):
        ready = [fd for fd, _ in events]
        if reader in ready:
            chunk = os.read(reader, _LIMIT)
            data += chunk[: _LIMIT - len(data)]
            if not chunk:
                poll.unregister(reader)
        if process in ready:
            return data, True  # what it has left behind may say what it likes
    return data, False
