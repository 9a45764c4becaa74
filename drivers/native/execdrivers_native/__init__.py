"""The native driver: asks the kernel directly, through a compiled plan and a small freestanding launcher.

compile.py turns a spec and what is known of the host into operations (data), operations.py encodes them, launch.py
starts the launcher in c/, which executes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from execdrivers.hookspecs import hookimpl

if TYPE_CHECKING:
    from execdrivers.driver import Driver


@hookimpl
def execdrivers_register_drivers() -> list[type[Driver]]:
    """Bring the native driver."""
    from execdrivers_native.driver import NativeDriver

    return [NativeDriver]
