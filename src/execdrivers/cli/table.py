"""Text for people: aligned columns, colours, times and sizes. Colours and rules only on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["ago", "duration", "elide", "lines", "on_terminal", "paint", "printable", "show", "size"]

_GAP = "   "
_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
#: A wrapped column is never made narrower than this.
_NARROWEST = 20


def on_terminal() -> bool:
    """Whether stdout is a terminal that somebody looks at."""
    return sys.stdout.isatty()


def paint(text: str, colour: str) -> str:
    """``text`` in a colour, or as it is where colours are not wanted (https://no-color.org)."""
    if not on_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def printable(text: str) -> str:
    """Without what could steer a terminal: control characters are shown as escapes."""
    return "".join(c if unicodedata.category(c)[0] != "C" else ascii(c)[1:-1] for c in text)


def elide(text: str, width: int) -> str:
    """At most ``width`` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def show(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, colour: Callable[[int, str], str | None] | None = None
) -> None:
    """Print a table of `lines`."""
    for text in lines(columns, rows, colour=colour):
        print(text)


def lines(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, colour: Callable[[int, str], str | None] | None = None
) -> Iterator[str]:
    """A table. On a terminal the last column is wrapped to fit; ``colour(column, text)`` may colour a cell."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    last = len(columns) - 1
    wrap_at = None
    if on_terminal():
        wrap_at = max(_NARROWEST, shutil.get_terminal_size().columns - sum(widths[:-1]) - len(_GAP) * last)
        widths[last] = min(widths[last], wrap_at)
    yield _GAP.join(paint(name.ljust(width), "bold") for name, width in zip(columns, widths, strict=True)).rstrip()
    if on_terminal():
        yield paint(_GAP.join("─" * width for width in widths), "dim")
    for row in cells:
        wrapped = (textwrap.wrap(row[last], wrap_at) if wrap_at else None) or [row[last]]
        for i, line in enumerate(wrapped):
            texts = [*(row[:last] if i == 0 else [""] * last), line]
            yield _GAP.join(_cell(n, text, widths[n], colour) for n, text in enumerate(texts)).rstrip()


def _cell(column: int, text: str, width: int, colour: Callable[[int, str], str | None] | None) -> str:
    padded = text.ljust(width)
    chosen = colour(column, text) if colour and text else None
    return paint(padded, chosen) if chosen else padded


def duration(seconds: float) -> str:
    """As docker says it: ``3 minutes``, ``2 weeks``."""
    if seconds < 1:
        return "less than a second"
    for unit, length in (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count = int(seconds // length)
        if count >= (2 if unit in ("week", "day") else 1):
            return f"{count} {unit}{'s' if count > 1 else ''}"
    raise AssertionError(seconds)


def ago(then: float | None, now: float) -> str:
    """``3 minutes ago`` for two times in seconds since the epoch."""
    return f"{duration(max(0.0, now - then))} ago" if then is not None else "?"


def size(count: int) -> str:
    """Bytes in the greatest binary unit that keeps it whole: ``32M``."""
    for unit in ("", "K", "M", "G", "T"):
        if count % 1024 or count < 1024 or unit == "T":
            return f"{count}{unit}"
        count //= 1024
    raise AssertionError(count)
