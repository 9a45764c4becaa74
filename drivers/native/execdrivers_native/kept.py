"""Plans that were compiled before: who runs the same spec again and again pays for one compilation.

What the container's root says to the spec is looked at each time, for it may have changed. Plans are kept of specs that
have nothing else to do with the file system or with the container's id, but for its hostname.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from execdrivers.launcher import Operation, Prepared, operation
from execdrivers.spec import ContainerSpec
from execdrivers.users import User
from execdrivers_native import rootfs
from execdrivers_native.host import Host
from execdrivers_native.plan import NativePlan
from execdrivers_native.process import further_process, wanted_user
from execdrivers_native.rootfs import resolve_user

__all__ = ["KeptExecution", "KeptPlans"]

#: Plans; when there are so many, all go: whoever makes a new spec for every container needs none of them again.
_MOST = 64


class KeptPlans:
    """Those of one driver."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._plans: dict[tuple[ContainerSpec, bool], tuple[str, NativePlan]] = {}

    def find(self, spec: ContainerSpec, id: str, accounting: bool) -> NativePlan | None:
        """The plan for a spec, unless none is kept. It is good if it still `fits`."""
        kept = self._plans.get((spec, accounting))
        if kept is None:
            return None
        before, plan = kept
        return plan if spec.hostname else _renamed(plan, before, id)

    def fits(self, spec: ContainerSpec, plan: NativePlan) -> bool:
        """Whether the container's root says to the spec what the plan was compiled for. Raises `SpecError`."""
        found = rootfs.look(spec, wanted_user(spec, self._host))
        rootfs.check(spec, found.mounts)
        return found == plan.found

    def keep(self, spec: ContainerSpec, id: str, accounting: bool, plan: NativePlan) -> None:
        """Keep it, if it is one that can be, for who asks next for such a spec."""
        if _keeps(spec, plan):
            if len(self._plans) >= _MOST:
                self._plans.clear()
            self._plans[spec, accounting] = id, plan


class KeptExecution:
    """The plan of the process that was last executed in a container: many who execute one execute the same again."""

    def __init__(self) -> None:
        self._last: tuple[ContainerSpec, User, Prepared] | None = None

    def compile(self, spec: ContainerSpec, id: str, host: Host, guarantees: Mapping[str, Any]) -> tuple[Operation, ...]:
        """As `compile_exec`, with the user that the container's root has now."""
        user, last = resolve_user(spec, wanted_user(spec, host)), self._last
        if last is not None and last[1] == user and last[0] == spec:
            return last[2]
        operations = Prepared(further_process(spec, user, id, host, guarantees))
        if not guarantees["joined"]:  # whose mappings may be others by now
            self._last = spec, user, operations
        return operations


def _keeps(spec: ContainerSpec, plan: NativePlan) -> bool:
    elsewhere = plan.cgroups or plan.joined or plan.trees or plan.maps or plan.outside or plan.raised
    looks = spec.mounts or spec.devices or spec.ephemeral or "HOSTNAME" in spec.env
    return plan.alone and not (elsewhere or looks)


def _renamed(plan: NativePlan, before: str, id: str) -> NativePlan:
    """That of another container."""
    operations = list(plan.operations)
    operations[-1] = _in_environment(operations[-1], f"HOSTNAME={before}", f"HOSTNAME={id}")
    if (own := operation("hostname", before[:63])) in operations:
        operations[operations.index(own)] = operation("hostname", id[:63])
    return attrs.evolve(plan, operations=tuple(operations))


def _in_environment(execution: Operation, before: str, after: str) -> Operation:
    *rest, environment = execution.args
    return operation(execution.name, *rest, tuple(after if word == before else word for word in environment))
