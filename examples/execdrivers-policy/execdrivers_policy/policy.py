"""What no container of this site may have, and the memory that each may."""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs

from execdrivers import ContainerSpec, VetoError
from execdrivers.defaults import CAPABILITIES
from execdrivers.units import parse_size

__all__ = ["MEMORY", "check", "limit_memory"]

#: Environment variable: the most memory that a container may use, as in "2G".
MEMORY = "EXECDRIVERS_POLICY_MEMORY"
_DEFAULT_MEMORY = "1G"


def check(spec: ContainerSpec) -> None:
    """Raise `VetoError` for what ``--privileged`` is made of, and for other ways out of a container."""
    for what, remedy in _excesses(spec):
        raise VetoError(f"{what} is not allowed here", remedy=remedy)


def _excesses(spec: ContainerSpec) -> Iterator[tuple[str, str]]:
    """What is too much, each with what to do about it."""
    if spec.capabilities is not None:
        for name in spec.capabilities.resolve().bounding:
            if name not in CAPABILITIES:
                yield f"the capability {name}", "leave out --privileged and --cap-add: the default ones must do"
    namespaces = {**spec.namespaces, **({"network": spec.network} if spec.network else {})}
    for kind, value in namespaces.items():
        if value not in ("private", "none"):
            yield f"the {kind} namespace {value!r}", f"leave the container its own {kind} namespace"
    if spec.devices:
        yield f"the device {spec.devices[0].path}", "leave out --privileged and --device"
    for field in ("masked_paths", "readonly_paths"):
        if getattr(spec, field) == ():
            yield f"{field}=()", "leave it unset, so that the kernel's files are hidden as usual"
    for field in ("seccomp", "apparmor_profile"):
        if getattr(spec, field) == "unconfined":
            yield f"{field}='unconfined'", "leave it unset"
    if spec.no_new_privileges is False:
        yield "no_new_privileges=False", "leave it unset"


def limit_memory(spec: ContainerSpec) -> ContainerSpec:
    """The same spec with no more memory, swap included, than there may be."""
    most = parse_size(os.environ.get(MEMORY, _DEFAULT_MEMORY))
    given = spec.resources
    if given.memory is not None and 0 <= given.memory <= most:
        if given.memory_swap is None or 0 <= given.memory_swap <= most:
            return spec
        most = given.memory
    return spec.replace(resources=attrs.evolve(given, memory=most, memory_swap=None, memory_reservation=None))
