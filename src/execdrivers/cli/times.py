"""``--since`` and ``--until``: docker's texts for a time, and a time as docker writes it."""

from __future__ import annotations

import re
import time

from execdrivers.cli.parsing import UsageError

__all__ = ["moment", "rfc3339", "seconds"]

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_SECONDS = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float | None:
    """Of docker's durations, ``1h30m`` or ``500ms``, and of a bare number; None: it is neither."""
    if _SECONDS.fullmatch(text):
        text += "s"
    if not _DURATION.fullmatch(text):
        return None
    result = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return result if result < float("inf") else None


def moment(option: str, text: str) -> float:
    """Seconds since the epoch: of ``1h30m`` (so long ago), ``1767225600.5``, ``2026-01-01``, ``2026-01-01T10:00:00Z``.

    A date without a zone is of the local one, as with docker. Raises `UsageError`.
    """
    if _SECONDS.fullmatch(text) and abs(since_1970 := float(text)) < float("inf"):
        return since_1970
    ago = seconds(text)
    if ago is not None:
        return time.time() - ago
    from datetime import datetime

    # Digits beyond the microsecond, and Z, are not understood before Python 3.11.
    plain = re.sub(r"(\.\d{6})\d+", r"\1", text, flags=re.ASCII)
    plain = re.sub(r"\.\d{1,5}(?!\d)", lambda found: found[0].ljust(7, "0"), plain, flags=re.ASCII)
    plain = re.sub(r"[zZ]$", "+00:00", plain)
    try:
        return datetime.fromisoformat(plain).timestamp()
    except (ValueError, OverflowError, OSError):
        remedy = "10m (so long ago), 2026-01-31, 2026-01-31T12:00:00Z, or seconds since 1970"
        raise UsageError(f"{option}: {text!r} is not a time", remedy=remedy) from None


def rfc3339(nanoseconds: int) -> str:
    """A time since the epoch in UTC, as docker writes it: ``2026-01-01T00:00:00.500000000Z``."""
    from datetime import datetime, timezone

    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"
