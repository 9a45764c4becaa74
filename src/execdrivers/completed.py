"""One `run`: what its arguments come to, and what it returns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers.errors import ContainerError, ContainerTimeout, SpecError
from execdrivers.exit import Exit
from execdrivers.spec import ContainerSpec
from execdrivers.stdio import PIPE, Input, Output
from execdrivers.streams import Capture

if TYPE_CHECKING:
    from execdrivers.container import Container
    from execdrivers.stats import Stats

__all__ = ["Call", "CompletedContainer"]


@attrs.frozen(kw_only=True)
class CompletedContainer:
    """What `run` returns. Counterpart of `subprocess.CompletedProcess`, with more to tell.

    ``stdout`` and ``stderr`` are bytes, str in text mode, None where not captured; ``…_truncated``: only the first
    ``output_limit`` bytes are there. ``duration`` is in seconds, from the start to the end.
    """

    args: tuple[str, ...]
    exit: Exit
    stdout: Any = None
    stderr: Any = None
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    name: str
    driver: str
    guarantees: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    duration: float
    #: What it used in all, with ``accounting``.
    stats: Stats | None = None

    @property
    def returncode(self) -> int:
        """As in `subprocess`: the exit code, negative for a signal."""
        return self.exit.returncode

    def check_returncode(self) -> None:
        """Raises `ContainerError` unless it exited by itself with 0."""
        if not self.exit.ok:
            error = ContainerError(self.exit, self.args, self.stdout, self.stderr)
            error.stats = self.stats
            raise error


class Call:
    """The arguments of one `run`, but for those of where and by whom.

    ``spec``, ``stdin``, ``stdout`` and ``stderr`` are what to create a container with; `completed` is for when it has
    ended, or its time is over. Raises `SpecError`.
    """

    __slots__ = (
        "_as_text",
        "_check",
        "_encoding",
        "_err",
        "_errors",
        "_out",
        "_timeout",
        "spec",
        "stderr",
        "stdin",
        "stdout",
    )

    def __init__(
        self,
        args: ContainerSpec | Iterable[str],
        fields: Mapping[str, Any],
        *,
        stdin: Input,
        input: bytes | str | None,
        stdout: Output,
        stderr: Output,
        capture_output: bool,
        text: bool | None,
        encoding: str | None,
        errors: str | None,
        timeout: float | None,
        check: bool,
        output_limit: int | None,
    ) -> None:
        spec = ContainerSpec.build(args, **fields) if not isinstance(args, ContainerSpec) else args
        if fields and spec is args:
            spec = spec.replace(**fields)
        self.spec = spec
        if capture_output:
            if stdout is not None or stderr is not None:
                problem = "cannot be used together with stdout or stderr"
                raise SpecError("capture_output", True, problem, "leave one of them out")
            stdout = stderr = PIPE
        self._as_text = bool(text or encoding or errors)
        self._encoding, self._errors = encoding, errors
        self._timeout, self._check = timeout, check
        if input is not None:
            if stdin is not None:
                raise SpecError("input", input, "cannot be used together with stdin", "leave one of the two out")
            stdin = self._encoded(input)
        elif isinstance(stdin, int) and stdin == PIPE:
            stdin = b""
        if spec.tty and _is_pipe(stderr):
            stderr = None  # a terminal has one stream
        self._out = Capture(output_limit) if _is_pipe(stdout) else None
        self._err = Capture(output_limit) if _is_pipe(stderr) else None
        self.stdin, self.stdout, self.stderr = stdin, self._out or stdout, self._err or stderr

    def completed(self, container: Container, duration: float) -> CompletedContainer:
        """What `run` returns. Raises what it raises: `ContainerTimeout`, and with ``check`` `ContainerError`."""
        out, err = self._value(self._out), self._value(self._err)
        exit = container.exit or Exit(reason="timeout")
        if self._timeout is not None and container._timed_out:
            late = ContainerTimeout(container._args, self._timeout, out, err, exit=exit)
            late.stats = container._final_stats()
            raise late
        completed = CompletedContainer(
            args=container._args,
            exit=exit,
            stdout=out,
            stderr=err,
            stdout_truncated=self._out is not None and self._out.truncated,
            stderr_truncated=self._err is not None and self._err.truncated,
            name=container.id,
            driver=container.driver,
            guarantees=container.guarantees,
            duration=duration,
            stats=container._final_stats(),
        )
        if self._check:
            completed.check_returncode()
        return completed

    def _value(self, capture: Capture | None) -> Any:
        if capture is None or not self._as_text:
            return capture and capture.value()
        text = capture.value().decode(self._encoding or _default_encoding(), self._errors or "strict")
        # Universal newlines, as subprocess has them.
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text

    def _encoded(self, input: bytes | str) -> bytes:
        if not isinstance(input, str):
            return input
        if not self._as_text:
            raise SpecError("input", input, "is text", "give bytes, or text=True")
        return input.encode(self._encoding or _default_encoding(), self._errors or "strict")


def _is_pipe(given: object) -> bool:
    return isinstance(given, int) and given == PIPE


def _default_encoding() -> str:
    if sys.flags.utf8_mode:
        return "utf-8"
    import locale

    return locale.getpreferredencoding(False)
