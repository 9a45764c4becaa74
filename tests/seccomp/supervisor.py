"""A supervisor as seccomp_unotify(2) describes it: receives system calls that wait for an answer, and answers."""

from __future__ import annotations

import fcntl
import select
import struct
from typing import NamedTuple

#: struct seccomp_notif: id, pid, flags, then seccomp_data: number, architecture, instruction pointer, six arguments.
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
#: struct seccomp_notif_resp: id, value, error, flags.
_ANSWER = struct.Struct("=QqiI")
_RECEIVE = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV
_SEND = 0xC0182101  # SECCOMP_IOCTL_NOTIF_SEND
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


class Call(NamedTuple):
    """One that waits."""

    id: int
    pid: int
    number: int
    args: tuple[int, ...]


def waits(listener: int, timeout: float) -> bool:
    """Whether one comes; False too when all that could make one have ended, and have been reaped."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(1000 * timeout))


def receive(listener: int, timeout: float = 20.0) -> Call:
    """The next one."""
    assert waits(listener, timeout), "no system call came"
    buffer = bytearray(_NOTIFICATION.size)
    fcntl.ioctl(listener, _RECEIVE, buffer)
    identity, pid, _, number, _, _, *args = _NOTIFICATION.unpack(buffer)
    return Call(identity, pid, number, tuple(args))


def answer(listener: int, call: Call, *, value: int = 0, errno: int = 0) -> None:
    """In the kernel's place."""
    fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(call.id, value, -errno, 0)))


def go_on(listener: int, call: Call) -> None:
    """Let the kernel do it."""
    fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(call.id, 0, 0, _CONTINUE)))
