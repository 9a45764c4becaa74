"""The LXC driver: LXC's command line tools make the container, and the core's launcher is its first process.

probe.py looks for the tools. config.py renders a spec into a container's configuration: rootfs.py looks at its root,
options.py takes raw keys, syntax.py knows LXC's formats. tools.py runs the tools and reads their logs, locks.py cleans
up after them. handle.py holds a container, process.py one more process in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from execdrivers.hookspecs import hookimpl

if TYPE_CHECKING:
    from execdrivers.driver import Driver


@hookimpl
def execdrivers_register_drivers() -> list[type[Driver]]:
    """Bring the LXC driver."""
    from execdrivers_lxc.driver import LxcDriver

    return [LxcDriver]
