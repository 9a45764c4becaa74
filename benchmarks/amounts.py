"""Amounts as people read them: three digits and the unit that fits."""

from __future__ import annotations

__all__ = ["amount", "number", "plain"]

_UNITS = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes")),
    "B/s": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s")),
}


def number(value: float) -> str:
    """With three digits: 0.123, 1.23, 12.3, 123, 1,234."""
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 0.9995 else f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}"


def amount(value: float, unit: str) -> str:
    """Of seconds, bytes, bytes a second; or, without a unit, of nothing."""
    if not unit:
        return number(value)
    # The largest unit of which there is one.
    size, name = next(((size, name) for size, name in _UNITS[unit] if abs(value) >= 0.9995 * size), _UNITS[unit][-1])
    return f"{number(value / size)} {name}"


def plain(value: float, unit: str) -> str:
    """As `amount`, for values that are exact, without zeros that say nothing: ``1 ms``, ``≤ 1.2``."""
    digits, space, name = amount(value, unit).partition(" ")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}{space}{name}"
