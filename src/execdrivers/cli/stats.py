"""``execdrivers stats``: what containers use, again and again."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from execdrivers.cli.containers import engine_of
from execdrivers.cli.parsing import Command, Parser
from execdrivers.cli.table import lines, on_terminal
from execdrivers.cli.template import shaper
from execdrivers.errors import ExecDriverError

if TYPE_CHECKING:
    from execdrivers.container import Container
    from execdrivers.engine import Engine
    from execdrivers.stats import Stats

__all__ = ["COMMANDS"]

#: Seconds between two samples, docker's.
_INTERVAL = 1.0
_COLUMNS = ("NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS")
#: For what is not known, docker's.
_UNKNOWN = "--"
_CLEAR, _HOME, _REST_OF_LINE, _REST = "\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"


def _parser() -> Parser:
    parser = Parser(
        "execdrivers stats",
        "[OPTIONS] [NAME…]",
        interspersed=True,
        description="What containers use, every second; without names all that run. Ends when those named have ended.",
    )
    add = parser.group("Options")
    add("-a", "--all", action="store_true", help="without names: those that do not run as well")
    add("--no-stream", action="store_true", help="once")
    add(
        "--format",
        metavar="table|json|TEMPLATE",
        help="json: one object a line; or a text such as '{{.name}} {{.cpu_percent}}'",
    )
    add("--no-trunc", action="store_true", help="of no effect: names are always whole")
    parser.common()
    return parser


def stats(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """A first sample is there to be compared with; so what goes to a file begins a second later."""
    given = vars(options)
    once = "no_stream" in given
    print_lines = _printer(given.get("format", "table"))
    with engine_of(options) as engine:
        watch = _Watch(engine, operands, everything="all" in given)
        rows = watch.look()
        drawing = print_lines is None and on_terminal() and not once
        if drawing:
            sys.stdout.write(_CLEAR)
        while True:
            if drawing:
                _draw(rows)
            _sleep_until(watch.looked + _INTERVAL)
            rows = watch.look()
            if not drawing:
                if print_lines is None:
                    _print_table(rows)
                else:
                    print_lines(rows)
            if once or (operands and not any(row.live for row in rows)):
                if drawing:
                    _draw(rows)
                return 0


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


# --- what is looked at ----------------------------------------------------------------------------------------------


class _Row:
    """One container now, and a moment ago."""

    def __init__(self, name: str, state: str | None, before: Stats | None, now: Stats | None) -> None:
        self.name = name
        self.state = state
        self.live = state in ("created", "running", "paused")
        self.stats = now
        self.cpu_percent: float | None = None
        if before is not None and now is not None:
            from execdrivers.stats import cpu_percent

            self.cpu_percent = cpu_percent(before, now)

    @property
    def memory_percent(self) -> float | None:
        """Of its limit, or of the host's memory."""
        if self.stats is None:
            return None
        return 100 * self.stats.memory.working_set / (self.stats.memory.limit or _total_memory())


class _Watch:
    """The containers that are asked for, and the last sample of each."""

    def __init__(self, engine: Engine, names: Sequence[str], *, everything: bool) -> None:
        """Raises `ContainerNotFound` for a name that none has, and whatever keeps one that is named from being told."""
        self._engine = engine
        self._names = list(dict.fromkeys(names))
        self._everything = everything
        #: Name → since when it exists, the container, and its last sample.
        self._held: dict[str, tuple[float | None, Container, Stats | None]] = {}
        for name in self._names:
            container = engine.get(name)
            engine.registry.require(container.driver, {"stats": "stats"})

    def look(self) -> list[_Row]:
        """A row for each, in the order of the names, or the newest first."""
        self.looked = time.monotonic()
        found = {summary.name: summary for summary in self._engine.list() if summary.error is None}
        if self._names:
            wanted: Sequence[str] = self._names
        else:
            newest = sorted(found.values(), key=lambda summary: summary.created_at or 0.0, reverse=True)
            wanted = [s.name for s in newest if self._everything or s.state in ("running", "paused")]
        self._held = {name: held for name, held in self._held.items() if name in wanted}
        return [self._row(name, found.get(name)) for name in wanted]

    def _row(self, name: str, summary: Any) -> _Row:
        if summary is None or summary.state not in ("created", "running", "paused"):
            self._held.pop(name, None)
            return _Row(name, summary and summary.state, None, None)
        since, container, before = self._held.get(name, (None, None, None))
        now = None
        try:
            if container is None or since != summary.created_at:  # another of the same name
                container, before = self._engine.get(name), None
            now = container.stats()
            self._held[name] = summary.created_at, container, now
        except ExecDriverError:  # it ended just now, or its driver cannot tell
            pass
        return _Row(name, summary.state, before, now)


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- how it is shown ------------------------------------------------------------------------------------------------


