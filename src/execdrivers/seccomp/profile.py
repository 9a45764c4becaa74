"""Profiles: the default one, and what becomes of one in Docker's form, which has conditions."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from execdrivers import kernel

__all__ = ["TABLE", "default", "resolve"]

#: The default profile, in Docker's form. tools/seccomp-profile writes it and names its sources.
TABLE = Path(__file__).with_name("default.json")

#: uname's machine → OCI's architecture, Go's (which Docker's conditions have).
_MACHINES = {
    "x86_64": ("SCMP_ARCH_X86_64", "amd64"),
    "aarch64": ("SCMP_ARCH_AARCH64", "arm64"),
}


def default(capabilities: Collection[str]) -> dict[str, Any]:
    """The default profile of a container with these capabilities in its bounding set: OCI's linux.seccomp object."""
    return resolve(_table(), capabilities)


def resolve(profile: Mapping[str, Any], capabilities: Collection[str]) -> dict[str, Any]:
    """A profile as OCI has it: of the rules in Docker's form those whose conditions hold here, without these.

    ``capabilities`` are those of the container's bounding set; kernel and architecture are this host's. A profile that
    is OCI's already stays as it is.
    """
    native, machine = _MACHINES.get(os.uname().machine, ("", os.uname().machine))
    result = {key: value for key, value in profile.items() if key not in ("archMap", "syscalls", "comment")}
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == native:
            result["architectures"] = [native, *(entry.get("subArchitectures") or ())]
    here = kernel.version()
    rules = [
        {key: value for key, value in rule.items() if key not in ("includes", "excludes", "comment")}
        for rule in profile.get("syscalls") or ()
        if _applies(rule, capabilities, machine, here)
    ]
    if rules:
        result["syscalls"] = rules
    return result


def _applies(rule: Mapping[str, Any], capabilities: Collection[str], machine: str, here: tuple[int, int]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    return all(_met(includes, capabilities, machine, here)) and not any(_met(excludes, capabilities, machine, here))


def _met(
    condition: Mapping[str, Any], capabilities: Collection[str], machine: str, here: tuple[int, int]
) -> Iterator[bool]:
    if condition.get("arches"):
        yield machine in condition["arches"]
    for capability in condition.get("caps") or ():
        yield capability in capabilities
    if condition.get("minKernel"):
        yield here >= kernel.version(condition["minKernel"])


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="ascii"))
    return found
