"""Contenders, and the taking of samples in rounds in which each has its turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import attrs

from benchmarks.patience import Late, limited

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
    """What one contender measured in one round, or why it failed; then it has no more turns."""

    contender: Contender
    samples: Sequence[float] = ()
    error: str = ""


def take(contenders: Sequence[Contender], rounds: int, *, quick: bool = False) -> Iterator[Turn]:
    """Samples of all contenders that can take part, ``rounds`` times each, in a new order each round.

    Before the first round each has one turn that does not count. Whatever one raises is its own failure.
    """
    able = [contender for contender in contenders if contender.measure is not None and not contender.lacking]
    for number in range(rounds + 1):
        for contender in random.sample(able, len(able)):
            batch = min(contender.batch, 2) if quick else contender.batch
            turn = _turn(contender, batch if number else 1)
            if turn.error:
                able.remove(contender)
            if number or turn.error:
                yield turn


def _turn(contender: Contender, count: int) -> Turn:
    assert contender.measure is not None
    try:
        with limited():
            samples = contender.measure(count)
    except (Failed, Late) as error:
        return Turn(contender, error=str(error))
    except Exception as error:
        return Turn(contender, error=f"{type(error).__name__}: {error}")
    return Turn(contender, samples, error="" if samples else "no samples")
