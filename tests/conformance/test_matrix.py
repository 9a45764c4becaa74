"""docs/drivers.md says what the drivers declare; the kit asks for every feature that can be asked for."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from execdrivers import Registry
from execdrivers.features import FEATURES
from execdrivers.registry import BUILT_IN
from execdrivers.testing import AREAS, host, matrix

_PAGE = (Path(__file__).parents[2] / "docs/drivers.md").read_text()
_HEAD, *_ROWS = [
    [cell.strip(" `") for cell in line.strip("|").split("|")]
    for line in re.findall(r"^\| (?:feature|`[a-z]).*\|$", _PAGE.split("\n## ")[0], re.MULTILINE)
]
_TABLE = {driver: {row[0]: row[column] for row in _ROWS} for column, driver in enumerate(_HEAD) if column}


def _facts() -> dict[str, Any]:
    found = re.search(r"^<!-- host: (.*) -->$", _PAGE, re.MULTILINE)
    assert found
    facts: dict[str, Any] = json.loads(found[1])
    return facts


def test_page_has_every_driver_and_every_feature() -> None:
    assert list(_TABLE) == list(BUILT_IN), "run make matrix"
    assert [row[0] for row in _ROWS] == list(FEATURES), "run make matrix"


@pytest.mark.parametrize("driver", _TABLE)
def test_page_says_what_the_driver_declares(driver: str) -> None:
    probe = Registry().probe(driver)
    then = _facts()
    versions = then.pop("versions")
    now = matrix.facts()
    if not probe.available:
        pytest.skip(f"needs driver {driver}: " + "; ".join(map(str, probe.problems)))
    here = {feature: "refused: why" if feature in probe.missing else "refused" for feature in FEATURES}
    here |= dict.fromkeys(probe.features, "yes")
    on_page = {f: "yes" if cell == "deviation" else cell for f, cell in _TABLE[driver].items()}
    stale = {f: (cell, here[f]) for f, cell in on_page.items() if cell != here[f]}
    others = [f"{key} {then[key]}, here {now[key]}" for key in then if then[key] != now[key]]
    if versions[driver] != probe.version:
        others.append(f"{driver} {versions[driver]}, here {probe.version}")
    if stale and others:
        pytest.skip(f"needs the host that the page was made on ({'; '.join(others)}), since what it can do differs")
    assert not stale, "docs/drivers.md is stale (page, driver): run make matrix"


def test_every_feature_is_asked_for_by_some_test() -> None:
    asked = set()
    for area, module in AREAS.items():
        kind = getattr(import_module(f"execdrivers.testing.{module}"), area)
        for name in dir(kind):
            asked |= set(getattr(getattr(kind, name), "features", ()))
    assert asked == set(FEATURES)


def test_host_tells_its_cgroups() -> None:
    assert set(host.controllers().values()) <= {1, 2}
