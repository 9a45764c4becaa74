"""Sizes, processor lists and signals as people write them."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execdrivers.errors import SpecError
from execdrivers.units import format_size, normalize_ids, parse_ids, parse_signal, parse_size, signal_name


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        (" 64M ", 64 * 2**20),
        ("64mb", 64 * 2**20),
        ("512KiB", 512 * 2**10),
        ("1.5g", 3 * 2**29),
        ("100 b", 100),
        (4096, 4096),
        ("2e", 2**61),
    ],
)
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1", -1, "1x", "1e3", "nan", "8e", "9" * 5000, True, 1.5, None, "١", "1.5.5"]
)
def test_not_a_size(text: object) -> None:
    with pytest.raises(SpecError):
        parse_size(text)  # type: ignore[arg-type]


@given(st.integers(0, 2**62))
def test_a_formatted_size_is_near(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= size * 0.06


def test_ids() -> None:
    assert parse_ids("0-2,4") == (0, 1, 2, 4)
    assert normalize_ids("4, 2,1,0-1") == "0-2,4"


@given(st.sets(st.integers(0, 8191), min_size=1, max_size=20))
def test_ids_round_trip(numbers: set[int]) -> None:
    text = normalize_ids(",".join(map(str, numbers)))
    assert set(parse_ids(text)) == numbers
    assert normalize_ids(text) == text


@pytest.mark.parametrize("text", ["", ",", "1,", "a", "3-1", "-1", "0-99999999999", "1-2-3", 3, "9" * 5000])
def test_not_ids(text: object) -> None:
    with pytest.raises(SpecError):
        parse_ids(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["TERM", "sigterm", " SIGTERM", 15, "15", signal.SIGTERM])
def test_signals(value: int | str) -> None:
    assert parse_signal(value) == 15
    assert signal_name(value) == "SIGTERM"


@given(st.integers(1, 64))
def test_every_signal_has_a_name_that_leads_back(number: int) -> None:
    assert parse_signal(signal_name(number)) == number


def test_realtime_signals() -> None:
    assert parse_signal("RTMIN+3") == signal.SIGRTMIN + 3
    assert parse_signal("SIGRTMAX-1") == signal.SIGRTMAX - 1
    assert signal_name("rtmin+3") == "SIGRTMIN+3"


@pytest.mark.parametrize("value", ["", "TERN", 0, -9, 65, "RTMIN+99", "RTMIN-1", "TERM+1", True, None, 9.0, "9" * 5000])
def test_not_a_signal(value: object) -> None:
    with pytest.raises(SpecError, match="is not a signal"):
        parse_signal(value)  # type: ignore[arg-type]
