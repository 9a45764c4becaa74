"""Gates: what a driver must have for a test, and what is asserted of one that lacks it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from execdrivers.features import FEATURES

if TYPE_CHECKING:
    from execdrivers.testing.kit import Kit

__all__ = ["OPERATIONS", "PROMISES", "needs"]

_Test = TypeVar("_Test", bound=Callable[..., None])

#: Features that no field of a spec asks for, but a call: refused by that call, without naming a field.
OPERATIONS = frozenset({"exec", "pause", "update", "pids", "stats", "recover", "signal"})
#: Features that nothing asks for: a driver without one has promised nothing that could be refused.
PROMISES = frozenset({"other-users", "kill-all", "annotations", "stop-signal", "events"})


def needs(*features: str, asked: Mapping[str, Any] | None = None) -> Callable[[_Test], _Test]:
    """The test is about these features.

    For a driver that lacks one of them the documented refusal is asserted instead: the test itself, run all the same,
    must end in `UnsupportedFeature` for one that is lacking. A test of what holds by default asks for nothing; there
    ``asked`` has the fields of a spec that does.
    """
    unknown = set(features) - set(FEATURES)
    assert not unknown, f"unknown features: {unknown}"

    def decorate(test: _Test) -> _Test:
        @functools.wraps(test)
        def gated(self: Kit, *args: Any, **kwargs: Any) -> None:
            self.note("features", features)
            lacking = set(features) - self.features
            if not lacking:
                return test(self, *args, **kwargs)
            self.note("outcome", "refused")
            if lacking <= PROMISES:
                return None
            return refused(self, lacking, lambda: test(self, *args, **kwargs) if asked is None else self.run(**asked))

        gated.features = features  # type: ignore[attr-defined]
        return gated  # type: ignore[return-value]

    return decorate


def refused(kit: Kit, lacking: Iterable[str], attempt: Callable[[], object]) -> None:
    """Assert that it is refused by name, with a remedy, and that nothing was made."""
    from execdrivers.errors import UnsupportedFeature

    try:
        attempt()
    except UnsupportedFeature as raised:
        error = raised
    else:
        raise AssertionError(f"not refused, though the driver does not declare {', '.join(sorted(lacking))}")
    assert error.feature in set(lacking), f"refused for another reason: {error}"
    assert error.driver == kit.name, f"names driver {error.driver!r}: {error}"
    assert error.feature in OPERATIONS or error.field, f"does not name the field: {error}"
    assert kit.name in error.message and error.feature in error.message
    assert error.remedy, f"has no remedy: {error}"
    made = {event.id for event in kit.events if event.type == "created"} | {orphan.id for orphan in kit.orphans}
    assert set(kit.stored()) <= made, "a container was made before the refusal"
