"""What a run found: all samples with the machine's facts, as JSON and back; nothing else is needed to report it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import attrs
import cattrs

from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Limit, Scenario
from benchmarks.statistics import Estimate, Spread, median, ratio, spread

__all__ = ["Figure", "Measured", "Outcome", "Results"]


@attrs.define(kw_only=True)
class Measured:
    """What one contender measured, in the unit of its scenario, round by round; or why it did not."""

    name: str
    group: str = ""
    x: float | None = None
    #: Why it could not take part.
    lacking: str = ""
    #: Why it failed.
    error: str = ""
    rounds: list[list[float]] = attrs.Factory(list)

    @classmethod
    def nothing_of(cls, contender: Contender) -> Measured:
        """Of a contender before its first turn."""
        return cls(name=contender.name, group=contender.group, x=contender.x, lacking=contender.lacking)

    @property
    def spread(self) -> Spread | None:
        """Of all samples; None where it has none."""
        return spread(self.rounds) if self.rounds else None


@attrs.frozen(kw_only=True)
class Figure:
    """What a `Comparison` or a `Limit` came to."""

    scenario: str
    title: str
    #: Of the estimate: "" for a ratio.
    unit: str
    target: float | None
    at_least: bool
    #: None where a contender has no samples.
    estimate: Estimate | None

    @property
    def met(self) -> bool | None:
        """Whether the estimate meets the target; None where one of them is missing."""
        if self.target is None or self.estimate is None:
            return None
        return self.estimate.value >= self.target if self.at_least else self.estimate.value <= self.target

    @property
    def certain(self) -> bool:
        """Whether that holds for the whole interval, too."""
        assert self.target is not None and self.estimate is not None
        return not self.estimate.low < self.target < self.estimate.high


@attrs.define(kw_only=True)
class Outcome:
    """Of one scenario."""

    name: str
    title: str
    about: str
    unit: Literal["s", "B", "B/s"]
    plot: Literal["bars", "curves"]
    x: str = ""
    reference: str = ""
    comparisons: list[Comparison] = attrs.Factory(list)
    limits: list[Limit] = attrs.Factory(list)
    contenders: list[Measured] = attrs.Factory(list)
    #: Why it failed as a whole.
    error: str = ""
    #: How long it took.
    seconds: float = 0

    @classmethod
    def nothing_of(cls, scenario: Scenario) -> Outcome:
        """Of a scenario before its first round."""
        return cls(
            name=scenario.name,
            title=scenario.title,
            about=scenario.about,
            unit=scenario.unit,
            plot=scenario.plot,
            x=scenario.x,
            reference=scenario.reference,
            comparisons=list(scenario.comparisons),
            limits=list(scenario.limits),
        )

    @property
    def failed(self) -> bool:
        """Whether it or one of its contenders did."""
        return bool(self.error) or any(contender.error for contender in self.contenders)

    @property
    def measured(self) -> dict[str, Measured]:
        """The contenders that have samples, by name."""
        return {contender.name: contender for contender in self.contenders if contender.rounds}

    @property
    def base(self) -> Measured | None:
        """The one that the others are compared with."""
        measured = self.measured
        return measured.get(self.reference) or next(iter(measured.values()), None)

    def figures(self) -> list[Figure]:
        """The ratios of interest, then the limits."""
        measured = self.measured
        found = []
        for wish in self.comparisons:
            known = wish.of in measured and wish.over in measured
            estimate = ratio(measured[wish.of].rounds, measured[wish.over].rounds) if known else None
            found.append(
                Figure(
                    scenario=self.name,
                    title=wish.title,
                    unit="",
                    target=wish.target,
                    at_least=wish.at_least,
                    estimate=estimate,
                )
            )
        for limit in self.limits:
            estimate = median(measured[limit.of].rounds) if limit.of in measured else None
            found.append(
                Figure(
                    scenario=self.name,
                    title=limit.title,
                    unit=self.unit,
                    target=limit.at_most,
                    at_least=False,
                    estimate=estimate,
                )
            )
        return found


@attrs.define(kw_only=True)
class Results:
    """Of a run."""

    #: When it began, and how long it took, in seconds.
    began: str
    seconds: float = 0
    quick: bool = False
    machine: dict[str, Any] = attrs.Factory(dict)
    outcomes: list[Outcome] = attrs.Factory(list)

    @property
    def failed(self) -> bool:
        """Whether anything of it did."""
        return any(outcome.failed for outcome in self.outcomes)

    def figures(self) -> Iterable[Figure]:
        """Of all scenarios."""
        return [figure for outcome in self.outcomes for figure in outcome.figures()]

    def dumps(self) -> str:
        """As JSON, with medians and figures for readers who want no samples. A line per round."""
        data = cattrs.unstructure(self)
        for outcome, entry in zip(self.outcomes, data["outcomes"], strict=True):
            entry["figures"] = cattrs.unstructure(outcome.figures())
            for contender, values in zip(outcome.contenders, entry["contenders"], strict=True):
                values["spread"] = cattrs.unstructure(contender.spread)
        text = json.dumps(data, indent=1, ensure_ascii=False)
        return re.sub(r"\[[\s\d.e+,-]+\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n"

    @classmethod
    def load(cls, file: Path) -> Results:
        """What `dumps` wrote there."""
        return cattrs.structure(json.loads(file.read_text()), cls)
