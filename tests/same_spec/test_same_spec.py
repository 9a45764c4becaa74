"""One list of specs on every driver: each either refuses by name, or all that can be seen of the container is the same.

`specs.py` has the specs, `observe.py` what is seen, `explained.py` the differences that have a reason.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import ContainerSpec, Engine, Registry, UnsupportedFeature
from execdrivers.testing.program import build

from .explained import EXPLAINED, Explained, features_behind
from .observe import WHY, Seen, lacking, observe
from .specs import SPECS, Place

pytestmark = pytest.mark.needs("root")

#: The first one that takes a spec is what the others are compared with.
DRIVERS = ("native", "oci", "lxc", "chroot")


class Collection:
    """What was seen, by driver and spec; each pair is run once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = Engine(directory / "state")
        self.program = build(directory)
        self.drivers = [name for name in DRIVERS if self._is_available(name)]
        self.seen = functools.cache(self._seen)

    @staticmethod
    def _is_available(name: str) -> bool:
        registry = Registry()
        return name in registry.names() and registry.probe(name).available

    def spec(self, name: str) -> ContainerSpec:
        """As `observe` builds it, but for the command."""
        place = Place(self.directory / "rootfs", self.directory / "data", self.program)
        return ContainerSpec.build(["/bin/probe"], **SPECS[name].spec_fields(place))

    def takers(self, name: str) -> list[str]:
        """The drivers that declare all that the spec asks for."""
        return [driver for driver in self.drivers if not lacking(self.engine, driver, self.spec(name))]

    def _seen(self, driver: str, name: str) -> Seen:
        return observe(self.engine, driver, SPECS[name], self.program, self.directory / "place")

    def why(self, driver: str, name: str) -> str:
        """The words in which it was refused, if it was."""
        return str(self.seen(driver, name).get(WHY, ""))

    def differences(self, name: str) -> Iterator[tuple[str, str, Any, Any]]:
        """(driver, observation, what it should be, what it is), but for what a driver declares absent."""
        takers = self.takers(name)
        for driver in takers[1:]:
            features = self.engine.registry.probe(driver).features
            expected, seen = self.seen(takers[0], name), self.seen(driver, name)
            keys = {*expected, *seen} - {WHY}
            if ("refused" in expected) != ("refused" in seen):
                keys = {"refused"}
            # What is not tried everywhere (see CONTAINED_ATTEMPTS) cannot be compared.
            keys -= {key for key in expected.keys() ^ seen.keys() if key.startswith("try ")}
            for key in sorted(keys):
                if expected.get(key) != seen.get(key) and features_behind(key) <= features:
                    yield driver, key, expected.get(key), seen.get(key)


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    directory = tmp_path_factory.mktemp("same-spec")
    # Users of the container go through it to what is bound from there.
    for place in (directory, *directory.parents):
        if place.owner() == "root" and str(place).startswith(str(tmp_path_factory.getbasetemp().parent)):
            place.chmod(0o755)
    made = Collection(directory)
    with made.engine:
        yield made


def _explanation(driver: str, spec: str, observation: str) -> Explained | None:
    return next((item for item in EXPLAINED if item.matches(driver, spec, observation)), None)


@pytest.mark.parametrize("name", SPECS)
def test_same_spec_any_driver(no_leaks: None, collection: Collection, name: str) -> None:
    takers = collection.takers(name)
    for driver in collection.drivers:
        if driver not in takers:
            check_refusal(collection, driver, name, takers)
    unexplained = [
        f"{driver}: {key}: {was!r} and not {expected!r} {collection.why(driver, name)}"
        for driver, key, expected, was in collection.differences(name)
        if not _explanation(driver, name, key)
    ]
    assert not unexplained, f"compared with {takers[0]}:\n" + "\n".join(unexplained)


def check_refusal(collection: Collection, driver: str, name: str, takers: list[str]) -> None:
    """By name of the feature and of a field that asks for it, before anything is done; it knows who could."""
    spec = collection.spec(name)
    with pytest.raises(UnsupportedFeature) as caught:
        collection.engine.create(spec, driver=driver)
    error = caught.value
    assert (error.driver, error.field) == (driver, lacking(collection.engine, driver, spec)[error.feature])
    assert list(error.alternatives) == sorted(takers, key=collection.engine.registry.names().index)
    assert driver in str(error)
    assert error.feature in str(error)


def test_the_list_is_long_enough_and_so_is_what_is_seen(collection: Collection) -> None:
    assert len(SPECS) >= 60
    for driver in collection.drivers:
        assert len(collection.seen(driver, "nothing")) >= 100


def test_every_explanation_explains_something(no_leaks: None, collection: Collection) -> None:
    found = {_explanation(driver, name, key) for name in SPECS for driver, key, _, _ in collection.differences(name)}
    concerned = [item for item in EXPLAINED if item.here and any(map(item.concerns, collection.drivers))]
    idle = [item for item in concerned if item not in found]
    assert not idle, "nothing differs there any more"
