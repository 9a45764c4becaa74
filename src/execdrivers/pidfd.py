"""Processes by pidfd: a hold on one process that no reuse of its pid can redirect."""

from __future__ import annotations

import os
import select
import signal
import sys

__all__ = ["children", "is_ending", "open", "open_checked", "reap", "send_signal", "start_time", "wait", "wait_status"]

#: Children that send another signal than SIGCHLD when they end are children too (linux/wait.h).
_WALL = 0x40000000
#: ``_IOWR(0xFF, 11, struct pidfd_info)`` of linux/pidfd.h, in the 64 byte form that all kernels since 6.13 know.
_PIDFD_GET_INFO = 0xC040FF0B
_INFO_SIZE = 64
_PIDFD_INFO_EXIT = 1 << 3
#: Of a process that is on its way out (linux/sched.h).
_PF_EXITING = 0x4


def open(pid: int) -> int:  # the module is meant to be used as pidfd.open
    """A new pidfd, close-on-exec. Raises ProcessLookupError when there is no such process."""
    return os.pidfd_open(pid)


def start_time(pid: int, *, alive: bool = False) -> int | None:
    """When the process started, in clock ticks since boot (proc(5), stat field 22); None when there is none.

    ``alive``: a zombie is none either, unless it is only the first thread that has ended, and others run.
    """
    fields = _stat_fields(pid)
    return int(fields[19]) if fields and not (alive and fields[0] in "ZX" and int(fields[17]) < 2) else None


def is_ending(pid: int) -> bool:
    """Whether the process has ended, is on its way out (PF_EXITING, proc_pid_stat(5)), or SIGKILL is on its way to it
    (SigPnd and ShdPnd, proc_pid_status(5))."""
    fields = _stat_fields(pid)
    if not fields or fields[0] in "ZX" or int(fields[6]) & _PF_EXITING:
        return True
    try:
        with os.fdopen(os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)) as file:
            pending = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd:", "ShdPnd:"))]
    except OSError:
        return True
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)


def children(pid: int) -> list[int]:
    """The pids of the children that its first thread has made or taken in; none when it has gone."""
    parts = []
    try:
        fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while part := os.read(fd, 4096):
                parts.append(part)
        finally:
            os.close(fd)
    except OSError:
        return []
    return list(map(int, b"".join(parts).split()))


def open_checked(pid: int | None, started: int | None) -> int | None:
    """A pidfd of the process with this pid and `start_time`; None when it is gone, or its pid now another's."""
    if pid is None or started is None:
        return None
    try:
        fd = open(pid)
    except OSError:
        return None
    # Read after opening: if they agree now, the pidfd is of that process too.
    if start_time(pid) == started:
        return fd
    os.close(fd)
    return None


def send_signal(fd: int, number: int) -> None:
    """Send a signal. Raises ProcessLookupError when the process has ended and was reaped."""
    signal.pidfd_send_signal(fd, number)


def wait(fd: int, timeout: float | None = None) -> bool:
    """Wait for the end of the process, ``timeout`` seconds at the most; whether it has ended. -1: one that has."""
    if fd < 0:
        return True
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0.0, 1000 * timeout)))


def wait_status(fd: int) -> int | None:
    """How the process ended, as wait(2)'s status word, reaping it when it is a child of ours; never blocks.

    None when it still runs, or when nobody can tell any more. For a process that is not our child, or that something
    else in this program has reaped (a ``SIGCHLD`` handler, ``os.wait()``), the kernel is asked about the pidfd
    (Linux 6.15) or, while it is a zombie, /proc. -1: one of which nobody can tell.
    """
    if fd < 0:
        return None
    try:
        result = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | _WALL)
    except ChildProcessError:
        return _status_of_another(fd)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return result.si_status << 8
    return result.si_status | (0x80 if result.si_code == os.CLD_DUMPED else 0)


def reap(fd: int) -> None:
    """Wait for the end of a child of ours, reap it, and close the descriptor."""
    wait(fd)
    wait_status(fd)
    os.close(fd)


def _status_of_another(fd: int) -> int | None:
    status = _status_when_reaped(fd)
    if status is None:
        # Not reaped yet: its parent has not looked.
        fields = _stat_fields(pid_of(fd))
        if fields:
            return int(fields[49]) if fields[0] in "ZX" else None
        status = _status_when_reaped(fd)  # it has, just now
    return status


def _status_when_reaped(fd: int) -> int | None:
    import fcntl

    info = bytearray(_INFO_SIZE)
    info[:8] = _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
    try:
        fcntl.ioctl(fd, _PIDFD_GET_INFO, info)
    except OSError:
        return None  # an older kernel
    known = int.from_bytes(info[:8], sys.byteorder) & _PIDFD_INFO_EXIT
    return int.from_bytes(info[60:64], sys.byteorder, signed=True) if known else None


def pid_of(fd: int) -> int:
    """The pid behind a pidfd in our pid namespace; -1 when it was reaped."""
    with os.fdopen(os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)) as file:
        return next((int(line[4:]) for line in file if line.startswith("Pid:")), -1)


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (the second may hold spaces and parentheses)."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(fd, 4096).rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return []  # it ended between open and read
    finally:
        os.close(fd)
