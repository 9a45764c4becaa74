"""Attached to a detached container: its output as it comes, and its input, from any program."""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from execdrivers.errors import InvalidState, StoreError

if TYPE_CHECKING:
    from execdrivers.exit import Exit

__all__ = ["Attachment"]

#: Bytes of a packet, besides its type (c/monitor.h).
_PACKET = 32 << 10
#: The status that nobody could tell.
_UNKNOWN = 0x7FFFFFFF
#: Seconds that the monitor is given to answer.
_PATIENCE = 5.0
_STREAMS: dict[bytes, Literal["stdout", "stderr"]] = {b"o": "stdout", b"E": "stderr"}


class Attachment:
    """A connection to the monitor of a container. What it writes after this was made is given by iterating: pairs of
    ``"stdout"`` or ``"stderr"`` and bytes, until the container has ended; then `exit` tells how.

    The container and others who are attached never wait for this one: who reads too slowly misses output, and is told
    how much (``skipped``). A context manager; one thread may write while another reads.
    """

    def __init__(self, directory: str) -> None:
        """Connect to the container whose directory this is. Raises `InvalidState`: it has no monitor, or as many are
        attached as can be (16); `StoreError`: it may not be attached to."""
        import socket

        #: Whether the container has a terminal: then all its output is stdout's.
        self.tty = False
        #: Whether input is taken: stdin was connected, and nobody has closed it.
        self.stdin = False
        #: Bytes of output that went by unseen.
        self.skipped = 0
        #: Whether all has been read, or `detach` was called.
        self.ended = False
        self._status: int | None = None
        self._maker = os.getpid()
        self._name = os.path.basename(directory)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._connect(directory)
            self._greet()
        except BaseException:
            self._socket.close()
            raise

    @property
    def exit(self) -> Exit | None:
        """How the container ended; None before that is read, and where the monitor was killed."""
        from execdrivers.exit import Exit

        if self._status is None:
            return None
        return Exit.from_wait_status(None if self._status == _UNKNOWN else self._status)

    def __iter__(self) -> Iterator[tuple[Literal["stdout", "stderr"], bytes]]:
        while not self.ended:
            if output := self.receive():
                yield output
            elif not self.ended:
                self._wait(select.POLLIN)

    def receive(self) -> tuple[Literal["stdout", "stderr"], bytes] | None:
        """Output that is there; None: none is, or `ended`. Does not wait: for loops of one's own, on ``fileno()``."""
        while not self.ended:
            try:
                packet = self._socket.recv(1 + _PACKET)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # input was left unread, which is told once; what the monitor sent comes after it
            except OSError:
                packet = b""
            if stream := _STREAMS.get(packet[:1]):
                return stream, packet[1:]
            if packet[:1] == b"s":
                self.skipped += struct.unpack_from("<Q", packet, 1)[0]
            elif packet[:1] == b"x":
                self._status = struct.unpack_from("<i", packet, 1)[0]
            elif not packet:
                self.ended = True
        return None

    def send(self, data: bytes | memoryview) -> int:
        """Give input, as much as is taken without waiting: so many bytes, 32 KiB at the most. Raises BrokenPipeError
        after the end."""
        part = data[:_PACKET]
        return len(part) if self._send(b"i" + part) else 0

    def write(self, data: bytes) -> None:
        """Give input; waits until all is taken. Raises BrokenPipeError after the end."""
        rest = memoryview(data)
        while rest:
            if count := self.send(rest):
                rest = rest[count:]
            else:
                self._wait(select.POLLOUT)

    def close_stdin(self) -> None:
        """End the container's input, for all who are attached; into a terminal ^D is typed. Waits until what was
        written before is taken. Raises BrokenPipeError after the end."""
        while not self._send(b"e"):
            self._wait(select.POLLOUT)

    def resize(self, rows: int, columns: int) -> bool:
        """Set the size of its terminal, in characters; nothing where it has none. Does not wait: False, nothing was
        done, for input that this one has written is not taken yet. Raises BrokenPipeError after the end."""
        return self._send(struct.pack("<cHH", b"r", rows, columns))

    def detach(self) -> None:
        """Let go; the container goes on. Threads that wait in other methods return, or raise BrokenPipeError. May be
        called twice."""
        self.ended = True
        import socket

        if self._maker == os.getpid():  # else it is another program's connection
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    close = detach

    def fileno(self) -> int:
        """Readable (poll(2)) when `receive` has something; -1 once let go."""
        return self._socket.fileno()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.detach()

    def __repr__(self) -> str:
        return f"<Attachment {self._name!r}{' ended' if self.ended else ''}>"

    def _connect(self, directory: str) -> None:
        # The address of a socket is short; a path need not be.
        try:
            fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._socket.settimeout(_PATIENCE)
                self._socket.connect(f"/proc/self/fd/{fd}/attach")
            finally:
                os.close(fd)
        except (FileNotFoundError, ConnectionRefusedError):
            problem = f"container {self._name!r} cannot be attached to: it was not started detached, or has ended"
            raise InvalidState(problem, remedy="read its log") from None
        except OSError as error:
            number = error.errno or errno.ETIMEDOUT
            message = f"container {self._name!r} cannot be attached to: {os.strerror(number)}"
            raise StoreError(message, errno=number, path=directory) from error

    def _greet(self) -> None:
        try:
            hello = self._socket.recv(1 + _PACKET)
        except OSError:
            hello = b""
        if hello[:1] == b"f":
            message = f"container {self._name!r} has as many attached as it can have"
            raise InvalidState(message, remedy="detach one of them")
        if hello[:1] != b"h" or len(hello) < 3:
            raise InvalidState(f"the monitor of container {self._name!r} does not answer", remedy="has it just ended?")
        self.tty, self.stdin = bool(hello[1]), bool(hello[2])
        self._socket.setblocking(False)

    def _send(self, packet: bytes) -> bool:
        """Whether there was room for it."""
        try:
            self._socket.send(packet)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.ECONNRESET, errno.EBADF):  # it has ended, or was let go of
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
            raise
        return True

    def _wait(self, mask: int) -> None:
        fd = self._socket.fileno()
        if fd >= 0:
            poll = select.poll()
            poll.register(fd, mask)
            poll.poll()
