"""``--format``: values of a JSON object put into a text, in the small part of Go's templates that scripts use."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from execdrivers.cli.parsing import UsageError

__all__ = ["Template", "shaper"]

_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_VALUE = re.compile(r"\s*(json\s+)?(\.|(?:\.\w+)+)\s*", re.ASCII)
#: As docker, which takes them from shells that do not expand them.
_ESCAPES = {r"\t": "\t", r"\n": "\n"}


def shaper(text: str) -> Callable[[Mapping[str, Any]], str]:
    """What makes the line of an object that ``--format`` asks for: ``json``, or a `Template`. Raises `UsageError`."""
    if text == "json":
        return lambda data: json.dumps(data, sort_keys=True)
    return Template(text).fill


class Template:
    """``{{.exit.code}}``, ``{{json .spec}}``: names are those of the JSON that the command prints."""

    def __init__(self, text: str) -> None:
        """Raises `UsageError` where more is asked for."""
        if text.startswith("table "):
            remedy = text.removeprefix("table ") + ", without a header"
            raise UsageError("--format: a table of other columns is not supported", remedy=remedy)
        self._parts: list[tuple[str, bool, list[str]]] = []
        end = 0
        for found in _ACTION.finditer(text):
            value = _VALUE.fullmatch(found[1])
            if value is None:
                raise UsageError(
                    f"--format: {found[0]!r} is not supported",
                    remedy="{{.name}}, {{json .name}}, or --format json and a tool such as jq",
                )
            self._parts.append((_plain(text[end : found.start()]), value[1] is not None, value[2].split(".")[1:]))
            end = found.end()
        self._tail = _plain(text[end:])
        if not self._parts:
            raise UsageError(f"--format: {text!r} names no value", remedy="json, or a text with {{.name}} in it")

    def fill(self, data: Mapping[str, Any]) -> str:
        """Texts are put in as they are, everything else as JSON, null as nothing. Raises `UsageError`."""
        texts = []
        for before, as_json, path in self._parts:
            value = _look_up(data, [name for name in path if name])
            plain = not as_json and (value is None or isinstance(value, str))
            texts += [before, (value or "") if plain else json.dumps(value)]
        return "".join(texts) + self._tail


def _plain(text: str) -> str:
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text


def _look_up(data: Any, path: list[str]) -> Any:
    here = data
    for depth, name in enumerate(path):
        if here is None and depth:
            return None  # the whole is not there yet, so its parts are not
        if not isinstance(here, Mapping) or name not in here:
            known = f"there are {', '.join(here)}" if isinstance(here, Mapping) and here else "it has no parts"
            where = "." + ".".join(path[:depth])
            raise UsageError(f"--format: {where} has no {name!r}", remedy=known)
        here = here[name]
    return here
