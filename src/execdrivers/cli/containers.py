"""What the commands about containers that exist have in common: an engine, and their turn for each name."""

from __future__ import annotations

import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from execdrivers.cli.parsing import Parser, UsageError
from execdrivers.errors import ContainerNotFound, ExecDriverError

if TYPE_CHECKING:
    from execdrivers.engine import Engine

__all__ = ["LIVE", "Act", "engine_of", "for_each", "for_names", "the_name"]

#: States of containers that have processes.
LIVE = ("created", "running", "paused")

#: What is done to one container, by name; returns the line to print, if any.
Act = Callable[["Engine", str], str | None]


@contextmanager
def engine_of(options: Namespace) -> Iterator[Engine]:
    """An engine on ``--root``, closed at the end."""
    from execdrivers.engine import Engine

    engine = Engine(root=options.root)
    try:
        yield engine
    finally:
        engine.close()


def for_names(name: str, description: str, usage: str = "[OPTIONS] NAME…") -> Parser:
    """The parser of a command that takes names of containers; options may follow them. End it with `Parser.common`."""
    return Parser(f"execdrivers {name}", usage, interspersed=True, description=description)


def for_each(parser: Parser, options: Namespace, names: Sequence[str], act: Act, *, at_once: bool = False) -> int:
    """Print what comes of each, in the order of the names; ``at_once``: none waits for the one before.

    An error of one container is told and does not keep the others from their turn; the status is that of the gravest.
    With ``--force`` it is no error that one does not exist.
    """
    from execdrivers.cli import status_of, tell

    if not names:
        raise UsageError(f"{parser.name} needs the name of a container", remedy="execdrivers ps -a lists them")
    status = 0
    with engine_of(options) as engine:
        calls = [_Call(act, engine, name) for name in names]
        if at_once:
            for call in calls:
                call.start()
        for call in calls:
            try:
                line = call.outcome()
            except ExecDriverError as error:
                if not (isinstance(error, ContainerNotFound) and "force" in vars(options)):
                    tell(error)
                    status = max(status, status_of(error))
                continue
            if line is not None:
                print(line, flush=True)
    return status


def the_name(parser: Parser, operands: Sequence[str]) -> str:
    """Of a command that takes exactly one. Raises `UsageError`."""
    if len(operands) != 1:
        problem = "needs the name of a container" if not operands else f"takes one name, but {operands[1]!r} follows it"
        raise UsageError(f"{parser.name} {problem}", remedy="execdrivers ps -a lists them")
    return operands[0]


class _Call(threading.Thread):
    """One container's turn, in a thread of its own where it is started, else in that of who asks for the outcome."""

    def __init__(self, act: Act, engine: Engine, name: str) -> None:
        super().__init__(name=f"execdrivers-{name}", daemon=True)
        self._act = act
        self._engine = engine
        self._container = name
        self._line: str | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._line = self._act(self._engine, self._container)
        except BaseException as error:
            self._error = error

    def outcome(self) -> str | None:
        """Its line. Raises whatever it raised."""
        if self.ident is None:
            return self._act(self._engine, self._container)
        self.join()
        if self._error is not None:
            raise self._error
        return self._line
