"""What samples are worth: medians, spreads, and ratios with confidence intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import attrs

__all__ = ["CONFIDENCE", "Ratio", "Spread", "ratio", "spread"]

Rounds = Sequence[Sequence[float]]

#: Of the intervals.
CONFIDENCE = 0.95
_RESAMPLES = 2000


@attrs.frozen
class Spread:
    """Half of all samples are from ``low`` to ``high``."""

    median: float
    low: float
    high: float
    count: int


@attrs.frozen
class Ratio:
    """Of two medians, and the interval in which it is with `CONFIDENCE`."""

    value: float
    low: float
    high: float


def spread(rounds: Rounds) -> Spread:
    """Of all samples."""
    values = sorted(value for samples in rounds for value in samples)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Spread(median, low, high, len(values))


def ratio(of: Rounds, over: Rounds) -> Ratio:
    """Of the medians, with an interval by the bootstrap.

    What is drawn anew is whole rounds, the same of both: samples of one round resemble each other (the same process,
    the same spell of the machine), so that as single draws they would promise more than they hold.
    """
    import numpy

    value = spread(of).median / spread(over).median
    rounds = min(len(of), len(over))
    if rounds < 2:
        return Ratio(value, value, value)
    chance = numpy.random.default_rng(0)
    above = _matrix(of[:rounds])
    below = _matrix(over[:rounds])
    draws = chance.integers(rounds, size=(_RESAMPLES, rounds))
    ratios = numpy.median(above[draws].reshape(_RESAMPLES, -1), axis=1) / numpy.median(
        below[draws].reshape(_RESAMPLES, -1), axis=1
    )
    low, high = numpy.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(value, float(low), float(high))


def _matrix(rounds: Rounds):  # type: ignore[no-untyped-def] # numpy is imported where it is used
    """As an array, a round a row: of rounds that were cut short as much as all have."""
    import numpy

    length = min(map(len, rounds))
    return numpy.array([samples[:length] for samples in rounds])
