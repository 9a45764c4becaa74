"""A signal to every process of a container: none is missed, none gets it twice, and none outside gets it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from execdrivers import pidfd
from execdrivers.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from execdrivers.driver import Handle

__all__ = ["signal_all"]

#: Descriptors held at once: a program may open 1024, as a rule, and has others.
_BATCH = 64
#: Rounds after which processes that run have proved to fork faster than they can be told.
_ROUNDS = 200


def signal_all(handle: Handle, number: signal.Signals, *, still: bool, spare: int | None = None) -> None:
    """Send the signal to each process of the container but ``spare``.

    ``still``: the processes stand still, so that those of one moment get it. Else those that are forked meanwhile do
    as well, in rounds, until no new one is found. Raises `OperationError` where some may not, or cannot, be told.
    """
    told: set[tuple[int, int]] = set()
    for _ in range(_ROUNDS):
        # One that is listed and gone by now has perhaps left a child.
        pids = [pid for pid in handle.pids() if pid != spare and (pid, pidfd.start_time(pid)) not in told]
        for start in range(0, len(pids), _BATCH):
            _send(handle, number, pids[start : start + _BATCH], told)
        if not pids or still:
            return
    message = f"signal: after {_ROUNDS} rounds processes are still forked faster than they can be told"
    raise OperationError(message, operation="signal", errno=0, remedy="limit them (pids), or kill() it")


def _send(handle: Handle, number: signal.Signals, pids: Iterable[int], told: set[tuple[int, int]]) -> None:
    with _held(pids) as held:
        # Whoever lives now and is a member now was both when its descriptor was opened: the pid is not another's yet.
        # Who has died since takes no signal, whoever has the pid by now.
        members = set(handle.pids())
        for pid, fd in held.items():
            started = pidfd.start_time(pid)
            if pid not in members or started is None:
                continue
            told.add((pid, started))
            if pidfd.wait(fd, 0):
                continue  # ended, and not reaped
            try:
                pidfd.send_signal(fd, number)
            except ProcessLookupError:
                pass
            except PermissionError as error:
                message = f"signal: process {pid} of the container lets no signal through: {error.strerror}"
                remedy = "add to its AppArmor profile: signal (receive) peer=unconfined"
                raise OperationError(message, operation="signal", errno=error.errno or 0, remedy=remedy) from error


@contextmanager
def _held(pids: Iterable[int]) -> Iterator[dict[int, int]]:
    """Pid → a pidfd, of those that there are."""
    held: dict[int, int] = {}
    try:
        for pid in pids:
            try:
                held[pid] = pidfd.open(pid)
            except ProcessLookupError:
                pass  # ended meanwhile
        yield held
    finally:
        for fd in held.values():
            os.close(fd)
