"""Namespaces of other containers: docker's ``container:NAME``."""

from __future__ import annotations

import os

from execdrivers.cli.parsing import UsageError

__all__ = ["namespaces_of"]

_FILES = {"network": "net", "mount": "mnt"}


def namespaces_of(option: str, kind: str, name: str, root: str | None) -> dict[str, str]:
    """Kind → path of that container's namespace, and of its user namespace where it has one of its own, which owns the
    other. Raises `UsageError`, `ContainerNotFound`."""
    from execdrivers.engine import Engine

    engine = Engine(root=root)
    try:
        pid = engine.get(name).pid
    finally:
        engine.close()
    if pid is None:
        raise UsageError(f"{option}: container {name} has ended", remedy="name one that runs: execdrivers ps")
    paths = {kind: f"/proc/{pid}/ns/{_FILES.get(kind, kind)}"}
    user = f"/proc/{pid}/ns/user"
    if kind != "user" and not os.path.samestat(os.stat(user), os.stat("/proc/self/ns/user")):
        paths["user"] = user
    return paths
