"""The progress of a run, on standard error: a bar with the time left on a terminal, else a line for each scenario."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

import attrs

from benchmarks.scenario import Scenario

__all__ = ["Progress", "expected"]


def expected(scenarios: Sequence[Scenario], rounds: float) -> float:
    """About how many seconds a run takes on two processors."""
    return sum(scenario.seconds * rounds for scenario in scenarios)


@attrs.define
class Progress:
    """Of a run of so many seconds by what scenarios expect; the bar corrects that by how it goes."""

    _seconds: float

    @contextlib.contextmanager
    def shown(self) -> Iterator[Callable[[Scenario, float], Callable[[float], object]]]:
        """Gives a function that is told of a scenario, and of its seconds, and returns what advances it by a part."""
        from tqdm import tqdm

        form = "{desc:<12.12} {bar} {percentage:3.0f} %, {elapsed} gone, about {remaining} left"
        with tqdm(total=self._seconds, bar_format=form, disable=None, file=sys.stderr, leave=False) as bar:
            done = 0.0

            def begin(scenario: Scenario, seconds: float) -> Callable[[float], object]:
                nonlocal done
                bar.set_description_str(scenario.name, refresh=False)
                bar.update(done - bar.n)  # what the last one had left: contenders that failed or were missing
                done += seconds
                return lambda part: bar.update(part * seconds)

            yield begin
