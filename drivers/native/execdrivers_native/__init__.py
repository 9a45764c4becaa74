"""The native driver: asks the kernel directly, through a compiled plan and a small freestanding launcher.

compile.py turns a spec and what is known of the host (host.py, rootfs.py, ids.py, namespaces.py) into a plan (plan.py),
start.py does what of it is the caller's and has the launcher execute the rest; process.py is about one process, first
or further.
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
