"""What this machine lets execdrivers do, found out by trying: ``execdrivers doctor``.

Each check does the thing itself (makes a user namespace, mounts a procfs, makes a cgroup) and undoes it, since what a
knob says and what the kernel does are two things; knobs are read only to explain a refusal. Nothing is left behind.

check.py says what a check is, trials.py lets a launcher try, as a container's own would; kernel.py has the checks of
the kernel, machine.py those of this machine's set-up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from execdrivers.doctor import kernel, machine
from execdrivers.doctor.check import Check

if TYPE_CHECKING:
    from execdrivers.registry import Registry

__all__ = ["Check", "examine"]


def examine(root: str, registry: Registry) -> Iterator[Check]:
    """Try one thing after the other; ``root`` is where records of containers would be kept.

    What is lacking is told, not raised.
    """
    yield kernel.system_calls()
    yield kernel.user_namespace()
    yield kernel.subordinate_ids()
    yield kernel.namespaces()
    yield kernel.proc()
    yield kernel.overlay()
    yield kernel.filters()
    yield kernel.mandatory_access()
    yield kernel.landlock()
    yield machine.control_groups()
    yield machine.own_limits()
    yield machine.records(root)
    for name in registry.names():
        yield machine.driver(name, registry)
    yield machine.container(registry)
