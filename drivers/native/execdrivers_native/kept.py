"""Plans that were compiled before: who runs the same spec again and again pays for one compilation.

What the container's root says to the spec is looked at each time, for it may have changed. Plans are kept of specs that
have nothing else to do with the file system or with the container's id, but for its hostname.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs

from execdrivers.launcher import Operation, Prepared, encode, operation
from execdrivers.spec import ContainerSpec, Mount
from execdrivers.users import User
from execdrivers_native import rootfs
from execdrivers_native.host import Host
from execdrivers_native.plan import NativePlan
from execdrivers_native.process import further_process, wanted_user
from execdrivers_native.rootfs import resolve_user

__all__ = ["KeptExecution", "KeptPlan", "KeptPlans"]

#: Plans; when there are so many, all go: whoever makes a new spec for every container needs none of them again.
_MOST = 64


class KeptPlan:
    """One of them, for containers of any id."""

    def __init__(self, plan: NativePlan, spec: ContainerSpec, id: str) -> None:
        """``id`` is that of the container for which it was compiled."""
        self.plan = plan
        #: Of the root that it was found to fit, where that tells of all changes.
        self.trace: rootfs.Trace | None = None
        #: Where the id is in it, unless the spec gives the hostname.
        self._hostname: int | None = None
        self._variable: int | None = None
        if not spec.hostname:
            own = operation("hostname", id[:63])
            self._hostname = plan.operations.index(own) if own in plan.operations else None
            environment = plan.operations[-1].args[-1]
            variable = f"HOSTNAME={id}"
            self._variable = environment.index(variable) if variable in environment else None

    def operations(self, id: str) -> tuple[Operation, ...]:
        """Those for the container of that id."""
        operations = list(self.plan.operations)
        if self._variable is not None:
            execution = operations[-1]
            *rest, environment = execution.args
            own = (*environment[: self._variable], f"HOSTNAME={id}", *environment[self._variable + 1 :])
            operations[-1] = operation(execution.name, *rest, own)
        if self._hostname is not None:
            operations[self._hostname] = operation("hostname", id[:63])
        return tuple(operations)

    def encoded(self, id: str) -> bytes:
        """`operations`, encoded."""
        length, pieces = self._encoded
        return id.encode().join(pieces) if len(id) == length and id.isascii() else encode(self.operations(id))

    @cached_property
    def _encoded(self) -> tuple[int, Sequence[bytes]]:
        """What comes before, between and behind ids of that length, which those have that nobody has chosen."""
        unique = os.urandom(6).hex()
        return len(unique), encode(self.operations(unique)).split(unique.encode())

    def named(self, id: str) -> NativePlan:
        """The plan for the container of that id."""
        return attrs.evolve(self.plan, operations=self.operations(id))


class KeptPlans:
    """Those of one driver."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._plans: dict[tuple[ContainerSpec, bool], KeptPlan] = {}

    def find(self, spec: ContainerSpec, accounting: bool) -> KeptPlan | None:
        """The plan for a spec, unless none is kept. It is good if it still `fits`."""
        return self._plans.get((spec, accounting))

    def fits(self, spec: ContainerSpec, kept: KeptPlan) -> bool:
        """Whether the container's root says to the spec what the plan was compiled for. Raises `SpecError`."""
        now = _trace(spec)
        if _same(now, kept.trace):
            return True
        found = rootfs.look(spec, wanted_user(spec, self._host))
        rootfs.check(spec, found.mounts)
        if found != kept.plan.found:
            return False
        kept.trace = _telling(now, spec, found.mounts)
        return True

    def keep(self, spec: ContainerSpec, id: str, accounting: bool, plan: NativePlan) -> None:
        """Keep it, if it is one that can be, for who asks next for such a spec."""
        if _keeps(spec, plan):
            if len(self._plans) >= _MOST:
                self._plans.clear()
            self._plans[spec, accounting] = KeptPlan(plan, spec, id)


class KeptExecution:
    """The plan of the process that was last executed in a container: many who execute one execute the same again."""

    def __init__(self) -> None:
        self._last: tuple[ContainerSpec, User, Prepared, rootfs.Trace | None] | None = None

    def compile(self, spec: ContainerSpec, id: str, host: Host, guarantees: Mapping[str, Any]) -> tuple[Operation, ...]:
        """As `compile_exec`, with the user that the container's root has now."""
        now, last = _trace(spec), self._last
        if last is not None and last[0] != spec:
            last = None
        if last is not None and _same(now, last[3]):
            return last[2]
        user = resolve_user(spec, wanted_user(spec, host))
        if last is not None and last[1] == user:
            operations = last[2]
        else:
            operations = Prepared(further_process(spec, user, id, host, guarantees))
        if not guarantees["joined"]:  # whose mappings may be others by now
            self._last = spec, user, operations, _telling(now, spec, ())
        return operations


def _trace(spec: ContainerSpec) -> rootfs.Trace | None:
    try:
        return None if spec.rootfs is None else rootfs.trace(spec.rootfs)
    except OSError:
        return None  # `look` says why


def _same(now: rootfs.Trace | None, before: rootfs.Trace | None) -> bool:
    return now is not None and before is not None and now.files == before.files


def _telling(now: rootfs.Trace | None, spec: ContainerSpec, mounts: Sequence[Mount]) -> rootfs.Trace | None:
    """The trace, if it tells of all changes."""
    return now if now is not None and rootfs.tells_all(now, spec.rootfs or "/", mounts) else None


def _keeps(spec: ContainerSpec, plan: NativePlan) -> bool:
    elsewhere = plan.cgroups or plan.joined or plan.trees or plan.maps or plan.outside or plan.raised
    looks = spec.mounts or spec.devices or spec.ephemeral or "HOSTNAME" in spec.env
    return plan.alone and not (elsewhere or looks)
