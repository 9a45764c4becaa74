"""What is measured within a Python program: each round in a fresh one, which begins with a few turns for nothing.

So the differences between one process and the next (its layout in memory, what else it has imported) are part of the
spread, as they are for users, and a caller's memory is that of its own process.

``python -m benchmarks.inprocess MODULE:FUNCTION COUNT OPTIONS`` calls ``FUNCTION(COUNT, **OPTIONS)`` (OPTIONS is JSON)
and prints what it returns, JSON too.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.sampling import Failed, Measure

__all__ = ["in_process"]

_TREE = Path(__file__).resolve().parent.parent


def in_process(function: str, **options: Any) -> Measure:
    """A measure that has a fresh Python call ``MODULE:FUNCTION``, which gets the number of samples and the options."""

    def measure(count: int) -> Sequence[float]:
        command = [sys.executable, "-m", "benchmarks.inprocess", function, str(count), json.dumps(options)]
        done = subprocess.run(command, cwd=_TREE, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{function}: {done.stderr.strip() or done.returncode}")
        samples: list[float] = json.loads(done.stdout)
        return samples

    return measure


def main() -> None:
    """Serve one request."""
    function, count, options = sys.argv[1:]
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    json.dump(list(call(int(count), **json.loads(options))), sys.stdout)


if __name__ == "__main__":
    main()
