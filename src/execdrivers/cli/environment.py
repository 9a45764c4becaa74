"""``-e`` and ``--env-file``: docker's texts → the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from execdrivers.cli.parsing import UsageError, read_text

__all__ = ["environment"]


def environment(files: Iterable[str], words: Iterable[str], caller: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Files first, then ``-e``; a bare NAME takes the caller's value, and is left out where the caller has none."""
    result: dict[str, str] = {}
    for path in files:
        for number, line in _lines(path):
            name = line.partition("=")[0]
            if not name or name.split() != [name]:
                raise UsageError(
                    f"--env-file {path}, line {number}: {name!r} cannot be the name of a variable",
                    remedy="NAME=VALUE, NAME to pass on your own value, or # for a comment",
                )
            _set(result, line, caller)
    for word in words:
        if word.startswith("=") or not word:
            raise UsageError(f"-e/--env: {word!r} has no name", remedy="-e NAME=VALUE, or -e NAME for your own value")
        _set(result, word, caller)
    return result


def _set(result: dict[str, str], text: str, caller: Mapping[str, str]) -> None:
    name, equals, value = text.partition("=")
    if equals:
        result[name] = value
    elif name in caller:
        result[name] = caller[name]


def _lines(path: str) -> Iterable[tuple[int, str]]:
    """Docker's format: one NAME[=VALUE] a line, all verbatim, blank lines and those starting with # left out."""
    lines = read_text("--env-file", path, "a readable UTF-8 file of NAME=VALUE lines").split("\n")
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r").lstrip()
        if line and not line.startswith("#"):
            yield number, line
