"""What a monitor leaves behind: the file ``exit`` in the container's directory."""

from __future__ import annotations

import json

import attrs

__all__ = ["Ended", "read_exit"]


@attrs.frozen(kw_only=True)
class Ended:
    """How a container's first process ended, as its monitor saw it."""

    #: As wait(2) has it; None: nobody could tell.
    status: int | None
    #: Whether the program that made it lived to say that its command runs.
    started: bool
    #: Seconds since the epoch.
    time: float
    #: Processes that the kernel killed in the container for want of memory; None: it has no memory cgroup.
    oom_kills: int | None
    #: Bytes of output that could not be logged.
    log_lost: int


def read_exit(directory: str) -> Ended | None:
    """What the monitor left in a container's directory; None when there is nothing, or nothing that makes sense.

    The file is put in place whole, and the last thing before the monitor ends.
    """
    try:
        with open(f"{directory}/exit", "rb") as file:
            data = json.load(file)
        return Ended(
            status=None if data["status"] is None else int(data["status"]),
            started=bool(data["started"]),
            time=float(data["time"]),
            oom_kills=None if data["oom_kills"] is None else int(data["oom_kills"]),
            log_lost=int(data["log_lost"]),
        )
    except (OSError, ValueError, TypeError, LookupError):
        return None
