"""The hooks of execdrivers (pluggy). A plugin is any module or object with functions marked ``@hookimpl``,
named by an entry point of the group ``execdrivers``. docs/hooks.md describes each; a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from execdrivers.driver import Driver
    from execdrivers.events import Event
    from execdrivers.spec import ContainerSpec

__all__ = ["PROJECT", "hookimpl", "hookspec"]

#: pluggy's project name and the entry-point group.
PROJECT = "execdrivers"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def execdrivers_register_drivers() -> Iterable[type[Driver]]:  # type: ignore[empty-body]
    """The driver classes this plugin brings. Called once, when the registry is first asked."""


@hookspec
def execdrivers_amend_spec(spec: ContainerSpec, driver: str) -> ContainerSpec | None:
    """See each spec before any driver does, and return another (None: leave it as it is).

    ``driver`` is the name asked for, perhaps ``auto``. Implementations run one after the other, each seeing what the
    one before returned; ``tryfirst`` and ``trylast`` order them. Raise `VetoError` to refuse; any exception
    stops the container before a side effect.
    """


@hookspec
def execdrivers_observe(event: Event) -> None:
    """See each lifecycle event, as a rule in the thread that caused it; those of a container one after the other.

    An exception is logged (logger ``execdrivers``) and does not disturb the container.
    """
