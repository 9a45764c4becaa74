"""The socket through which a runtime hands over the terminal it has made (runc's docs/terminals.md)."""

from __future__ import annotations

import contextlib
import os
import socket
from types import TracebackType

from execdrivers.errors import LaunchError

__all__ = ["Console"]


class Console:
    """As a context manager it listens for one runtime; afterwards nothing is left of it but the terminal."""

    def __init__(self, directory: str, name: str) -> None:
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        #: For the runtime. A socket's path may have 107 bytes, so the directory goes by our descriptor of it.
        self.path = f"/proc/{os.getpid()}/fd/{self._directory}/{name}.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._unlink()
            self._socket.bind(self.path)
            self._socket.listen(1)
        except BaseException:
            self.close()
            raise

    def receive(self, timeout: float) -> int:
        """The terminal's master. Raises `LaunchError` when none comes within so many seconds."""
        self._socket.settimeout(timeout)
        problem = "the runtime sent no terminal"
        try:
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(timeout)
                _, fds, _, _ = socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise LaunchError(f"console: {problem}: {error}", step="console", errno=error.errno or 0) from None
        if not fds:
            raise LaunchError(f"console: {problem}", step="console")
        return fds[0]

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self._unlink()
        os.close(self._directory)

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
