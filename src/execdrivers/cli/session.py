"""A session: our stdin, stdout and stderr, or our terminal, connected to a detached container."""

from __future__ import annotations

import os
import select
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from execdrivers.cli.detachkeys import KeyFilter
from execdrivers.cli.signals import Forwarder
from execdrivers.terminal import RawTerminal, window_size

if TYPE_CHECKING:
    from execdrivers.container import Container
    from execdrivers.monitor.attachment import Attachment

__all__ = ["Session"]

#: Bytes read of our stdin at once.
_CHUNK = 32 << 10
#: Packets of output after which keys are looked at again, though there be more.
_TURN = 16


class Session:
    """Lasts until the container ends, the keys are typed, or a signal comes that is not for the container."""

    def __init__(
        self, container: Container, attachment: Attachment, *, keys: bytes, with_input: bool, proxied: bool
    ) -> None:
        """``proxied``: signals are for the container, unless it has a terminal, where keys are its signals."""
        self._container = container
        self._attachment = attachment
        self._keys = KeyFilter(keys if attachment.tty else b"")
        self._reading = with_input
        self._rest = b""
        self._proxied = proxied and not attachment.tty
        self._leaving = False
        #: The signal that ended it.
        self.ended_by: int | None = None

    def run(self) -> bool:
        """Whether the container has ended; else it lives on."""
        tty = self._attachment.tty
        self._woken, self._wake = os.pipe()
        self._screen = _Screen(self._attachment, self._wake)
        forwarder = Forwarder()
        try:
            with forwarder.caught(window=tty):
                forwarder.forward_to(self)
                with RawTerminal(0, self._screen) if tty and self._reading else nullcontext():
                    if tty:
                        self._redraw()
                    while not self._leaving and not self._attachment.ended:
                        self._exchange()
        finally:
            os.close(self._wake)
            os.close(self._woken)
        return not self._leaving

    # --- what a `Forwarder` forwards to

    @property
    def terminal(self) -> _Screen | None:
        """Where the size of ours goes."""
        return self._screen if self._attachment.tty else None

    def signal(self, number: int | str) -> None:
        """To the container, or the end of this."""
        if self._proxied:
            self._container.signal(number)
        else:
            self.ended_by, self._leaving = int(number), True
            os.write(self._wake, b"\0")

    # --- what goes on

    def _exchange(self) -> None:
        """Wait once, and move what is there."""
        attachment = self._attachment
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(attachment.fileno(), select.POLLIN | (select.POLLOUT if self._rest or self._screen.waits else 0))
        if self._reading and not self._rest:
            poll.register(0, select.POLLIN)
        ready = dict(poll.poll())
        if self._woken in ready:
            os.read(self._woken, 64)
        self._screen.tell()
        if 0 in ready:
            self._read()
        if self._rest:
            try:
                self._rest = self._rest[attachment.send(self._rest) :]
            except OSError:
                self._reading, self._rest = False, b""  # nobody takes input any more
        for _ in range(_TURN):
            if (output := attachment.receive()) is None:
                break
            _write(2 if output[0] == "stderr" else 1, output[1])

    def _read(self) -> None:
        try:
            data = os.read(0, _CHUNK)
        except OSError:
            data = b""  # a terminal that was hung up
        if data:
            self._rest, self._leaving = self._keys.feed(data)
        else:
            # As with docker, what the container reads goes on with who attaches next.
            self._reading, self._leaving = False, self._attachment.tty

    def _redraw(self) -> None:
        """A program that draws on the whole terminal does so again when its size changes, so it is changed twice."""
        size = window_size(0) or window_size(1)
        if size is not None:
            rows, columns = size
            for size in ((rows + 1, columns + 1), (rows, columns)):
                self._screen.resize(*size)
                self._screen.tell()


class _Screen:
    """The container's terminal, as far as its size goes.

    Whoever sets that only notes it, for he may be in another thread or in the handler of a signal: the session tells
    it, once there is room for it among the input.
    """

    def __init__(self, attachment: Attachment, wake: int) -> None:
        self._attachment = attachment
        self._wake = wake
        self._wanted: tuple[int, int] | None = None
        self._told: tuple[int, int] | None = None

    @property
    def closed(self) -> bool:
        return self._attachment.ended

    def resize(self, rows: int, columns: int) -> None:
        self._wanted = rows, columns
        os.write(self._wake, b"\0")

    @property
    def waits(self) -> bool:
        """Whether it is still to be told."""
        return self._wanted != self._told

    def tell(self) -> None:
        """As far as it can be told now."""
        size = self._wanted
        if size is not None and size != self._told:
            try:
                if self._attachment.resize(*size):
                    self._told = size
            except OSError:
                self._told = size  # it has ended


def _write(fd: int, data: bytes) -> None:
    stream = (sys.stdout if fd == 1 else sys.stderr).buffer
    stream.write(data)
    stream.flush()
