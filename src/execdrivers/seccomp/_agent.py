"""Hands a filter's listener to an agent, as runtimes do: OCI runtime specification, "Seccomp", `listenerPath`."""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Mapping
from typing import Any

from execdrivers.errors import LaunchError

__all__ = ["hand_over"]

#: Seconds in which an agent must take it.
_TIMEOUT = 10.0


def hand_over(path: str, metadata: str, listener: int, pid: int, state: Mapping[str, Any]) -> None:
    """Send the agent at the socket the ContainerProcessState with the listener. ``pid`` is the process that it is
    about, ``state`` the container's. Raises `LaunchError`."""
    message: dict[str, Any] = {"ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid, "state": state}
    if metadata:
        message["metadata"] = metadata
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))
    data = json.dumps(message).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(path)
            sent = connection.sendmsg([data], [rights])
            connection.sendall(data[sent:])
    except OSError as error:
        raise LaunchError(
            f"seccomp: listenerPath: {path}: {error.strerror or error}",
            step="seccomp",
            path=path,
            errno=error.errno or 0,
            remedy="start the agent before the container, listening there on a stream socket",
        ) from None
