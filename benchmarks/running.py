"""Runs a scenario: makes its place, takes its rounds, and clears up."""

from __future__ import annotations

import contextlib
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.patience import limited
from benchmarks.results import Measured, Outcome
from benchmarks.sampling import Contender, take
from benchmarks.scenario import Place, Scenario

__all__ = ["run"]


def run(
    scenario: Scenario,
    *,
    wanted: frozenset[str] | None = None,
    rounds: float = 1,
    quick: bool = False,
    advance: Callable[[float], object] = lambda part: None,
) -> Outcome:
    """Measure, in a directory that goes with all else.

    ``rounds`` is a factor to the scenario's own; ``quick``: two rounds of few samples. ``advance`` is told with each
    turn which part of the whole it was.
    """
    outcome = Outcome.nothing_of(scenario)
    count = 2 if quick else max(2, round(scenario.rounds * rounds))
    began = time.monotonic()
    try:
        with _clearing_up() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-"))
            place = Place(Path(scratch), stack, quick, wanted)
            with limited():
                contenders = [each for each in scenario.contenders(place) if place.wants(each.name)]
            outcome.contenders = [Measured.nothing_of(contender) for contender in contenders]
            _measure(outcome, contenders, count, quick, advance)
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


@contextlib.contextmanager
def _clearing_up() -> Iterator[contextlib.ExitStack]:
    """What is put on the stack is undone in the end; what hangs at that is interrupted, and the rest goes on."""
    stack = contextlib.ExitStack()
    try:
        yield stack
    finally:
        with limited():
            stack.close()


def _measure(
    outcome: Outcome, contenders: Sequence[Contender], rounds: int, quick: bool, advance: Callable[[float], object]
) -> None:
    able = sum(not contender.lacking for contender in contenders)
    by_name = {contender.name: contender for contender in outcome.contenders}
    for turn in take(contenders, rounds, quick=quick):
        measured = by_name[turn.contender.name]
        if turn.error:
            measured.error = turn.error
        else:
            measured.rounds.append([round(sample, 9) for sample in turn.samples])  # to a nanosecond
        advance(1 / (rounds * able))
