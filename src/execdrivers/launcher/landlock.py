"""Landlock, by the launcher: which of it the kernel has, and a spec's rules as an operation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from execdrivers.driver import Problem
from execdrivers.launcher._launcher import lib
from execdrivers.launcher.operations import LANDLOCK, Operation, operation
from execdrivers.spec import Landlock

__all__ = ["landlock", "landlock_abi", "landlock_features", "landlock_guarantee"]

#: Feature → the ABI that it takes, and the first Linux with it. Before ABI 3 what may not be written can be truncated.
_SINCE = {"landlock": (3, "6.2"), "landlock.ports": (4, "6.7"), "landlock.scopes": (6, "6.12")}


@cache
def landlock_abi() -> int:
    """Version of the kernel's Landlock; 0: none, or turned off."""
    return int(lib.ed_landlock_abi())


def landlock_features() -> dict[str, Problem | None]:
    """The features that `landlock` serves → why they cannot be had here; None where they can."""
    return {feature: _problem(*since) for feature, since in _SINCE.items()}


def _problem(needed: int, release: str) -> Problem | None:
    abi = landlock_abi()
    if abi >= needed:
        return None
    if not abi:
        return Problem("the kernel has no Landlock, or it is off", f"run Linux {release} with lsm=landlock,…")
    return Problem(f"the kernel's Landlock has ABI {abi}, and it takes {needed}", f"run Linux {release} or later")


def landlock(rules: Landlock) -> Operation:
    """The rules as an operation. It takes no new privileges, and comes after all that needs files."""
    ports = {"bind": rules.bind, "connect": rules.connect}
    given = {"files": rules.files, **{name: ports[name] is not None for name in ports}}
    restricts = tuple(name for name in LANDLOCK if given.get(name) or name in rules.scopes)
    paths = (rules.read or (), rules.write or (), rules.execute or ())
    return operation("landlock", landlock_abi(), restricts, *paths, rules.bind or (), rules.connect or ())


def landlock_guarantee(rules: Landlock | None) -> Mapping[str, Any] | None:
    """What is in force, as a container's guarantees say it: the rules, and the kernel's ABI."""
    return None if rules is None else {"abi": landlock_abi(), **rules.to_dict()}
