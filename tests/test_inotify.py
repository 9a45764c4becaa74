"""Watching files by inotify."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from execdrivers import inotify
from execdrivers.inotify import Inotify


def test_tells_what_happened_to_which_file(tmp_path: Path) -> None:
    with Inotify() as watcher:
        directory = watcher.watch(str(tmp_path), inotify.CREATE | inotify.MOVED_TO | inotify.MODIFY)
        assert watcher.read() == [] and not watcher.wait(0)
        (tmp_path / "ä b").write_text("x")
        os.rename(tmp_path / "ä b", tmp_path / "c")
        assert watcher.wait(5)
        changes = watcher.read()
        assert {change.watch for change in changes} == {directory}
        assert [(change.mask, change.name) for change in changes] == [
            (inotify.CREATE, "ä b"),
            (inotify.MODIFY, "ä b"),
            (inotify.MOVED_TO, "c"),
        ]


def test_a_file_by_its_descriptor_is_watched_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with Inotify() as watcher, path.open("w") as file:
        watch = watcher.watch(file.fileno(), inotify.MODIFY)
        os.rename(path, tmp_path / "y")
        file.write("text")
        file.flush()
        assert [(change.watch, change.mask, change.name) for change in watcher.read()] == [(watch, inotify.MODIFY, "")]


def test_a_watch_that_has_ended(tmp_path: Path) -> None:
    with Inotify() as watcher:
        watch = watcher.watch(str(tmp_path), inotify.CREATE)
        watcher.unwatch(watch)
        assert [change.mask for change in watcher.read()] == [inotify.IGNORED]
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            watcher.unwatch(watch)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with Inotify() as watcher, pytest.raises(FileNotFoundError) as caught:
        watcher.watch(str(tmp_path / "none"), inotify.MODIFY)
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(NotADirectoryError), Inotify() as watcher:
        watcher.watch("/dev/null", inotify.CREATE | inotify.ONLYDIR)


def test_closing_twice() -> None:
    watcher = Inotify()
    fd = watcher.fileno()
    os.fstat(fd)
    watcher.close()
    watcher.close()
    assert watcher.fileno() == -1
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)
