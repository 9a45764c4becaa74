"""Runs LXC's tools: with a time limit, with nothing of ours but what they are given, and reads their logs."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence

from execdrivers.driver import Stdio
from execdrivers.errors import LaunchError, OperationError
from execdrivers.launcher import Spawner, Started, ToolError, call, spawn

__all__ = [
    "TIMEOUT",
    "environment",
    "launch_error",
    "log_errors",
    "operation_error",
    "run",
    "start",
]

#: Seconds that one call of a tool may take, the start of a container included.
TIMEOUT = 30.0

#: Most that is read of a log, in bytes.
_LIMIT = 64 * 1024


def environment() -> dict[str, str]:
    """Of a tool. What would change its words or its files stays away."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def start(
    argv: Sequence[str], descriptors: Sequence[int] = (), *, cgroup: str = "", by: Spawner | None = None
) -> Started:
    """Start a tool, in a cgroup of v2 where that is given: from there LXC counts; ``by`` is that of `spawn`. Raises
    `LaunchError`."""
    with _opened(cgroup) as fd:
        return spawn(argv, Stdio(-1, -1, -1), descriptors, env=environment(), cgroup=fd, by=by)


def run(argv: Sequence[str], log: str, *, cgroup: str = "") -> None:
    """Have a tool do something; it logs to the file ``log``. Raises `ToolError`; nothing of it runs any more then."""
    with _opened(cgroup) as fd:
        try:
            call(argv, TIMEOUT, env=environment(), cgroup=fd)
        except ToolError as error:
            raise ToolError(": ".join(log_errors(log)) or f"{argv[0]} {error}") from None


@contextlib.contextmanager
def _opened(cgroup: str) -> Iterator[int]:
    fd = os.open(cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if cgroup else -1
    try:
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)


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
