"""What to run and how contained: `ContainerSpec` and the values it is made of.

Depends on nothing but attrs; knows of no driver. Source of terms and meanings: the OCI runtime specification 1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from execdrivers.spec._convert import FrozenDict
from execdrivers.spec.capabilities import Capabilities, CapabilitySets
from execdrivers.spec.container import ContainerSpec
from execdrivers.spec.filesystem import Device, Mount, MountOptions
from execdrivers.spec.hooks import Hook, Hooks
from execdrivers.spec.landlock import Landlock
from execdrivers.spec.linux import IdMapping, TimeOffset
from execdrivers.spec.process import CpuAffinity, IoPriority, Rlimit, Scheduler
from execdrivers.spec.resources import BlockIO, DeviceRule, RdmaLimit, Resources, ThrottleDevice, WeightDevice

if TYPE_CHECKING:
    from execdrivers.spec.keywords import SpecFields

__all__ = [
    "BlockIO",
    "Capabilities",
    "CapabilitySets",
    "ContainerSpec",
    "CpuAffinity",
    "Device",
    "DeviceRule",
    "FrozenDict",
    "Hook",
    "Hooks",
    "IdMapping",
    "IoPriority",
    "Landlock",
    "Mount",
    "MountOptions",
    "RdmaLimit",
    "Resources",
    "Rlimit",
    "Scheduler",
    "SpecFields",
    "ThrottleDevice",
    "TimeOffset",
    "WeightDevice",
]


def __getattr__(name: str) -> Any:
    # For type checkers only; making a TypedDict of eighty keys costs as much as the rest of the package.
    if name == "SpecFields":
        from execdrivers.spec.keywords import SpecFields

        return SpecFields
    raise AttributeError(f"module 'execdrivers.spec' has no attribute {name!r}")
