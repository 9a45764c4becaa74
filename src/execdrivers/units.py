"""Units as people write them: sizes (``64M``), processor lists (``0-2,4``), signals (``TERM``).

Each function takes what it returns as well, and raises `SpecError` with an empty field, which the caller completes
(`SpecError.within`).
"""

from __future__ import annotations

import re
import signal

from execdrivers.errors import SpecError

__all__ = ["format_size", "normalize_ids", "parse_ids", "parse_signal", "parse_size", "signal_name", "to_signal"]

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgtpe]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_UNITS = " KMGTPE"

#: Greatest size in bytes: what the kernel's signed 64-bit counters hold.
MAX_SIZE = 2**63 - 1

#: Processor and memory-node numbers are below this; the kernel is built for 8192 processors at most.
MAX_IDS = 8192


def parse_size(value: int | str) -> int:
    """Bytes. Units are powers of 1024 whether written ``M``, ``MB`` or ``MiB``, as docker has it: "64M" is 67108864."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise SpecError("", value, "is not a size", "write bytes or a unit, as 64M, 1.5g, 512KiB")
        number, factor = match["number"], 1 << 10 * _UNITS.index(match["unit"].upper() or " ")
        size = round(float(number) * factor) if "." in number else int(number[:40]) * factor
    elif isinstance(value, bool) or not isinstance(value, int):
        raise SpecError("", value, "is not a size", "write bytes or a unit, as 64M, 1.5g, 512KiB")
    else:
        size = value
    if not 0 <= size <= MAX_SIZE:
        raise SpecError("", value, "is not a possible number of bytes", f"give 0 to {MAX_SIZE} bytes")
    return size


def format_size(size: int) -> str:
    """For people: the greatest binary unit that keeps the number at 1 or more, ``64.0 MiB``."""
    amount, unit = float(size), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}iB" if unit else f"{size} B"


def parse_ids(value: str) -> tuple[int, ...]:
    """The numbers of a list as cpuset(7) writes it: ``"0-2,4"`` → ``(0, 1, 2, 4)``."""
    numbers: set[int] = set()
    for part in value.split(",") if isinstance(value, str) else ("",):
        first, dash, last = part.strip().partition("-")
        if not (_is_number(first) and (_is_number(last) or not dash)):
            raise SpecError("", value, "is not a list of numbers", 'write it as "0-2,4"')
        low, high = int(first), int(last or first)
        if low > high or high >= MAX_IDS:
            raise SpecError("", value, f"has the impossible range {part.strip()}", f"use numbers below {MAX_IDS}")
        numbers.update(range(low, high + 1))
    return tuple(sorted(numbers))


def normalize_ids(value: str) -> str:
    """The shortest way to write a list of numbers: ``"2,0,1,4"`` → ``"0-2,4"``."""
    ranges: list[list[int]] = []
    for number in parse_ids(value):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def parse_signal(value: int | str) -> int:
    """A signal's number from its name (``TERM``, ``SIGTERM``, ``SIGRTMIN+3``) or number."""
    # int() first: str() of a signal.Signals is its number only since Python 3.11.
    text = str(int(value) if isinstance(value, int) else value).strip().upper()
    number = int(text) if _is_number(text) else _number_of(text.removeprefix("SIG"))
    if isinstance(value, bool) or number is None or not 1 <= number <= signal.SIGRTMAX:
        remedy = f"a name such as TERM, or a number from 1 to {int(signal.SIGRTMAX)}"
        if text.removeprefix("SIG") and number is None and not text[0].isdigit():
            from execdrivers.spec._convert import nearest

            remedy = nearest(f"SIG{text.removeprefix('SIG')}", [item.name for item in signal.Signals])
        raise SpecError("", value, "is not a signal", remedy)
    return number


def to_signal(value: int | str) -> signal.Signals:
    """`parse_signal`, its error naming the argument ``signal``; a real-time signal is its bare number."""
    try:
        return parse_signal(value)  # type: ignore[return-value] # an int serves wherever a Signals does
    except SpecError as error:
        raise error.within("signal") from None


def signal_name(value: int | str) -> str:
    """A signal's full name: ``15``, ``"term"`` → ``"SIGTERM"``; between the real-time bounds ``"SIGRTMIN+3"``."""
    number = parse_signal(value)
    try:
        return signal.Signals(number).name
    except ValueError:
        # 32 and 33 are the C library's own and have no name.
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else str(number)


def _number_of(name: str) -> int | None:
    base, sign, offset = name.partition("+" if "+" in name else "-")
    try:
        number = int(signal.Signals[f"SIG{base}"])
    except KeyError:
        return None
    if not sign:
        return number
    if not _is_number(offset) or (base, sign) not in (("RTMIN", "+"), ("RTMAX", "-")):
        return None
    number += int(f"{sign}{offset}")
    return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else None


def _is_number(text: str) -> bool:
    # int() refuses texts of thousands of digits with an error of its own, and isdigit() takes other scripts' digits.
    return text.isascii() and text.isdigit() and len(text) < 20
