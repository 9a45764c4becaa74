"""Signals sent to ``execdrivers run`` and ``exec`` reach the process, as with docker's ``--sig-proxy``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from execdrivers.terminal import Resizable

__all__ = ["FORWARDED", "Forwarder"]

#: What people and supervisors send to a program. Job control stays with the caller's shell.
FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGTERM,
)
#: After so many requests to end that had no effect the caller is told why, and how to be heard.
_PATIENCE = 3


class Target(Protocol):
    """A container, or one process of it."""

    @property
    def terminal(self) -> Resizable | None:
        """Its terminal, when it has one."""

    def signal(self, number: int | str) -> None:
        """Send it a signal."""


class Forwarder:
    """Holds signals back from the moment it is entered, and passes them on once it has a container.

    Nothing is done in the handlers, which would interrupt the engine at any point of its work: the interpreter writes
    the signal's number to a pipe, and a thread does the rest.
    """

    def __init__(self) -> None:
        self._target: Target | None = None
        self._pid_1_of = ""
        self._thread: threading.Thread | None = None
        self._requests_to_end = 0

    @contextmanager
    def caught(self, *, window: bool) -> Iterator[None]:
        """Catch `FORWARDED`, and changes of the terminal's size with ``window``. Not in threads other than the main."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        wanted = (*FORWARDED, signal.SIGWINCH) if window else FORWARDED
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # Who ignores a signal from the start, as under nohup, wants it ignored.
        before: dict[int, Any] = {
            number: signal.signal(number, lambda *_: None)
            for number in wanted
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(writer)
            if self._thread is not None:
                self._thread.join()
            os.close(self._reader)

    def forward_to(self, target: Target, *, pid_1_of: str = "") -> None:
        """From now on, and for what came since `caught`. ``pid_1_of``: the container whose first process it is."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._target, self._pid_1_of = target, pid_1_of
        self._thread = threading.Thread(target=self._forward, name="execdrivers-signals", daemon=True)
        self._thread.start()

    def resize(self, target: Target) -> None:
        """Give its terminal the size of ours."""
        if target.terminal is None or target.terminal.closed:
            return
        from execdrivers.terminal import window_size

        size = window_size(0) or window_size(1)
        if size is not None:
            target.terminal.resize(*size)

    def _forward(self) -> None:
        while numbers := os.read(self._reader, 64):
            for number in numbers:
                self._pass_on(signal.Signals(number))

    def _pass_on(self, number: signal.Signals) -> None:
        from execdrivers.errors import ExecDriverError

        target = self._target
        assert target is not None
        try:
            if number == signal.SIGWINCH:
                self.resize(target)
            elif number in FORWARDED:
                target.signal(number)
                self._count(number)
        except (ExecDriverError, OSError, ValueError):
            pass  # It has ended meanwhile: nobody is left to be told.

    def _count(self, number: signal.Signals) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM) or not self._pid_1_of:
            return
        self._requests_to_end += 1
        if self._requests_to_end == _PATIENCE:
            print(
                f"execdrivers: {self._pid_1_of} does not end on {number.name}: as pid 1 a program gets only signals "
                f"that it handles\n  try: execdrivers kill {self._pid_1_of}; next time run with --init",
                file=sys.stderr,
                flush=True,
            )
