"""What a container's stdin, stdout and stderr are connected to.

`connect` makes of what the caller gave the three descriptors for the container and, where something is to be moved,
our ends of the pipes: a `Writer` with a `Source` for stdin, a `Reader` with a sink for each output. The pump moves it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from execdrivers.driver import Stdio
from execdrivers.errors import LaunchError, SpecError
from execdrivers.streams import END_OF_INPUT, Reader, Source, Writer

if TYPE_CHECKING:
    from execdrivers.terminal import Terminal

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Input", "Output", "Wiring", "connect"]

#: As in `subprocess`.
PIPE = -1
STDOUT = -2
DEVNULL = -3


class HasFileno(Protocol):
    """A file object backed by a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


Input: TypeAlias = int | HasFileno | bytes | Iterable[bytes] | None
Output: TypeAlias = int | HasFileno | Callable[[bytes], object] | None


class Wiring:
    """All that belongs to one container's stdio. ``stdio`` is for the driver."""

    __slots__ = ("_child", "_given", "inherits_terminal", "kinds", "readers", "stdio", "writer")

    def __init__(self) -> None:
        self.stdio = Stdio(-1, -1, -1)
        self.readers: dict[str, Reader] = {}
        self.writer: Writer | None = None
        #: stdin, stdout, stderr → what each is connected to, for the record.
        self.kinds: dict[str, str] = {}
        #: Keys typed at this program's own terminal go to the container's.
        self.inherits_terminal = False
        self._child: list[int] = []
        self._given: tuple[Input, Output] = (None, None)

    def close_child(self) -> None:
        """Close the container's ends that were made for it, once it has them."""
        child, self._child = self._child, []
        for fd in child:
            os.close(fd)

    def close(self) -> None:
        """Close everything. May be called twice."""
        self.close_child()
        for reader in self.readers.values():
            reader.close()
        if self.writer is not None:
            self.writer.close()

    def push_early(self) -> None:
        """Write what fits into the pipe before anybody waits: most inputs are done with that."""
        if self.writer is not None and self.writer.source is not None and self.writer.source.ready:
            self.writer.push()

    def attach(self, terminal: Terminal) -> None:
        """Connect the container's terminal, once the driver has made it."""
        stdin, stdout = self._given
        fd = terminal.fileno()
        self.readers["stdout"] = Reader("stdout", fd, _terminal_sink(stdout), terminal=True)
        source = _terminal_source(stdin)
        if source is not None:
            # A descriptor of its own, for it is closed at the end of the input.
            self.writer = Writer(os.dup(fd), source)
        self.inherits_terminal = stdin is None

    def _expect_terminal(self, stdin: Input, stdout: Output, stderr: Output) -> None:
        if stderr is not None and stderr not in (PIPE, STDOUT):
            raise SpecError("stderr", stderr, "is not there with a terminal", "use stdout: a terminal has one stream")
        self._given = stdin, stdout
        self.kinds = {"stdin": _kind(stdin), "stdout": _kind(stdout), "stderr": "stdout"}

    def _open(self, stdin: Input, stdout: Output, stderr: Output) -> None:
        self.kinds = {"stdin": _kind(stdin), "stdout": _kind(stdout), "stderr": _kind(stderr)}
        child_stdin = self._open_input(stdin)
        child_stdout = self._open_output("stdout", stdout, 1)
        child_stderr = child_stdout if _is(stderr, STDOUT) else self._open_output("stderr", stderr, 2)
        self.stdio = Stdio(child_stdin, child_stdout, child_stderr)

    def _open_input(self, given: Input) -> int:
        if given is None:
            return self._inherit(0, os.O_RDONLY)
        if _is(given, DEVNULL):
            return self._keep(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        source = None
        if not _is(given, PIPE):
            fd = _fileno("stdin", given)
            if fd is not None:
                return fd
            source = _source("stdin", given)
        read, write = os.pipe()
        self._keep(read)
        self.writer = Writer(write, source)
        return read

    def _open_output(self, name: str, given: Output, number: int) -> int:
        if given is None:
            return self._inherit(number, os.O_WRONLY)
        if _is(given, DEVNULL):
            return self._keep(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        sink = None
        if not _is(given, PIPE):
            fd = _fileno(name, given)
            if fd is not None:
                return fd
            sink = _sink(name, given)
        read, write = os.pipe()
        self._keep(write)
        self.readers[name] = Reader(name, read, sink)
        return write

    def _inherit(self, number: int, flags: int) -> int:
        try:
            os.fstat(number)
        except OSError:  # this program was started with it closed
            return self._keep(os.open(os.devnull, flags | os.O_CLOEXEC))
        return number

    def _keep(self, fd: int) -> int:
        self._child.append(fd)
        return fd


def connect(stdin: Input, stdout: Output, stderr: Output, *, tty: bool) -> Wiring:
    """Make what the container needs of what the caller gave. Raises `SpecError`, and `LaunchError` when descriptors are
    used up; nothing is left open then."""
    wiring = Wiring()
    try:
        if tty:
            wiring._expect_terminal(stdin, stdout, stderr)
        else:
            wiring._open(stdin, stdout, stderr)
    except OSError as error:
        wiring.close()
        raise LaunchError(f"stdio: {error.strerror}", step="stdio", errno=error.errno or 0) from error
    except BaseException:
        wiring.close()
        raise
    return wiring


def _is(given: object, constant: int) -> bool:
    return isinstance(given, int) and given == constant


def _fileno(name: str, given: object) -> int | None:
    """The descriptor that an int or file object stands for; None when it is something else."""
    if isinstance(given, int):
        if given < 0:
            raise SpecError(name, given, "is not a descriptor", "use PIPE, DEVNULL, STDOUT (stderr only), or a file")
        return given
    fileno = getattr(given, "fileno", None)
    if fileno is None:
        return None
    try:
        return int(fileno())
    except OSError:
        return None  # io.UnsupportedOperation: a file in memory


def _source(name: str, given: Any, end: bytes = b"") -> Source:
    if isinstance(given, str) or not isinstance(given, Iterable):
        remedy = "give bytes, an iterable of bytes, a file, PIPE or DEVNULL"
        raise SpecError(name, given, "cannot be a container's input", remedy)
    return Source(given, end=end)


def _sink(name: str, given: Any) -> Callable[[bytes], object]:
    if callable(given):
        return given  # type: ignore[no-any-return]
    if callable(getattr(given, "write", None)) and not hasattr(given, "encoding"):
        return given.write  # type: ignore[no-any-return] # a file in memory
    remedy = "give a function that takes bytes, a file, PIPE or DEVNULL"
    raise SpecError(name, given, "cannot take a container's output", remedy)


def _terminal_sink(given: Output) -> Callable[[bytes], object] | None:
    """Where the output of a container's terminal goes; None when the caller reads it."""
    if _is(given, PIPE):
        return None
    if _is(given, DEVNULL):
        return len
    fd = 1 if given is None else _fileno("stdout", given)
    return _sink("stdout", given) if fd is None else _copier(fd)


def _terminal_source(given: Input) -> Source | None:
    """Where the input of a container's terminal comes from; None when the caller types it, or nobody."""
    if _is(given, PIPE) or _is(given, DEVNULL):
        return None
    fd = 0 if given is None else _fileno("stdin", given)
    return _source("stdin", given, END_OF_INPUT) if fd is None else Source(fd=fd, end=END_OF_INPUT)


def _copier(fd: int) -> Callable[[bytes], object]:
    def copy(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                import select

                select.select([], [fd], [])

    return copy


def _kind(given: Input | Output) -> str:
    if given is None:
        return "inherit"
    if isinstance(given, int):
        return {PIPE: "pipe", STDOUT: "stdout", DEVNULL: "null"}.get(given, f"fd {given}")
    return "file" if hasattr(given, "fileno") else "stream"
