"""Processes with pids that others had before: strangers to whoever recorded those pids."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from pathlib import Path

from execdrivers.testing.host import alive, status

__all__ = ["Stranger"]

_CLONE3 = 435
#: PyDLL, not CDLL: the interpreter's lock is held across the call, so that the child has it too.
_libc = ctypes.PyDLL(None, use_errno=True)


class Stranger:
    """A process of the given pid.

    Linux gives a chosen pid to who has CAP_CHECKPOINT_RESTORE or is root: clone3(2), set_tid.
    """

    def __init__(self, pid: int) -> None:
        chosen = ctypes.c_int32(pid)
        # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid and size.
        arguments = struct.pack("10Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(chosen), 1)
        made = _libc.syscall(_CLONE3, arguments, len(arguments))
        if made == 0:
            try:
                os.setsid()
                os.execv("/bin/sh", ["sh", "-c", "exec sleep 1000"])
            finally:
                os._exit(127)
        if made < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"pid {pid}")
        assert made == pid
        self.pid = pid
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def untouched(self) -> bool:
        """It lives, is not stopped or frozen, and has no signal pending. (Any signal would have ended it: it is
        ``sleep``, which catches none.)"""
        found = status(self.pid) if alive(self.pid) else {"State": "dead"}
        return found["State"][0] in "SRD" and not int(found["SigPnd"], 16) | int(found["ShdPnd"], 16)

    def end(self) -> None:
        """Kill and reap it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
