"""``execdrivers logs``: what a detached container has written."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, BinaryIO

from execdrivers.cli.containers import engine_of, for_names, the_name
from execdrivers.cli.parsing import Command, Parser, UsageError, integer
from execdrivers.cli.times import moment, rfc3339

if TYPE_CHECKING:
    from execdrivers.monitor.log import LogEntry

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = for_names(
        "logs",
        "What a detached container has written: its stdout to stdout, its stderr to stderr. The record of one that\n"
        "has ended still has it.",
        "[OPTIONS] NAME",
    )
    add = parser.group("Options", "TIME: 10m (so long ago), 2026-01-31T12:00:00Z, or seconds since 1970")
    add("-f", "--follow", action="store_true", help="go on with what it writes, until it ends")
    add("--since", metavar="TIME", help="only what was written then or later")
    add("-n", "--tail", metavar="N", help="only the last N lines (default: all)")
    add("-t", "--timestamps", action="store_true", help="begin each line with its time")
    add("--until", metavar="TIME", help="only what was written before")
    add(
        "--format",
        choices=("text", "json"),
        metavar="text|json",
        help="json: one object a line, docker's log, stream, time",
    )
    parser.common()
    return parser


def logs(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print what is there, and with ``-f`` what comes."""
    given = vars(options)
    name = the_name(parser, operands)
    as_json = given.get("format") == "json"
    if as_json and "timestamps" in given:
        raise UsageError("-t/--timestamps does not go with --format json, which has them", remedy="leave one out")
    since, until = (moment(f"--{key}", given[key]) if key in given else None for key in ("since", "until"))
    tail = _lines(given.get("tail", "all"))
    with engine_of(options) as engine:
        entries = engine.get(name).logs(follow="follow" in given, since=since, until=until, tail=tail)
        if as_json:
            _write(entries, lambda entry: (sys.stdout.buffer, _object(entry)))
        else:
            _write(entries, _Text(timestamps="timestamps" in given))
    return 0


def _lines(text: str) -> int | None:
    try:
        lines = -1 if text == "all" else integer(text)
    except ArgumentTypeError:
        raise UsageError(f"-n/--tail: {text!r} is not a number of lines", remedy="--tail 100, --tail all") from None
    return None if lines < 0 else min(lines, 1 << 60)  # docker's -1 is all as well


def _write(entries: Iterable[LogEntry], shape: Callable[[LogEntry], tuple[BinaryIO, bytes]]) -> None:
    for entry in entries:
        if entry.lost:
            print(
                f"execdrivers: {entry.lost} bytes were rotated away before they were read", file=sys.stderr, flush=True
            )
        stream, data = shape(entry)
        stream.write(data)
        stream.flush()


class _Text:
    """Each stream's bytes as they were written, where asked for with the time before each line."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        #: Streams whose last line is not at its end yet.
        self._open: set[str] = set()

    def __call__(self, entry: LogEntry) -> tuple[BinaryIO, bytes]:
        stream = sys.stdout.buffer if entry.stream == "stdout" else sys.stderr.buffer
        begins = entry.stream not in self._open
        (self._open.add if entry.partial else self._open.discard)(entry.stream)
        before = f"{rfc3339(entry.time_ns)} ".encode() if self._timestamps and begins else b""
        return stream, before + entry.data


def _object(entry: LogEntry) -> bytes:
    text = entry.data.decode("utf-8", "replace")
    return json.dumps({"log": text, "stream": entry.stream, "time": rfc3339(entry.time_ns)}).encode() + b"\n"


COMMANDS = {"logs": Command(_parser, logs)}
