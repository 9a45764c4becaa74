"""What samples are worth: medians, spreads, and estimates with confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["CONFIDENCE", "Estimate", "Spread", "median", "ratio", "spread"]

#: Of one contender: the samples of each round.
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
class Estimate:
    """A value, and the interval from ``low`` to ``high`` in which it is with `CONFIDENCE`."""

    value: float
    low: float
    high: float

    def agrees(self, other: Estimate) -> bool:
        """Whether the intervals overlap."""
        return self.low <= other.high and other.low <= self.high


def spread(rounds: Rounds) -> Spread:
    """Of all samples. There must be one."""
    values = sorted(value for samples in rounds for value in samples)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Spread(middle, low, high, len(values))


def median(rounds: Rounds) -> Estimate:
    """Of all samples."""
    samples = _matrix(rounds)
    return _bootstrap(spread(rounds).median, len(rounds), lambda draws: _medians(samples, draws))


def ratio(of: Rounds, over: Rounds) -> Estimate:
    """Of the medians. Rounds are drawn in pairs: those of one number took place in the same spell of the machine."""
    count = min(len(of), len(over))
    above, below = _matrix(of[:count]), _matrix(over[:count])
    divisor = spread(over).median
    value = spread(of).median / divisor if divisor else math.inf
    return _bootstrap(value, count, lambda draws: _medians(above, draws) / _medians(below, draws))


def _bootstrap(
    value: float, rounds: int, recompute: Callable[[NDArray[numpy.intp]], NDArray[numpy.float64]]
) -> Estimate:
    """With the interval that holds most of what ``recompute`` gives for rounds drawn anew, with replacement.

    What is drawn is whole rounds: samples of one round resemble each other (the same process, the same spell of the
    machine), so that as single draws they would promise more than they hold. With one round the interval is empty.
    """
    import numpy

    if rounds < 2:
        return Estimate(value, value, value)
    draws = numpy.random.default_rng(0).integers(rounds, size=(_RESAMPLES, rounds))
    tail = _tail(rounds)
    with numpy.errstate(divide="ignore", invalid="ignore"):  # by zero
        low, high = numpy.quantile(recompute(draws), [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _tail(rounds: int) -> float:
    """The part of the draws to leave out at each end.

    Less than (1 - `CONFIDENCE`) / 2: the bootstrap's own interval is as narrow as if the spread of the rounds were
    known, and not estimated from few of them. This makes it as wide as Student's t does. (The quantile of t is by its
    expansion about that of the normal distribution, to within 2 % from five rounds on.)
    """
    normal = statistics.NormalDist()
    z = normal.inv_cdf((1 + CONFIDENCE) / 2)
    free = rounds - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return normal.cdf(-t * math.sqrt(rounds / free))


def _matrix(rounds: Rounds) -> NDArray[numpy.float64]:
    """As an array, a round a row; where some were cut short, as much of each as all have."""
    import numpy

    length = min(map(len, rounds))
    return numpy.array([samples[:length] for samples in rounds], dtype=float)


def _medians(samples: NDArray[numpy.float64], draws: NDArray[numpy.intp]) -> NDArray[numpy.float64]:
    """For each draw of rounds the median of their samples."""
    import numpy

    medians: NDArray[numpy.float64] = numpy.median(samples[draws].reshape(len(draws), -1), axis=1)
    return medians
