"""Lifecycle events as JSON lines, in a file that an environment variable names."""

from __future__ import annotations

import json
import os

from execdrivers import Event

__all__ = ["FILE", "write"]

#: Environment variable: the file; unset or empty: no log.
FILE = "EXECDRIVERS_POLICY_LOG"


def write(event: Event) -> None:
    """Append the event as one line. Any number of programs may do so at the same time.

    The file is for its owner alone: a spec has its container's environment in it.
    """
    path = os.environ.get(FILE)
    if not path:
        return
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps(event.to_dict()).encode() + b"\n")  # by one call, so that lines do not mix
    finally:
        os.close(fd)
