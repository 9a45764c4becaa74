"""The guard of this program: a small process that outlives it, and has cleaned up what it left.

A program that is killed, or ends without having deleted its containers, takes them with it: launcher/c/guard.c waits
for its end. It is the program's end that counts, not that of a thread (as with PR_SET_PDEATHSIG, prctl(2)). A fork of
the program is another program, with a guard of its own.

What is left is told by memory that both share, so that a container costs no system call, and a program that leaves
nothing costs its guard nothing: `aftermath` is executed for what is left alone.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from execdrivers.errors import LaunchError
from execdrivers.record import own_process

__all__ = ["Guard", "Held", "hold"]

#: Reentrant: the collector may delete a container, anywhere. What is counted wrongly then is one too many, which costs
#: a look at what is left.
_lock = threading.RLock()


class Guard:
    """That of one program."""

    def __init__(self) -> None:
        """Start it. Raises `LaunchError`."""
        from execdrivers.launcher._launcher import ffi, lib

        self._maker = os.getpid()
        #: State root → how many of the containers below it are not to outlive the program.
        self._roots: dict[str, int] = {}
        self._ffi = ffi
        command = cleaner()
        if command is None:
            self._page: Any = ffi.new("struct ed_guard_page *")  # nobody reads it
            return
        argv = ["execdrivers-guard", *command, "--owner", ":".join(map(str, own_process()))]
        texts = [ffi.new("char[]", os.fsencode(text)) for text in argv]
        variables = [ffi.new("char[]", os.fsencode(f"{key}={value}")) for key, value in environment().items()]
        page = ffi.new("struct ed_guard_page **")
        result = lib.ed_guard_start(
            ffi.new("char *[]", [*texts, ffi.NULL]), ffi.new("char *[]", [*variables, ffi.NULL]), page
        )
        if result < 0:
            message = f"guard: {os.strerror(-result)}: containers would outlive this program if it were killed"
            raise LaunchError(message, step="guard", errno=-result)
        self._page = page[0]

    @property
    def ours(self) -> bool:
        """Whether it is this program's: a fork inherits the object, but its guard is another."""
        return self._maker == os.getpid()

    def add(self, root: str) -> None:
        """One more container below that root. Raises `LaunchError` when it is one of too many roots."""
        if root not in self._roots:
            self._note(root)
        self._roots[root] += 1
        self._page.count += 1

    def remove(self, root: str) -> None:
        """One less."""
        self._roots[root] -= 1
        self._page.count -= 1

    def _note(self, root: str) -> None:
        data = os.fsencode(root) + b"\0"
        room = self._ffi.buffer(self._page.roots)
        if self._page.used + len(data) > len(room):
            self._forget_unused()
        used = self._page.used
        if used + len(data) > len(room):
            message = "guard: containers below too many roots at a time"
            raise LaunchError(message, step="guard", remedy="delete some, or detach them")
        room[used : used + len(data)] = data
        self._page.used = used + len(data)
        self._roots[root] = 0

    def _forget_unused(self) -> None:
        self._roots = {root: count for root, count in self._roots.items() if count}
        data = b"".join(os.fsencode(root) + b"\0" for root in self._roots)
        self._ffi.buffer(self._page.roots)[: len(data)] = data
        self._page.used = len(data)


class Held:
    """One container that is not to outlive this program."""

    __slots__ = ("_guard", "_root")

    def __init__(self, guard: Guard, root: str) -> None:
        self._guard: Guard | None = guard
        self._root = root

    def release(self) -> None:
        """It is gone, or is to live on. May be called twice, and does nothing in a fork."""
        with _lock:
            guard, self._guard = self._guard, None
            if guard is not None and guard.ours:
                guard.remove(self._root)


_guard: Guard | None = None


def hold(root: str) -> Held:
    """Have a container below that root end with this program, for which a guard is started. Raises `LaunchError`."""
    global _guard
    with _lock:
        if _guard is None or not _guard.ours:
            _guard = Guard()
        _guard.add(root)
        return Held(_guard, root)


def _after_fork() -> None:
    """Another thread of the parent may have held it."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def cleaner() -> list[str] | None:
    """The command that executes `aftermath` with the same packages as this program; None where there is no telling."""
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    return [sys.executable, "-m", "execdrivers.aftermath"]


def environment() -> dict[str, str]:
    """For `cleaner`: ours, and where this program's packages are."""
    paths = [os.path.abspath(path) for path in sys.path if isinstance(path, str) and path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
