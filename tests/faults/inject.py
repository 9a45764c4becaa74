"""Faults of the launcher: one of its system calls fails, by strace(1), which attaches at the beginning of its plan."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from execdrivers.launcher import Launch, joined, operation
from execdrivers_native import start

__all__ = ["PLAUSIBLE", "Tracer", "plausible"]

#: What the kernel may say when a call cannot be done, besides what is an answer (ENOENT of a path that is looked for).
PLAUSIBLE: dict[str, tuple[str, ...]] = {
    "openat": ("EMFILE", "ENFILE", "ENOMEM", "EIO"),  # EACCES is an answer: a device on a nodev mount
    "openat2": ("EACCES", "EMFILE", "ENOMEM", "ELOOP"),
    "open_tree": ("EPERM", "EMFILE", "ENOMEM"),
    "move_mount": ("EPERM", "ENOSPC", "EINVAL"),
    "mount": ("EPERM", "EINVAL", "ENOMEM"),
    "mount_setattr": ("EPERM", "EINVAL", "ENOMEM"),
    "fsopen": ("EPERM", "ENODEV", "EMFILE"),
    "fsconfig": ("EINVAL", "EBUSY", "ENOMEM"),
    "fsmount": ("EBUSY", "EMFILE", "ENOMEM"),
    "mkdirat": ("ENOSPC", "EROFS", "EDQUOT"),
    "mknodat": ("EPERM", "ENOSPC", "EROFS"),
    "symlinkat": ("ENOSPC", "EROFS"),
    "fchownat": ("EPERM", "EROFS"),
    "pivot_root": ("EBUSY", "EINVAL"),
    "umount2": ("EBUSY", "EINVAL"),
    "write": ("ENOSPC", "EIO", "EINVAL"),
    "clone": ("EAGAIN", "ENOMEM"),
    "clone3": ("EAGAIN", "ENOMEM"),
    "execve": ("ENOMEM", "EIO", "EACCES"),
    "setresuid": ("EAGAIN", "EPERM"),
    "mmap": ("ENOMEM", "EAGAIN"),
    "prctl": ("EPERM",),
    "seccomp": ("ENOMEM", "EINVAL", "EACCES"),
    "dup3": ("EMFILE", "EINTR"),
    "sendmsg": ("EAGAIN", "ENOBUFS"),
    "read": ("EIO",),
    "setsid": ("EIO",),  # EPERM is an answer
    "wait4": ("EINTR",),
    "statx": ("EACCES", "ENOMEM"),
    "keyctl": ("EDQUOT", "ENOMEM"),
}
#: Nothing can be done about these, or they cannot fail.
HARMLESS = frozenset({"close", "exit_group", "exit", "umask", "getpid", "getsid", "restart_syscall", "munmap"})


def plausible(call: str) -> tuple[str, ...]:
    return () if call in HARMLESS else PLAUSIBLE.get(call, ("EPERM", "ENOMEM"))


class Tracer:
    """Traces launchers, and lets the n-th call of a name fail in each process. ``calls``: what each of them called."""

    def __init__(self, call: str = "", at: int = 0, error: str = "") -> None:
        self.call, self.at, self.error = call, at, error
        self.calls: dict[int, list[str]] = {}
        #: Whether the fault hit the command, which strace lets go a moment after its execution.
        self.late = False
        self._processes: list[tuple[subprocess.Popen[bytes], Path]] = []

    @contextlib.contextmanager
    def active(self, *, further: bool = False) -> Iterator[Tracer]:
        """Within, launches of the native driver's containers are traced, or those of ``further`` processes."""
        with mock.patch.object(joined if further else start, "Launch", self._launch):
            try:
                yield self
            finally:
                self._collect()

    def _launch(self, operations: Any, *args: Any, points: Any = None, **more: Any) -> Launch:
        def traced() -> Iterator[Any]:
            yield operation("sync", "faults")
            yield from operations() if callable(operations) else operations

        launch = Launch(
            traced,
            *args,
            points={**(points or {}), "faults": lambda: self._attach(launch.pid or 0)},
            **more,
        )
        return launch

    def _attach(self, pid: int) -> None:
        file, name = tempfile.mkstemp(prefix="strace-")
        os.close(file)
        inject = [f"-einject={self.call}:error={self.error}:when={self.at}"] if self.at else []
        # Until the command is executed: what it does then is its own business.
        command = ["strace", "-f", "-b", "execve", "-qqq", "-o", name, *inject, "-p", str(pid)]
        self._processes.append((subprocess.Popen(command, stderr=subprocess.DEVNULL), Path(name)))
        while f"TracerPid:\t{self._processes[-1][0].pid}\n" not in _status(pid):
            if self._processes[-1][0].poll() is not None:
                return  # the very first call failed, and the launcher has left

    def _collect(self) -> None:
        for process, log in self._processes:
            process.wait(20)
            executed = False
            for line in log.read_text(errors="replace").splitlines():
                self.late |= executed and "(INJECTED)" in line
                executed |= re.search(r" execve\(.*(= 0$|<detached)", line) is not None
                if match := re.match(r"(\d+) +(\w+)\(", line):
                    self.calls.setdefault(int(match[1]), []).append(match[2])
            log.unlink()
        for calls in self.calls.values():
            if "seccomp" in calls and "execve" not in calls:
                # An init. From its own filter on none can fail: strace does that by taking the call's number away, for
                # which the filter would kill.
                del calls[len(calls) - calls[::-1].index("seccomp") :]
        self._processes.clear()
        # A traced process is shown to its parent only when the tracer has seen its end.
        for pid in self.calls:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""  # it has ended


def number(name: str) -> int:
    """The errno of that name."""
    return int(getattr(errno, name))