def _printer(shape: str) -> Callable[[Sequence[_Row]], None] | None:
    """What prints a line of each; None: a table. Raises `UsageError`."""
    if shape == "table":
        return None
    fill = shaper(shape)

    def print_lines(rows: Sequence[_Row]) -> None:
        for row in rows:
            print(fill(_data(row)))
        sys.stdout.flush()

    return print_lines


def _data(row: _Row) -> dict[str, Any]:
    percents = {"cpu_percent": row.cpu_percent, "memory_percent": row.memory_percent}
    rounded = {name: None if value is None else round(value, 4) for name, value in percents.items()}
    return {
        "name": row.name,
        "state": row.state,
        **rounded,
        **(row.stats.to_dict() if row.stats is not None else dict.fromkeys(_fields())),
    }


def _fields() -> list[str]:
    import attrs

    from execdrivers.stats import Stats

    return [field.name for field in attrs.fields(Stats)]


def _print_table(rows: Sequence[_Row]) -> None:
    for text in lines(_COLUMNS, map(_cells, rows)):
        print(text)
    sys.stdout.flush()


def _draw(rows: Sequence[_Row]) -> None:
    """Over the last one, without a flicker; what does not fit on the screen is counted."""
    # Not $LINES, which would be that of the beginning.
    height = os.get_terminal_size(sys.stdout.fileno()).lines - 1
    text = list(lines(_COLUMNS, map(_cells, rows)))
    if len(text) > height > 1:
        text[height - 1 :] = [f"… and {len(text) - height + 1} more"]
    sys.stdout.write(_HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in text) + _REST)
    sys.stdout.flush()


def _cells(row: _Row) -> Sequence[str]:
    return list(_texts(row))


def _texts(row: _Row) -> Iterator[str]:
    yield row.name
    yield _percent(row.cpu_percent)
    if row.stats is None:
        yield from (_UNKNOWN,) * (len(_COLUMNS) - 2)
        return
    memory = row.stats.memory
    yield f"{_binary(memory.working_set)} / {_binary(memory.limit or _total_memory())}"
    yield _percent(row.memory_percent)
    network, devices = row.stats.network, row.stats.blkio
    if network is None:
        yield _UNKNOWN
    else:
        yield f"{_decimal(sum(n.rx_bytes for n in network))} / {_decimal(sum(n.tx_bytes for n in network))}"
    if devices is None:
        yield _UNKNOWN
    else:
        yield f"{_decimal(sum(d.read_bytes for d in devices))} / {_decimal(sum(d.write_bytes for d in devices))}"
    yield str(row.stats.pids.current)


def _percent(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2f}%"


def _binary(count: int) -> str:
    """As docker writes memory: four digits, ``7.676MiB``."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"), 4)


def _decimal(count: int) -> str:
    """As docker writes traffic: three digits, ``1.09kB``."""
    return _scaled(count, 1000, ("B", "kB", "MB", "GB", "TB", "PB"), 3)


def _scaled(count: float, base: int, units: Sequence[str], digits: int) -> str:
    unit = 0
    while count >= base and unit < len(units) - 1:
        count, unit = count / base, unit + 1
    return f"{count:.{digits}g}{units[unit]}"


COMMANDS = {"stats": Command(_parser, stats)}
