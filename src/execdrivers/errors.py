"""The errors: one small hierarchy, each class also the builtin a caller would catch.

A message names the field, path or step, the reason (the kernel's where there is one) and the remedy.
Every error pickles, so that it can cross a process pool.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from execdrivers.exit import Exit
    from execdrivers.stats import Stats

__all__ = [
    "CommandNotExecutable",
    "CommandNotFound",
    "ContainerError",
    "ContainerExists",
    "ContainerNotFound",
    "ContainerTimeout",
    "DriverUnavailable",
    "ExecDriverError",
    "InvalidState",
    "LaunchError",
    "OperationError",
    "PluginError",
    "SpecError",
    "StoreError",
    "UnknownDriver",
    "UnsupportedFeature",
    "VetoError",
]

#: Longest value quoted in a message, in characters; what follows is elided.
_QUOTE_LIMIT = 120


def _quote(value: object) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deep to be shown"
    return text if len(text) <= _QUOTE_LIMIT else f"{text[:_QUOTE_LIMIT]}… ({len(text)} characters)"


def _rebuild(cls: type[ExecDriverError], args: tuple[Any, ...], state: dict[str, Any]) -> ExecDriverError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    if isinstance(error, OSError):
        error.errno, error.strerror, error.filename = state["_os"]
    return error


class ExecDriverError(Exception):
    """Root of all errors that execdrivers raises on purpose.

    ``message`` is the whole text, ``remedy`` the part that says what to do (may be empty).
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            state["_os"] = (self.errno, self.strerror, self.filename)
        return _rebuild, (type(self), self.args, state)


class SpecError(ExecDriverError, ValueError):
    """A spec that cannot be meant: the field (a dotted path), its value, the problem and the remedy."""

    def __init__(self, field: str, value: object, problem: str, remedy: str = "") -> None:
        self.field = field
        self.value = value
        self.problem = problem
        super().__init__(f"{field}: {_quote(value)} {problem}", remedy=remedy)

    def within(self, prefix: str) -> SpecError:
        """The same error seen from an enclosing value: ``mounts[0]`` + ``destination``."""
        joint = "" if not self.field or self.field.startswith("[") else "."
        return SpecError(f"{prefix}{joint}{self.field}", self.value, self.problem, self.remedy)


class UnsupportedFeature(ExecDriverError, NotImplementedError):
    """A driver was asked for what it cannot enforce here; raised before any side effect (design rule 1)."""

    def __init__(
        self,
        driver: str,
        feature: str,
        field: str,
        *,
        reason: str = "",
        alternatives: Iterable[str] = (),
        remedy: str = "",
    ) -> None:
        self.driver = driver
        self.feature = feature
        self.field = field
        self.alternatives = tuple(alternatives)
        asked = f" (asked for by {field})" if field else ""
        message = f"driver {driver!r} does not enforce {feature}{asked}"
        if reason:
            message += f": {reason}"
        if not remedy:
            able = " or ".join(repr(name) for name in self.alternatives)
            remedy = f"use driver {able}" if able else f"leave {field or feature} unset"
        super().__init__(message, remedy=remedy)


class UnknownDriver(ExecDriverError, LookupError):
    """No driver of that name is registered; the message lists those that are."""


class DriverUnavailable(ExecDriverError, RuntimeError):
    """The driver exists but cannot run here; the message says why and what would fix it."""


class PluginError(ExecDriverError, RuntimeError):
    """A plugin failed to import, clashes with another, or was built for another interface version."""


class VetoError(ExecDriverError, PermissionError):
    """A policy plugin refused the spec."""


class ContainerExists(ExecDriverError, FileExistsError):
    """The container id (name) is already in use in this store."""


class ContainerNotFound(ExecDriverError, LookupError):
    """No container of that id (name) in this store."""


class InvalidState(ExecDriverError, RuntimeError):
    """The operation does not fit the container's state: a signal after the exit, a second start …"""


class StoreError(ExecDriverError, OSError):
    """The state root cannot be used: unwritable, full, or holding a damaged record. ``errno`` is set."""

    def __init__(self, message: str, *, errno: int = 0, path: str = "", remedy: str = "") -> None:
        ExecDriverError.__init__(self, message, remedy=remedy)
        self.errno, self.strerror, self.filename = errno, os.strerror(errno) if errno else None, path or None


class LaunchError(ExecDriverError, OSError):
    """The container could not be brought to run its command. ``exit.reason`` is ``launch-failed``.

    ``step`` names what failed (``mount``, ``exec`` …), ``path`` on what, ``errno`` the kernel's reason (0: none).
    Exit status as ``docker run``: 125; 126 and 127 for the two subclasses.
    """

    exit_code = 125

    def __init__(self, message: str, *, step: str, path: str = "", errno: int = 0, remedy: str = "") -> None:
        ExecDriverError.__init__(self, message, remedy=remedy)
        self.step = step
        self.path = path
        self.errno, self.strerror, self.filename = errno, os.strerror(errno) if errno else None, path or None

    @property
    def exit(self) -> Exit:
        """The exit that the container's record keeps."""
        from execdrivers.exit import Exit

        return Exit(reason="launch-failed", code=self.exit_code, error=str(self))


class CommandNotFound(LaunchError, FileNotFoundError):
    """The command does not exist in the container: exit status 127."""

    exit_code = 127


class CommandNotExecutable(LaunchError, PermissionError):
    """The command exists in the container but cannot be executed: exit status 126."""

    exit_code = 126


class OperationError(ExecDriverError, OSError):
    """A container could not be paused, resumed, updated or signalled as a whole, and runs on; or not be freed.

    ``errno`` is the kernel's (0: none).
    """

    def __init__(self, message: str, *, operation: str, errno: int = 0, path: str = "", remedy: str = "") -> None:
        ExecDriverError.__init__(self, message, remedy=remedy)
        self.operation = operation
        self.errno, self.strerror, self.filename = errno, os.strerror(errno) if errno else None, path or None


class _Finished(ExecDriverError):
    """What `ContainerError` and `ContainerTimeout` share, named as in `subprocess`."""

    cmd: tuple[str, ...]
    output: Any
    stderr: Any
    exit: Exit
    #: What it used in all, with ``accounting``.
    stats: Stats | None = None

    @property
    def stdout(self) -> Any:
        """Alias of ``output``, as in `subprocess`."""
        return self.output


class ContainerError(_Finished, RuntimeError):
    """``check=True`` and the container did not exit with 0. Counterpart of `subprocess.CalledProcessError`."""

    def __init__(self, exit: Exit, cmd: Iterable[str], output: Any = None, stderr: Any = None) -> None:
        self.exit = exit
        self.cmd = tuple(cmd)
        self.output = output
        self.stderr = stderr
        super().__init__(f"command {_quote(list(self.cmd))} {exit}")

    @property
    def returncode(self) -> int:
        """The exit code; negative: ended by that signal."""
        return self.exit.returncode


class ContainerTimeout(_Finished, TimeoutError):
    """The timeout (seconds) expired; `run` has killed everything. Counterpart of `subprocess.TimeoutExpired`."""

    def __init__(
        self, cmd: Iterable[str], timeout: float, output: Any = None, stderr: Any = None, exit: Exit | None = None
    ) -> None:
        from execdrivers.exit import Exit

        self.exit = exit or Exit(reason="timeout")
        self.cmd = tuple(cmd)
        self.timeout = timeout
        self.output = output
        self.stderr = stderr
        super().__init__(f"command {_quote(list(self.cmd))} timed out after {timeout:g} seconds")
