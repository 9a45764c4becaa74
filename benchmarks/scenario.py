"""What a scenario is, and what its contenders find: a root file system, the C floor, a scratch directory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs

from benchmarks import floor, rootfs
from benchmarks.sampling import Contender

__all__ = ["Comparison", "Limit", "Place", "Scenario"]

T = TypeVar("T")


@attrs.define
class Place:
    """Where a scenario takes place; what it makes goes with ``stack``, before the next scenario begins."""

    #: An empty directory for the scenario.
    scratch: Path
    stack: contextlib.ExitStack
    #: Few samples of each: that it works, not what it measures.
    quick: bool = False
    #: Of the command line: only these drivers and peers; None: all.
    wanted: frozenset[str] | None = None
    _made: dict[Callable[[Place], Any], Any] = attrs.field(factory=dict, init=False)

    @cached_property
    def rootfs(self) -> str:
        """The minimal root file system in which every contender runs the same programs."""
        return rootfs.make(self.scratch / "rootfs")

    @cached_property
    def floor(self) -> tuple[Path, Path]:
        """The C floor, built: its program and its launcher."""
        return floor.build(self.scratch)

    def wants(self, name: str) -> bool:
        """Whether a contender's name, or a word of it, is among those that the command line names."""
        words = {name.lower(), *re.findall(r"[\w.-]+", name.lower())}
        return self.wanted is None or not self.wanted.isdisjoint(words)

    def once(self, make: Callable[[Place], T]) -> T:
        """What ``make`` makes of this place; made at the first call: a daemon, say, that several contenders share."""
        if make not in self._made:
            self._made[make] = make(self)
        made: T = self._made[make]
        return made


@attrs.frozen(kw_only=True)
class Comparison:
    """A ratio of interest: of one contender over another, by name.

    ``target``: what it should be at the most, or, with ``at_least``, at the least; None: it is only of interest.
    """

    title: str
    of: str
    over: str
    target: float | None = None
    at_least: bool = False


@attrs.frozen(kw_only=True)
class Limit:
    """A target for the median of one contender itself, in the unit of its scenario."""

    title: str
    of: str
    at_most: float


@attrs.frozen(kw_only=True)
class Scenario:
    """One thing that is measured of several."""

    name: str
    title: str
    #: What is measured, and how, in a sentence or two for the report.
    about: str
    #: Of the samples: seconds, bytes, or bytes a second.
    unit: Literal["s", "B", "B/s"] = "s"
    contenders: Callable[[Place], Sequence[Contender]]
    rounds: int = 20
    #: About how long all rounds take, in seconds, on two processors: for the estimate of the time left.
    seconds: float = 30
    #: The contender that the table compares the others with; "": the first.
    reference: str = ""
    comparisons: Sequence[Comparison] = ()
    limits: Sequence[Limit] = ()
    #: How it is drawn: bars, or curves over what ``x`` is.
    plot: Literal["bars", "curves"] = "bars"
    x: str = ""
