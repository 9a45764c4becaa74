"""Trials: what the kernel refuses a launcher, in namespaces as a container's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache

from execdrivers import kernel, pidfd
from execdrivers.driver import Stdio
from execdrivers.errors import LaunchError
from execdrivers.launcher import Launch, Operation, operation, spawn_launcher
from execdrivers.launcher.operations import NAMESPACE_FLAGS

__all__ = ["contained", "own_ids", "privileged", "refusal"]

_CAP_SETUID, _CAP_SYS_ADMIN = 7, 21


@cache
def privileged() -> bool:
    """Whether namespaces can be made without a user namespace."""
    mask = kernel.capabilities()
    return bool(mask >> _CAP_SETUID & mask >> _CAP_SYS_ADMIN & 1)


def own_ids() -> tuple[Operation, ...]:
    """Map one uid and one gid, our own, as every user may (user_namespaces(7))."""
    return (
        operation("write", "/proc/self/setgroups", "deny"),
        operation("write", "/proc/self/uid_map", f"0 {os.geteuid()} 1"),
        operation("write", "/proc/self/gid_map", f"0 {os.getegid()} 1"),
    )


def contained(*operations: Operation) -> LaunchError | None:
    """`refusal`, in the namespaces that a container of ours has, with mounts of its own."""
    kinds = ("pid", "mount", "uts", "ipc", "network", "cgroup")
    private = operation("propagation", "private")
    if privileged():
        return refusal(kinds, (private, *operations))
    return refusal(("user", *kinds), (*own_ids(), private, *operations))


def refusal(
    namespaces: Iterable[str], operations: Iterable[Operation], caller: Callable[[int], object] = lambda pid: None
) -> LaunchError | None:
    """Why a launcher in these new namespaces cannot do these operations; None: it can. It is gone afterwards.

    ``caller`` is called with its pid at the operation ``sync caller``; what it raises is raised.
    """
    kinds = tuple(namespaces)
    plan = (*operations, operation("ready"), operation("exec", 0, ("/",), ("/",), ()))
    launch = Launch(plan, points={"caller": lambda: caller(launch.pid or 0)})
    try:
        flags = sum(NAMESPACE_FLAGS[kind] for kind in kinds)
        child = spawn_launcher(launch, Stdio(-1, -1, -1), flags=flags, keep_capabilities="user" in kinds)
    except LaunchError as error:
        launch.close()
        return error
    try:
        launch.started()
        launch.ready()
    except LaunchError as error:
        return error
    finally:
        launch.close()  # it waits for a word that never comes, and gives up
        pidfd.wait(child.pidfd)
        pidfd.wait_status(child.pidfd)
        os.close(child.pidfd)
    return None
