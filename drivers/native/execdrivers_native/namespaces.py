"""Namespaces that are joined by path, looked at before anything is done. namespaces(7), ioctl_ns(2)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from execdrivers.errors import SpecError
from execdrivers.launcher.operations import NAMESPACE_FLAGS
from execdrivers.spec import IdMapping
from execdrivers_native.ids import IdMaps

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec
    from execdrivers_native.host import Host

__all__ = ["check", "joined", "maps_of", "open_all"]

#: Name in /proc/PID/ns where it is not the spec's.
_FILES = {"network": "net", "mount": "mnt"}
_NS_GET_NSTYPE = 0xB703


def joined(spec: ContainerSpec) -> Mapping[str, str]:
    """Kind → path, of those that the spec joins."""
    return {kind: value for kind, value in spec.namespaces.items() if value.startswith("/")}


def check(spec: ContainerSpec, host: Host) -> None:
    """Raise `SpecError` for what cannot be joined."""
    paths = joined(spec)
    if "mount" in paths:
        problem = "cannot be joined: a container makes its file system in mounts of its own"
        remedy = "leave it unset, and bind what is to be shared; to run in another container's file system, use exec"
        raise SpecError('namespaces["mount"]', paths["mount"], problem, remedy)
    for fd in open_all(paths):
        os.close(fd)
    for field in ("uid_mappings", "gid_mappings"):
        if "user" in paths and getattr(spec, field):
            raise SpecError(field, getattr(spec, field), "cannot be set of a user namespace that is joined", "drop it")
    if spec.time_offsets and "time" in paths:
        problem = "cannot be set of a time namespace that is joined"
        raise SpecError("time_offsets", dict(spec.time_offsets), problem, "drop it")
    for field in ("hostname", "domainname"):
        if "uts" in paths and getattr(spec, field):
            problem = "cannot be set in a uts namespace that is joined"
            raise SpecError(field, getattr(spec, field), problem, "leave it, or namespaces['uts'], unset")
    for kind, path in paths.items():
        if not host.privileged and "user" not in paths:
            problem = "cannot be joined without privilege, unless the user namespace that owns it is joined as well"
            remedy = "run as root, or give namespaces['user'] as well (/proc/PID/ns/user of the same process)"
            raise SpecError(f'namespaces["{kind}"]', path, problem, remedy)


def maps_of(paths: Mapping[str, str]) -> IdMaps | None:
    """The mappings of the user namespace that is joined, as a process in it has them; None: its path tells no process.

    What the kernel denies those inside (setgroups) it denies us.
    """
    process, _, rest = paths["user"].rpartition("/ns/")
    if rest != "user" or not process.startswith("/proc/"):
        return None
    try:
        sides = [_map(f"{process}/{kind}_map") for kind in ("uid", "gid")]
        with open(f"{process}/setgroups", encoding="ascii") as file:
            writer = "caller" if file.read().strip() == "allow" else "launcher"
    except (OSError, ValueError):
        return None
    return IdMaps(sides[0], sides[1], writer) if all(sides) else None


def _map(path: str) -> tuple[IdMapping, ...]:
    with open(path, encoding="ascii") as file:
        return tuple(IdMapping(*map(int, line.split())) for line in file)


def open_all(paths: Mapping[str, str]) -> Sequence[int]:
    """Descriptors of these namespaces, in this order. Raises `SpecError`; none is open then."""
    with contextlib.ExitStack() as opened:
        descriptors = []
        for kind, path in paths.items():
            descriptors.append(fd := _open(kind, path))
            opened.callback(os.close, fd)
        opened.pop_all()
    return descriptors


def _open(kind: str, path: str) -> int:
    import fcntl

    field, file = f'namespaces["{kind}"]', _FILES.get(kind, kind)
    remedy = f"name a {kind} namespace: /proc/PID/ns/{file}" + (", or one of ip-netns(8)" if kind == "network" else "")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reasons = {FileNotFoundError: "does not exist", PermissionError: "may not be opened"}
        problem = reasons.get(type(error), f"cannot be opened: {error.strerror}")
        raise SpecError(field, path, problem, remedy) from None
    try:
        flag = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        flag = 0
    if flag != NAMESPACE_FLAGS[kind]:
        actual = next((name for name, value in NAMESPACE_FLAGS.items() if value == flag), "")
        problem = f"is a {actual} namespace" if actual else "is no namespace"
    elif kind == "user" and os.path.samestat(os.fstat(fd), os.stat("/proc/self/ns/user")):
        problem, remedy = "is the caller's own user namespace", "use 'host'"
    else:
        return fd
    os.close(fd)
    raise SpecError(field, path, problem, remedy)
