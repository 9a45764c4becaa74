"""Calls a tool, for what it says and how it ends: within a time, and with nothing of ours but what it is given."""

from __future__ import annotations

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
    """A tool could not be run, failed, or did not end in time; the text says it, without the tool's name."""


def call(argv: Sequence[str], timeout: float, *, env: Mapping[str, str], cgroup: int = -1) -> str:
    """Run ``argv`` (absolute path first) and wait, ``timeout`` seconds at the most; what it prints on both streams.

    ``cgroup`` is a descriptor of one of v2 to run it in. Raises `ToolError`; nothing of it runs any more then.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child, data, ended, status = None, b"", False, None
    try:
        child = spawn(argv, Stdio(-1, writer, writer), env=env, cgroup=cgroup)
        os.close(writer)
        writer = -1
        data, ended = _listen(child.pidfd, reader, timeout)
    except LaunchError as error:
        raise ToolError(f"cannot be executed: {error.strerror}") from None
    finally:
        if child is not None:
            if not ended:
                os.killpg(child.pid, signal.SIGKILL)  # it leads a session, and is not reaped yet
                pidfd.wait(child.pidfd)
            status = pidfd.wait_status(child.pidfd)
            os.close(child.pidfd)
        for fd in filter(lambda fd: fd >= 0, (reader, writer)):
            os.close(fd)
    if not ended:
        raise ToolError(f"did not end within {timeout:g} seconds and was killed")
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


def _listen(process: int, reader: int, timeout: float) -> tuple[bytes, bool]:
    """What comes out until the process ends, and whether it does in time."""
    deadline = time.monotonic() + timeout
    poll = select.poll()
    for fd in (process, reader):
        poll.register(fd, select.POLLIN)
    data = b""
    while events := poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        if all(fd == process for fd, _ in events):
            return data, True
        data += (chunk := os.read(reader, _LIMIT))
        if not chunk or len(data) >= _LIMIT:
            poll.unregister(reader)  # closed, or one that floods, which may wait until its time is up
    return data, False
