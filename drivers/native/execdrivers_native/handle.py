"""The hold on one native container."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from execdrivers import cgroups, pidfd
from execdrivers.cgroups import CgroupDir
from execdrivers.driver import Handle
from execdrivers.exit import Exit
from execdrivers.launcher import Launch

__all__ = ["NativeHandle"]


class NativeHandle(Handle):
    """A container whose first process is our child, or, recovered, somebody's."""

    def __init__(
        self,
        *,
        pid: int,
        exit_fd: int,
        start_time: int | None,
        own_pids: bool,
        made: Sequence[CgroupDir],
        guarantees: Mapping[str, Any],
        launch: Launch | None = None,
    ) -> None:
        self.pid: int | None = pid
        self.exit_fd = exit_fd
        self._start_time = start_time
        self._own_pids = own_pids
        self._cgroups = tuple(made)
        self._guarantees = guarantees
        self._launch = launch

    def start(self) -> None:
        assert self._launch is not None
        self._launch.go()

    def signal(self, number: signal.Signals) -> None:
        if self.exit_fd < 0:
            raise ProcessLookupError(f"container process {self.pid} has ended")
        signal.pidfd_send_signal(self.exit_fd, number)

    def kill(self) -> None:
        if not self._own_pids:
            cgroups.kill(self._cgroups)
        # With a pid namespace the kernel ends all its processes with the first.
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)

    def exit(self) -> Exit:
        oom_kills = cgroups.oom_kills(self._cgroups)
        status = pidfd.wait_status(self.exit_fd)
        reported = self._launch.exit_status() if self._launch else None
        self.pid = None
        if reported is not None:
            status = reported
        if status is None:
            return Exit(reason="oom" if oom_kills else "unknown", oom_kills=oom_kills)
        return Exit.from_wait_status(status, oom_kills=oom_kills)

    def close(self) -> None:
        super().close()
        if self._launch is not None:
            self._launch.close()

    def delete(self) -> None:
        self.kill()
        if self.exit_fd >= 0:
            poll = select.poll()
            poll.register(self.exit_fd, select.POLLIN)
            poll.poll()  # SIGKILL is on its way to it
            pidfd.wait_status(self.exit_fd)
        cgroups.remove(self._cgroups)
        self._cgroups = ()
        self.pid = None
        self.close()

    def pids(self) -> Sequence[int]:
        if self._cgroups:
            return cgroups.processes(self._cgroups)
        return [] if self.pid is None else _descendants(self.pid)

    def state(self) -> Mapping[str, Any]:
        return {
            "pid": self.pid,
            "start_time": self._start_time,
            "own_pids": self._own_pids,
            "cgroups": [attrs.asdict(cgroup) for cgroup in self._cgroups],
            "guarantees": dict(self._guarantees),
        }

    def guarantees(self) -> Mapping[str, Any]:
        return self._guarantees


def _descendants(pid: int) -> list[int]:
    """The process and all below it: orphans become children of a pid namespace's first process, so none is missed."""
    found, pending = [], [pid]
    while pending:
        found.append(pending.pop())
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{found[-1]}/task"):
                with open(f"/proc/{found[-1]}/task/{task}/children", encoding="ascii") as file:
                    pending.extend(map(int, file.read().split()))
    return sorted(found)
