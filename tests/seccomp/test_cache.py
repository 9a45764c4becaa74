"""Compiled filters on disk: found again, and never taken from where another user could have put them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers.seccomp import cache


class Maker:
    """Makes programs, each another, and counts."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> bytes:
        self.made += 1
        return self.made.to_bytes(8, "little")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/execdrivers"


def one(place: Path) -> Path:
    (found,) = place.iterdir()
    return found


def test_what_is_kept_is_found_again(place: Path) -> None:
    make = Maker()
    assert cache.program("a", make) == cache.program("a", make)
    assert cache.program("b", make) != cache.program("a", make)
    assert make.made == 2
    assert len(list(place.iterdir())) == 2
    assert place.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in place.iterdir())


def test_two_keys_of_one_name_are_not_confused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.zlib, "crc32", lambda data: 7)
    make = Maker()
    assert cache.program("a", make) != cache.program("b", make)
    assert cache.program("a", make) != cache.program("b", make)
    assert len(list(place.iterdir())) == 1


def other_owner(place: Path) -> None:
    os.chown(one(place), 1234, 1234)


def other_owner_above(place: Path) -> None:
    os.chown(place, 1234, 1234)


def writable(place: Path) -> None:
    one(place).chmod(0o622)


def writable_above(place: Path) -> None:
    place.chmod(0o777)


def link(place: Path) -> None:
    one(place).rename(place.parent / "elsewhere")
    (place / "x").touch()
    (place / "x").unlink()
    (place / NAMES[0]).symlink_to(place.parent / "elsewhere")


def link_above(place: Path) -> None:
    place.rename(place.parent / "elsewhere")
    place.symlink_to(place.parent / "elsewhere")


def cut(place: Path) -> None:
    file = one(place)
    file.write_bytes(file.read_bytes()[:-1])


def changed(place: Path) -> None:
    file = one(place)
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")


def empty(place: Path) -> None:
    one(place).write_bytes(b"")


def fifo(place: Path) -> None:
    name = one(place)
    name.unlink()
    os.mkfifo(name)


NAMES: list[str] = []


@pytest.mark.parametrize("spoil", [writable, writable_above, link, link_above, cut, changed, empty, fifo])
def test_what_another_may_have_put_there_is_not_used(place: Path, spoil: Callable[[Path], None]) -> None:
    make = Maker()
    first = cache.program("a", make)
    NAMES[:] = [one(place).name]
    spoil(place)
    assert cache.program("a", make) != first
    assert make.made == 2


@pytest.mark.needs("root")
@pytest.mark.parametrize("spoil", [other_owner, other_owner_above])
def test_what_belongs_to_another_is_not_used(place: Path, spoil: Callable[[Path], None]) -> None:
    test_what_another_may_have_put_there_is_not_used(place, spoil)


def test_no_place_for_it_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    make = Maker()
    for base in (tmp_path / "file", Path("/proc/nonexistent")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(base))
        cache.program("a", make)
    assert make.made == 2


def test_it_does_not_grow_for_ever(place: Path) -> None:
    for number in range(cache._MOST + 9):
        cache.program(str(number), Maker())
    assert len(list(place.iterdir())) <= cache._MOST


def test_another_kernel_or_library_is_another_key(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    cache.program("a", make)
    monkeypatch.setattr(cache, "_host", lambda: "another")
    cache.program("a", make)
    assert make.made == 2
