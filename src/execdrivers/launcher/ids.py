"""User namespaces: giving one its mappings, from outside, and making one for the ids of a mount. user_namespaces(7)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from execdrivers import pidfd
from execdrivers.driver import Stdio
from execdrivers.errors import LaunchError
from execdrivers.launcher.launch import Launch, spawn_launcher
from execdrivers.launcher.operations import NAMESPACE_FLAGS, operation
from execdrivers.launcher.tool import ToolError, call
from execdrivers.spec import IdMapping

__all__ = ["map_ids", "map_ids_by_tool", "map_lines", "open_user_namespace"]

#: Seconds that newuidmap(1) may take: it may ask a name service.
_TIMEOUT = 30.0


def map_lines(mappings: Sequence[IdMapping]) -> tuple[str, ...]:
    """Mappings as /proc/PID/uid_map has them: first id inside, first id outside, how many."""
    return tuple(f"{m.container_id} {m.host_id} {m.size}" for m in mappings)


def map_ids(pid: int, uids: Sequence[IdMapping], gids: Sequence[IdMapping]) -> None:
    """Write the mappings of that process's new user namespace; takes the right to any id. Raises `LaunchError`."""
    for kind, mappings in (("uid", uids), ("gid", gids)):
        path = f"/proc/{pid}/{kind}_map"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, "".join(f"{line}\n" for line in map_lines(mappings)).encode())
            finally:
                os.close(fd)
        except OSError as error:
            shown = ", ".join(map_lines(mappings))
            remedy = {
                errno.EPERM: f"take ids that the caller has itself, by /proc/self/{kind}_map",
                errno.EINVAL: "a map has 340 ranges at the most, and no id twice",
            }.get(error.errno or 0, "")
            message = f"map-ids: cannot write {shown!r} to {path}: {error.strerror}"
            raise LaunchError(message, step="map-ids", path=path, errno=error.errno or 0, remedy=remedy) from error


def map_ids_by_tool(tool: str, pid: int, mappings: Sequence[IdMapping]) -> None:
    """The same for one kind by ``tool``, the path of newuidmap(1) or newgidmap(1). Raises `LaunchError`."""
    numbers = [str(number) for m in mappings for number in (m.container_id, m.host_id, m.size)]
    try:
        call([tool, str(pid), *numbers], _TIMEOUT, env={})
    except ToolError as error:
        name = tool.rsplit("/", 1)[-1]
        remedy = f"{name} must be set-user-ID root (or have file capabilities), and the caller free of no_new_privs"
        raise LaunchError(f"map-ids: {name}: {error}", step="map-ids", path=tool, remedy=remedy) from None


def open_user_namespace(uids: Sequence[IdMapping], gids: Sequence[IdMapping]) -> int:
    """A user namespace with these mappings that nobody is in; a descriptor, close-on-exec. Raises `LaunchError`."""
    launch = Launch((operation("ready"),))
    try:
        child = spawn_launcher(launch, Stdio(-1, -1, -1), flags=NAMESPACE_FLAGS["user"])
    except BaseException:
        launch.close()
        raise
    try:
        map_ids(child.pid, uids, gids)
        return os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        launch.close()  # it leaves when nobody waits for it any more
        pidfd.wait(child.pidfd)
        pidfd.wait_status(child.pidfd)
        os.close(child.pidfd)
