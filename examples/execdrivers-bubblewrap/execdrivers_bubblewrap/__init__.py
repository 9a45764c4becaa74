"""A driver for execdrivers: containers made by bubblewrap.

Imported whenever plugins are looked for, so it holds only what registration needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from execdrivers import hookimpl

if TYPE_CHECKING:
    from execdrivers import Driver

__version__ = "0.1.0"


@hookimpl
def execdrivers_register_drivers() -> list[type[Driver]]:
    """The one driver of this plugin."""
    from execdrivers_bubblewrap.driver import BubblewrapDriver

    return [BubblewrapDriver]
