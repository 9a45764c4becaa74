"""Site policy for execdrivers, and a log of what its containers do.

Imported whenever plugins are looked for, so it holds the hooks and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from execdrivers import hookimpl

if TYPE_CHECKING:
    from execdrivers import ContainerSpec, Event


@hookimpl(trylast=True)  # what other plugins make of a spec is judged as well
def execdrivers_amend_spec(spec: ContainerSpec) -> ContainerSpec:
    """Refuse what would open the host, and see to a memory limit."""
    from execdrivers_policy import policy

    policy.check(spec)
    return policy.limit_memory(spec)


@hookimpl
def execdrivers_observe(event: Event) -> None:
    """Log it."""
    from execdrivers_policy import log

    log.write(event)
