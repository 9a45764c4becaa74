"""The chroot driver of execdrivers: chroot(2) semantics, nothing pretended. docs/writing-a-driver.md explains it."""

from __future__ import annotations

from execdrivers.driver import Driver
from execdrivers.hookspecs import hookimpl

__all__ = ["execdrivers_register_drivers"]


@hookimpl
def execdrivers_register_drivers() -> list[type[Driver]]:
    """The one driver of this plugin."""
    from execdrivers_chroot.driver import ChrootDriver

    return [ChrootDriver]
