"""``--since``, ``--until`` and ``--detach-keys``: docker's texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execdrivers.cli.parsing import UsageError
from execdrivers.cli.times import moment, rfc3339


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1767225600", 1767225600),
        ("1767225600.25", 1767225600.25),
        ("2026-01-01T00:00:00Z", 1767225600),
        ("2026-01-01T00:00:00.25Z", 1767225600.25),
        ("2026-01-01T00:00:00.250000999Z", 1767225600.25),
        ("2026-01-01T02:00:00+02:00", 1767225600),
        ("2026-01-01T02:00:00.5+02:00", 1767225600.5),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert moment("--since", text) == seconds


def test_a_date_alone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    try:
        assert moment("--since", "2026-01-01") == moment("--since", "2026-01-01T00:00") == 1767225600 - 3 * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "ago"), [("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2s", 2), ("300ms", 0.3), ("0s", 0)]
)
def test_so_long_ago(text: str, ago: float) -> None:
    assert time.time() - moment("--since", text) == pytest.approx(ago, abs=5)


@pytest.mark.parametrize(
    "text", ["", "x", "1d", "m", "2026-13-01", "2026-01-01T25:00:00Z", "10m x", "-5m", "\u0661s", "9" * 400]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        moment("--since", text)


@given(st.integers(0, 2**62))
def test_what_is_written_can_be_read(nanoseconds: int) -> None:
    text = rfc3339(nanoseconds)
    assert len(text) == 30
    assert moment("--since", text) == pytest.approx(nanoseconds / 1e9, abs=2e-6)
