"""A limit to how long something may take, so that a tool that hangs costs its own samples and not the run."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["PATIENCE", "Late", "limited"]

#: Seconds that a turn may take, or what comes before all turns and after: far more than any does, unless it hangs.
PATIENCE = 180.0


class Late(Exception):
    """It took too long."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """What is within is interrupted by `Late` after `PATIENCE`. For the main thread; not to be nested."""

    def interrupt(*_: object) -> None:
        raise Late(f"no end after {PATIENCE:g} seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
