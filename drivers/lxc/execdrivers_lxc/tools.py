"""Runs LXC's tools: with a time limit, with nothing of ours but what they are given, and reads their logs."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import time
from collections.abc import Sequence

from execdrivers import pidfd
from execdrivers.driver import Stdio
from execdrivers.errors import LaunchError, OperationError
from execdrivers.launcher import Started, spawn

__all__ = [
    "TIMEOUT",
    "ToolError",
    "call",
    "environment",
    "launch_error",
    "log_errors",
    "operation_error",
    "output",
    "start",
]

#: Seconds that one call of a tool may take, the start of a container included.
TIMEOUT = 30.0

#: Most that is read of what a tool prints or logs, in bytes.
_LIMIT = 64 * 1024


class ToolError(Exception):
    """A tool could not be run, failed, or did not end in time; the text says it."""


def environment() -> dict[str, str]:
    """Of a tool. What would change its words or its files stays away."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def start(argv: Sequence[str], descriptors: Sequence[int] = (), *, cgroup: str = "") -> Started:
    """Start a tool, in a cgroup of v2 where that is given: from there LXC counts. Raises `LaunchError`."""
    fd = os.open(cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if cgroup else -1
    try:
        return spawn(argv, Stdio(-1, -1, -1), descriptors, env=environment(), cgroup=fd)
    finally:
        if fd >= 0:
            os.close(fd)


def call(argv: Sequence[str], log: str, *, cgroup: str = "") -> None:
    """Have a tool do something; it logs to the file ``log``. Raises `ToolError`; nothing of it runs any more then."""
    try:
        child = start(argv, cgroup=cgroup)
    except LaunchError as error:
        raise _not_executed(argv, error) from None
    status = _end(child, time.monotonic() + TIMEOUT)
    if status is None:
        raise ToolError(f"{argv[0]} did not end within {TIMEOUT:g} seconds and was killed")
    if status:
        raise ToolError(": ".join(log_errors(log)) or f"{argv[0]} {_ending(status)} and does not say why")


def output(argv: Sequence[str], timeout: float) -> str:
    """What a tool prints, on both streams. Raises `ToolError`."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            child = spawn(argv, Stdio(-1, writer, writer), env=environment())
        except LaunchError as error:
            raise _not_executed(argv, error) from None
        finally:
            os.close(writer)
        deadline = time.monotonic() + timeout
        data = _read(reader, deadline)
        status = _end(child, deadline)
    finally:
        os.close(reader)
    if status is None:
        raise ToolError(f"did not end within {timeout:g} seconds and was killed")
    text = data.decode(errors="replace").strip()
    if status:
        raise ToolError(": ".join(filter(None, (_ending(status), text[-500:]))))
    return text


def _not_executed(argv: Sequence[str], error: LaunchError) -> ToolError:
    return ToolError(f"{argv[0]} cannot be executed: {error.strerror}")


def _read(reader: int, deadline: float) -> bytes:
    data = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while len(data) < _LIMIT and poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        chunk = os.read(reader, _LIMIT)
        if not chunk:
            break
        data += chunk
    return data


def _end(child: Started, deadline: float) -> int | None:
    """The tool's wait status; None: it has not ended in time, and was killed."""
    try:
        poll = select.poll()
        poll.register(child.pidfd, select.POLLIN)
        if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            os.killpg(child.pid, signal.SIGKILL)  # it leads a session, and is not reaped yet
            poll.poll()
            pidfd.wait_status(child.pidfd)
            return None
        return pidfd.wait_status(child.pidfd) or 0
    finally:
        os.close(child.pidfd)


def _ending(status: int) -> str:
    number = os.waitstatus_to_exitcode(status)
    return f"exited with {number}" if number >= 0 else f"was killed by {signal.Signals(-number).name}"


# --- what they log ----------------------------------------------------------------------------------------------

#: "lxc-start NAME 20260101120000.000 ERROR    conf - ../src/lxc/conf.c:function:123 - No such file - Failed to …"
_ERROR = re.compile(r"^lxc-\S+ .* (?:ERROR|CRIT|ALERT|FATAL) +\S+ - \S+:\d+ - (.*)$")
#: What follows from another error, or is none: our /dev has no nodes yet when LXC looks.
_NOISE = re.compile(
    r"Can't open /dev/null|container failed to start|Additional information|To get more details|Failed to spawn"
    r"|error occurred in another process|Expected to receive sync|Failed to setup container|Failed to initialize"
    r"|Failed to load config"
)


def log_errors(log: str) -> list[str]:
    """The errors in a log that say something, the first of them being the cause."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LIMIT))
            lines = file.read(_LIMIT).decode(errors="replace").splitlines()
    except OSError:
        return []
    errors = [match[1].strip() for line in lines if (match := _ERROR.match(line))]
    telling = [error for error in errors if not _NOISE.search(error)]
    return list(dict.fromkeys(telling or errors))[:3]


_ERRNOS = {os.strerror(number): number for number in errno.errorcode}

_REMEDIES = (
    (r"create (monitor|container|payload) cgroup", "a cgroup of that name is left over: rmdir it, or use another name"),
    (r"cgroup|memory\.|cpuset\.|cpu\.|pids\.", "the kernel does not take this value: check it against the host's"),
    (r"sysctl|/proc/sys", "the kernel does not take this sysctl: check its name and value"),
    (r"oom_score_adj", "a value below the caller's own takes CAP_SYS_RESOURCE"),
    (r"Failed to mount|mount_entry", "check the mount's source, type and options"),
    (r"rootfs", "give a directory that holds a root file system"),
)


def launch_error(step: str, text: str) -> LaunchError:
    """What a tool gives as its reason, as an error of ours."""
    return LaunchError(f"{step}: {text}", step=step, errno=_errno_in(text), remedy=_remedy(text))


def operation_error(operation: str, text: str) -> OperationError:
    """The same for a container that lives on."""
    return OperationError(f"{operation}: {text}", operation=operation, errno=_errno_in(text), remedy=_remedy(text))


def _errno_in(text: str) -> int:
    """The kernel's reason, by the first of its words in the text; 0 when there are none."""
    found = [(text.find(words), -len(words), number) for words, number in _ERRNOS.items() if words in text]
    return min(found)[2] if found else 0


def _remedy(text: str) -> str:
    return next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), "")
