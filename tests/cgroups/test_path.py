"""Where a container's cgroups are."""

from __future__ import annotations

import pytest

from execdrivers import SpecError
from execdrivers.cgroups.path import locate


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (None, "ours/box"),
        ("/a/b", "a/b"),
        ("//a/./b/", "a/b"),
        ("a/b", "ours/a/b"),
        ("system.slice:docker:1234", "system.slice/docker-1234.scope"),
        (":runc:x", "system.slice/runc-x.scope"),
        ("user-1000.slice::x", "user.slice/user-1000.slice/x.scope"),
        ("a-b-c.slice:p:n", "a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ("a.slice:p:own.slice", "a.slice/own.slice"),
        ("-.slice:p:n", "p-n.scope"),
        ("/with:two:colons", "with:two:colons"),
    ],
)
def test_place(path: str | None, place: str) -> None:
    assert locate(path, "box", "ours") == place


@pytest.mark.parametrize("path", ["/", "", "//", "a:b:c", "a--b.slice:p:n", "-a.slice:p:n", "a.slice:p:", ".slice:p:n"])
def test_no_place(path: str) -> None:
    with pytest.raises(SpecError, match="cgroups_path") as caught:
        locate(path, "box", "ours")
    assert caught.value.remedy
