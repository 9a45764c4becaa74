"""``execdrivers events``: what happens to containers, as it happens."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from execdrivers.cli.containers import engine_of
from execdrivers.cli.parsing import Command, Parser, UsageError
from execdrivers.cli.template import shaper
from execdrivers.cli.times import moment, rfc3339

if TYPE_CHECKING:
    from execdrivers.events import Event

__all__ = ["COMMANDS"]

#: Key of a filter → what `Engine.events` calls it. docker's word for a type is event.
_FILTERS = {"container": "containers", "event": "types", "type": "types"}


def _parser() -> Parser:
    parser = Parser(
        "execdrivers events",
        "[OPTIONS]",
        interspersed=True,
        description="Print what happens to containers, whichever program does it, until interrupted.",
    )
    add = parser.group("Options")
    add(
        "-f",
        "--filter",
        action="append",
        metavar="KEY=VALUE",
        help="only those of that container, or type (also: event), as type=exited; of one key any, of both keys both "
        "must hold",
    )
    add("--since", metavar="TIME", help="begin with what has happened since then: 10m (ago), a date, seconds")
    add("--until", metavar="TIME", help="end then; at once, where that is past")
    add(
        "--format",
        metavar="json|TEMPLATE",
        help="json: one object a line; or a text such as '{{.type}} {{.id}}'",
    )
    parser.common()
    return parser


def events(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """One a line, in the order in which they happened."""
    if operands:
        remedy = f"execdrivers events --filter container={operands[0]}"
        raise UsageError(f"events takes no names, but {operands[0]!r} was given", remedy=remedy)
    given = vars(options)
    chosen = _chosen(given.get("filter", ()))
    line = _line(given.get("format"))
    since, until = (moment(f"--{name}", given[name]) if name in given else None for name in ("since", "until"))
    follow = until is None or until > time.time()
    if since is None and not follow:
        return 0  # from now on until a time that is past
    with engine_of(options) as engine, engine.events(since=since, until=until, follow=follow, **chosen) as stream:
        for event in stream:
            print(line(event), flush=True)
    return 0


def _chosen(texts: Iterable[str]) -> dict[str, set[str]]:
    from execdrivers.events import TYPES

    chosen: dict[str, set[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in _FILTERS:
            raise UsageError(f"-f/--filter: {text!r} is not supported", remedy="container=web or type=exited")
        if _FILTERS[key] == "types" and value not in TYPES:
            raise UsageError(f"-f/--filter: {value!r} is not a type of event", remedy=", ".join(TYPES))
        chosen.setdefault(_FILTERS[key], set()).add(value)
    return chosen


def _line(shape: str | None) -> Callable[[Event], str]:
    if shape is None:
        return _text
    fill = shaper(shape)
    return lambda event: fill(event.to_dict() if shape == "json" else _all(event))


def _all(event: Event) -> dict[str, Any]:
    """With null for what it does not have."""
    import attrs

    return {**{field.name: None for field in attrs.fields(type(event))}, **event.to_dict()}


def _text(event: Event) -> str:
    """docker's form: ``TIME container TYPE NAME (what=more, …)``."""
    from execdrivers.cli.table import printable

    more: dict[str, object] = {"driver": event.driver, "exec": event.exec, "pid": event.pid}
    if event.args is not None:
        import shlex

        more["args"] = shlex.join(event.args)
    if event.exit is not None:
        more |= {"status": event.exit.status, "reason": event.exit.reason}
    more |= {"oom_kills": event.oom_kills, "lost": event.lost}
    shown = ", ".join(f"{name}={value}" for name, value in more.items() if value not in (None, ""))
    words = (rfc3339(round(event.time * 10**6) * 1000), "container", event.type, event.id, f"({shown})")
    return printable(" ".join(word for word in words if word))


COMMANDS = {"events": Command(_parser, events)}
