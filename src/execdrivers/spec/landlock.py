"""What a process may do by Landlock: an extra layer, below all that a container is made of."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from execdrivers.errors import SpecError
from execdrivers.spec._convert import Value, each, fail, field, inner_path, integer, nearest, optional, text

__all__ = ["Landlock"]

SCOPES = ("abstract-unix-socket", "signal")


def _path(value: str) -> str:
    return "/" if text(value) == "/" else inner_path(value)


def _paths(value: Iterable[str]) -> tuple[str, ...]:
    return each(_path, value)


def _port(value: int) -> int:
    if not 0 <= integer(value) <= 65535:
        fail(value, "is not a TCP port", "use 0 to 65535")
    return value


def _ports(value: Iterable[int]) -> tuple[int, ...]:
    return each(_port, value)


def _scope(value: str) -> str:
    if value not in SCOPES:
        fail(value, "is not a scope of Landlock", nearest(text(value), SCOPES))
    return value


def _scopes(value: Iterable[str]) -> tuple[str, ...]:
    return each(_scope, value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Landlock(Value):
    """Rules of landlock(7). A field that is not given restricts nothing.

    Once one of ``read``, ``write`` and ``execute`` is given, files are denied but for what they list: paths in the
    container, each with all below it. The command, its loader and its libraries must be in ``execute``.
    """

    #: May be read, directories listed.
    read: tuple[str, ...] | None = field(default=None, converter=optional(_paths))
    #: May be read, written, made and removed.
    write: tuple[str, ...] | None = field(default=None, converter=optional(_paths))
    #: May be read and executed.
    execute: tuple[str, ...] | None = field(default=None, converter=optional(_paths))
    #: TCP ports that may be bound, and no others; 0: one that the kernel chooses.
    bind: tuple[int, ...] | None = field(default=None, converter=optional(_ports))
    #: TCP ports that may be connected to, and no others.
    connect: tuple[int, ...] | None = field(default=None, converter=optional(_ports))
    #: What reaches no process outside: "abstract-unix-socket", "signal".
    scopes: tuple[str, ...] = field(default=(), converter=_scopes)

    def _check(self) -> None:
        if not any(True for _ in self.given()):
            raise SpecError(
                "", self.to_dict(), "restricts nothing", "give read, write, execute, bind, connect or scopes"
            )

    @property
    def files(self) -> bool:
        """Whether files are restricted."""
        return not self.read is self.write is self.execute is None
