"""What Python programs take to start, in seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.peers import commandline

__all__ = ["above_bare", "python"]


def python(statement: str, count: int) -> Sequence[float]:
    """Of a fresh interpreter that does no more than this."""
    return commandline.measure([sys.executable, "-c", statement], count)


def above_bare(statement: str, count: int) -> Sequence[float]:
    """How much longer it takes than one that does nothing: in pairs, the one right after the other."""
    return [python(statement, 1)[0] - python("pass", 1)[0] for _ in range(count)]
