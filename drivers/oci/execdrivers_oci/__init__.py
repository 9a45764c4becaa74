"""The OCI driver: an OCI runtime's command (runc, crun, youki …) makes the container from a bundle.

runtime.py finds the program and asks what it can do, bundle.py turns a spec into ``config.json``, tool.py calls the
program and reads its errors, process.py has it make processes whose end will be known, handle.py is the container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from execdrivers.hookspecs import hookimpl

if TYPE_CHECKING:
    from execdrivers.driver import Driver


@hookimpl
def execdrivers_register_drivers() -> list[type[Driver]]:
    """Bring the OCI driver."""
    from execdrivers_oci.driver import OciDriver

    return [OciDriver]
