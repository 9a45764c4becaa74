"""Contenders, and the taking of samples in rounds in which each has its turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import attrs

__all__ = ["Contender", "Failed", "take"]

#: Takes so many samples, in the unit of its scenario.
Measure = Callable[[int], Sequence[float]]


class Failed(Exception):
    """A contender that is there does not work; the text says why."""


@attrs.frozen(kw_only=True)
class Contender:
    """One of those that a scenario compares.

    ``group`` and ``x`` place it in a plot of curves: of which curve it is a point, and where.
    """

    name: str
    measure: Measure | None = None
    #: Why it cannot take part, and what would help; "" where it can.
    lacking: str = ""
    #: Samples a round. Fewer, for what takes long.
    batch: int = 10
    group: str = ""
    x: float | None = None


@attrs.frozen
class Turn:
    """What one contender measured in one round."""

    contender: Contender
    samples: Sequence[float]


def take(contenders: Sequence[Contender], rounds: int, *, quick: bool = False) -> Iterator[Turn]:
    """Samples of all contenders that can take part, ``rounds`` times each, in a new order each round.

    Before the first round each has one turn that does not count. A contender raises `Failed` for all.
    """
    able = [contender for contender in contenders if contender.measure is not None and not contender.lacking]
    batch = {contender.name: min(contender.batch, 2) if quick else contender.batch for contender in able}
    for contender in able:
        _turn(contender, 1)
    for _ in range(rounds):
        for contender in random.sample(able, len(able)):
            yield _turn(contender, batch[contender.name])


def _turn(contender: Contender, count: int) -> Turn:
    assert contender.measure is not None
    samples = contender.measure(count)
    if not samples:
        raise Failed(f"{contender.name}: no samples")
    return Turn(contender, samples)
