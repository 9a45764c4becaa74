"""Interrupts that wait: what must be done whole is not broken off half way.

Python runs a signal's handler in the main thread between any two instructions. One that raises (``KeyboardInterrupt``)
there would leave a cgroup that was made and not noted, a descriptor opened and not stored. So the handlers stand back
while a container is made, changed or freed, and run when that is done, or where nothing is half done (`heard`). What
hangs can be interrupted nevertheless: five seconds later, or by a second interrupt.
"""

from __future__ import annotations

# Without the wrappers of module signal, whose enums make it ten times as slow.
import _signal  # type: ignore[import-not-found]
import _thread
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, ParamSpec, TypeVar

__all__ = ["deferred", "deferring", "heard", "whole"]

#: What people, supervisors and timers break a program off with.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGINT)

#: Seconds that an interrupt waits at the most. What is to be done whole takes milliseconds, unless it hangs.
PATIENCE = 5.0

P = ParamSpec("P")
T = TypeVar("T")
Handler = Callable[[int, FrameType | None], Any]

_current: deferred | None = None
#: Identifier of the thread in which handlers run.
_main = threading.main_thread().ident


class deferred:  # a context manager, which reads as the verb it is
    """Context manager: signal handlers written in Python wait until it is left.

    In another thread than the main, which no handler interrupts, and within another of its kind, it does nothing.
    """

    __slots__ = ("_handlers", "_waiting")

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._waiting: dict[int, Handler] = {}

    def __enter__(self) -> deferred:
        if _current is None and threading.get_ident() == _main:
            self._take()
        return self

    def __exit__(self, *_: object) -> None:
        if _current is self:
            self._give_back()

    def _take(self) -> None:
        global _current
        self._handlers = {number: handler for number in _SIGNALS if callable(handler := _signal.getsignal(number))}
        try:
            _current = self
            for number in self._handlers:
                _signal.signal(number, self._note)
        except BaseException:  # one came before it could be held back
            self._give_back()
            raise

    def _give_back(self) -> None:
        global _current
        try:
            _restore(list(self._handlers.items()))
            _current = None  # here, too: one may come just before the next
        finally:
            _current = None
            self._run_waiting()

    def _note(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers[number]
        if self._waiting.pop(number, None) is not None:
            handler(number, frame)
        else:
            self._waiting[number] = handler
            # Not threading's: its locks may be held by what was interrupted.
            _thread.start_new_thread(self._insist, (number, threading.get_ident()))

    def _insist(self, number: int, main: int) -> None:
        time.sleep(PATIENCE)
        if _current is self and number in self._waiting:
            signal.pthread_kill(main, number)

    def _run_waiting(self) -> None:
        if self._waiting:
            number, handler = self._waiting.popitem()
            try:
                handler(number, None)
            finally:
                self._run_waiting()


class heard:
    """Context manager, for waiting within `deferred`: handlers run as they come, and those that wait, now."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: deferred | None = None

    def __enter__(self) -> None:
        if _current is not None and threading.get_ident() == _main:
            self._held = _current
            try:
                _current._give_back()
            except BaseException:
                self._held._take()
                raise

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held._take()


def _after_fork() -> None:
    global _main
    _main = threading.main_thread().ident  # which has forked


os.register_at_fork(after_in_child=_after_fork)


def _restore(handlers: list[tuple[int, Handler]]) -> None:
    """All of them, whatever one that comes at once raises."""
    if handlers:
        try:
            _signal.signal(*handlers.pop())
        finally:
            _restore(handlers)


def deferring(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: the function is done whole."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with deferred():
            return function(*args, **kwargs)

    return wrapper


def whole(make: Callable[[], T], undo: Callable[[T], object]) -> T:
    """What ``make`` returns. Where an interrupt keeps the caller from getting it, it is undone."""
    made: list[T] = []
    try:
        with deferred():
            made.append(make())
        return made[0]
    except BaseException:
        with deferred():
            for each in made:
                undo(each)
        raise
