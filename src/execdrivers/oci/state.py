"""The state of a container, as hooks and seccomp agents are told it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from execdrivers.oci.schema import OCI_VERSION

__all__ = ["state"]


def state(id: str, status: str, bundle: str, annotations: Mapping[str, str], pid: int | None = None) -> dict[str, Any]:
    """OCI runtime specification, runtime.md, "State"; ``pid``, where it is known, comes last."""
    told: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "id": id,
        "status": status,
        "bundle": bundle,
        "annotations": dict(annotations),
    }
    return told if pid is None else {**told, "pid": pid}
