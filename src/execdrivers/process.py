"""One process of a container, as its program sees it: its stdio, and the waiting for its end.

`Container` is one with a container around it; `ExecProcess` is one that runs in a container beside the first.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, cast

from execdrivers import interrupts
from execdrivers.errors import ContainerTimeout, InvalidState, SpecError
from execdrivers.exit import Exit
from execdrivers.pump import Pump
from execdrivers.streams import END_OF_INPUT, Capture, Source, Writer

if TYPE_CHECKING:
    from execdrivers.announce import Announcer
    from execdrivers.driver import ProcessHandle
    from execdrivers.stdio import Wiring
    from execdrivers.streams import Reader
    from execdrivers.terminal import Terminal
    from execdrivers.watch import Watch

__all__ = ["OUTPUT_LIMIT", "ExecProcess", "Process", "deadline_after"]

#: Bytes kept of each captured stream unless the caller says otherwise; the rest is read and dropped.
OUTPUT_LIMIT = 64 << 20

#: Seconds; what waits longer than this (24 days) waits for ever, says poll(2).
_MAX_TIMEOUT = 2_000_000.0

#: Seconds that a killed process may take to be gone before cleaning up goes on without it.
DEATH = 10.0


class Process:
    """The stdio of a process and the waiting for its end, each for any number of threads."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._terminal: Terminal | None = None
        self._exit: Exit | None = None
        #: Guards the state and the handle; never held while waiting for the end, or calling sinks or observers.
        self._lock = threading.RLock()
        #: Held by the thread that pumps and waits, for all others.
        self._pumping = threading.RLock()

    @property
    def returncode(self) -> int | None:
        """As `subprocess.Popen.returncode`: the code, or the negative signal; None before the end was noticed."""
        return self._exit.returncode if self._exit is not None else None

    @property
    def stdin(self) -> IO[bytes] | Terminal | None:
        """Where to write its input, when created with ``stdin=PIPE``."""
        if self._wiring.kinds.get("stdin") != "pipe":
            return None
        if self._terminal is not None:
            return self._terminal
        writer = self._wiring.writer
        return writer.file if writer is not None and writer.source is None else None

    @property
    def stdout(self) -> IO[bytes] | Terminal | None:
        """Where to read its output, when created with ``stdout=PIPE``."""
        if self._wiring.kinds.get("stdout") != "pipe":
            return None
        if self._terminal is not None:
            return self._terminal
        reader = self._wiring.readers.get("stdout")
        return reader.file if reader is not None else None

    @property
    def stderr(self) -> IO[bytes] | None:
        """Where to read its errors, when created with ``stderr=PIPE``; None with a terminal, which has one stream."""
        reader = self._wiring.readers.get("stderr")
        return reader.file if reader is not None and reader.sink is None else None

    @property
    def terminal(self) -> Terminal | None:
        """Its terminal, when it was asked for (``tty``)."""
        return self._terminal

    @property
    def seccomp_listener(self) -> int | None:
        """Descriptor on which system calls arrive that its seccomp profile answers with SCMP_ACT_NOTIFY
        (seccomp_unotify(2)), once it is started; None where there is no such rule, or an agent has the listener.

        It is closed as soon as the end is noticed: `os.dup` it for use beyond that. When all copies are closed such
        calls fail with ENOSYS.
        """
        return self._hold().seccomp_listener

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait for the end, moving what goes to callbacks meanwhile, and free what it took; a record of it stays.

        Raises `ContainerTimeout` after ``timeout`` seconds; it then runs on. What fills a pipe that nobody reads waits
        too: see `communicate` and `stream`.
        """
        self._require_start()
        if not self._supervise(deadline_after(timeout)):
            raise ContainerTimeout(self._args, cast(float, timeout))
        return cast(Exit, self._exit)

    def communicate(
        self, input: bytes | None = None, timeout: float | None = None, *, output_limit: int | None = OUTPUT_LIMIT
    ) -> tuple[bytes | None, bytes | None]:
        """Write ``input`` to its stdin and read stdout and stderr to the end, of those created as ``PIPE``.

        Of each stream the first ``output_limit`` bytes are kept. After a `ContainerTimeout` call it again: nothing is
        lost.
        """
        self._require_start()
        self._feed(input)
        readers = self._wiring.readers
        for reader in readers.values():
            if reader.sink is None:
                reader.divert(Capture(output_limit))
        if not self._supervise(deadline_after(timeout)):
            raise ContainerTimeout(self._args, cast(float, timeout))
        # Somebody may have waited before: then what was written is still in the pipes.
        Pump(-1, tuple(readers.values())).drain()
        streams = [getattr(readers.get(name), "sink", None) for name in ("stdout", "stderr")]
        out, err = (sink.value() if isinstance(sink, Capture) else None for sink in streams)
        return out, err

    def stream(self, timeout: float | None = None) -> Iterator[tuple[str, bytes]]:
        """Iterate over the output as it comes, until the end: ``("stdout", b"…")``, of streams created as ``PIPE``.

        Raises `ContainerTimeout` after ``timeout`` seconds.
        """
        self._require_start()
        arrived: deque[tuple[str, bytes]] = deque()
        readers = [reader for reader in self._wiring.readers.values() if reader.sink is None]
        for reader in readers:
            reader.divert(lambda data, name=reader.name: arrived.append((name, data)))  # type: ignore[misc]
        deadline = deadline_after(timeout)
        try:
            ended = False
            while not ended:
                ended = self._supervise(deadline, once=True)
                if ended:
                    Pump(-1, readers).drain()
                while arrived:
                    yield arrived.popleft()
                if not ended and deadline is not None and time.monotonic() >= deadline:
                    raise ContainerTimeout(self._args, cast(float, timeout))
        finally:
            for reader in readers:
                reader.sink = None

    # --- what a kind of process has to say of itself

    @property
    def _args(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def _over(self) -> bool:
        """Nothing is left to wait for."""
        return self._exit is not None

    def _hold(self) -> ProcessHandle:
        raise NotImplementedError

    def _require_start(self) -> None:
        """Raises `InvalidState` where there is nothing yet that could end."""

    def _awaited(self) -> int:
        """The descriptor that is readable when it has ended, or when another is to be waited for; -1: it has ended."""
        return self._hold().exit_fd

    def _conclude(self, pump: Pump) -> None:
        """The process has ended: take the rest of the output and the exit."""
        raise NotImplementedError

    def _watched(self) -> Watch | None:
        """What tells of it while it runs, if there is anybody to tell."""
        return None

    def _kill(self) -> None:
        raise NotImplementedError

    def _kill_rest(self) -> None:
        """The process has ended, and others still hold its pipes."""

    # --- the machinery

    def _attach_terminal(self, handle: ProcessHandle, size: tuple[int, int] | None) -> None:
        if handle.terminal is None or self._terminal is not None:
            return
        from execdrivers.terminal import Terminal, window_size

        self._terminal = Terminal(handle.terminal)
        self._wiring.attach(self._terminal)
        size = size or (window_size(0) if self._wiring.inherits_terminal else None)
        if size is not None:
            self._terminal.resize(*size)

    def _supervise(self, deadline: float | None, *, once: bool = False) -> bool:
        """Pump and wait until the end (True) or the deadline; ``once``: at most until something was moved."""
        if self._over:
            return True
        if self._is_pumping():
            message = f"{self!r} cannot be waited for from its own callback"
            raise InvalidState(message, remedy="call kill() there, and wait outside")
        timeout = -1 if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return self._pumping.acquire(timeout=timeout) and self._pump(deadline, once=once)
        finally:
            if self._is_pumping():  # an interrupt may come between the lock and whatever would note it
                self._pumping.release()

    def _glance(self) -> None:
        """Notice an end that has come, unless another thread waits for it."""
        if self._over or self._is_pumping():
            return
        try:
            if self._pumping.acquire(blocking=False):
                self._pump(time.monotonic(), once=True)
        finally:
            if self._is_pumping():
                self._pumping.release()

    def _is_pumping(self) -> bool:
        """Whether this thread does."""
        return bool(self._pumping._is_owned())  # type: ignore[attr-defined] # threading.Condition relies on it too

    def _pump(self, deadline: float | None, *, once: bool) -> bool:
        if self._over:
            return True
        readers = [reader for reader in self._wiring.readers.values() if reader.sink is not None]
        pump = Pump(self._hold().exit_fd, readers, self._wiring.writer, self._watched())
        try:
            if once:
                ended = pump.step(deadline)
            elif self._wiring.inherits_terminal and self._terminal is not None:
                from execdrivers.terminal import RawTerminal

                with RawTerminal(0, self._terminal):
                    ended = pump.run(deadline)
                    if ended:
                        pump.drain()  # the rest of what is shown is as raw
            else:
                ended = pump.run(deadline)
            if ended:
                with interrupts.deferred():
                    self._conclude(pump)
        except BaseException:
            if pump.failed:
                self._abort(readers)
            raise
        return ended

    def _abort(self, readers: Sequence[Reader]) -> None:
        """A callback has raised: nothing that it should take goes anywhere now."""
        for reader in readers:
            reader.sink = len
        self._kill()
        if self._exit is None:
            pump = Pump(self._hold().exit_fd, readers)
            if pump.run(time.monotonic() + DEATH):
                self._conclude(pump)

    def _feed(self, input: bytes | None) -> None:
        wiring = self._wiring
        if wiring.kinds.get("stdin") != "pipe":
            if input:
                raise SpecError("input", input, "has no way to the container", "create it with stdin=PIPE")
            return
        if self._terminal is not None and wiring.writer is None and input is not None:
            wiring.writer = Writer(os.dup(self._terminal.fileno()), None)
        if wiring.writer is not None and wiring.writer.source is None:
            wiring.writer.feed(Source(input or b"", end=END_OF_INPUT if self._terminal else b""))

    def _close_stdio(self) -> None:
        self._wiring.close()
        if self._terminal is not None:
            self._terminal.close()


class ExecProcess(Process):
    """A process that `Container.exec` has started in a running container; it ends with the container at the latest.

    Every method may be called from any thread. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        id: str,
        container: str,
        args: tuple[str, ...],
        handle: ProcessHandle,
        wiring: Wiring,
        announcer: Announcer,
    ) -> None:
        super().__init__(wiring)
        #: Unique among the processes of its container.
        self.id = id
        self._container = container
        self._command = args
        self._handle = handle
        self._announcer = announcer
        self._pid = handle.pid
        self._let_go = False
        # A fork of this program inherits the object, but not the process.
        self._maker = os.getpid()

    @property
    def pid(self) -> int | None:
        """The host's pid; None once its end was noticed."""
        return self._handle.pid if self._exit is None else None

    @property
    def exit(self) -> Exit | None:
        """How it ended; None before, or before that was noticed (`poll`, `wait`)."""
        return self._exit

    def poll(self) -> Exit | None:
        """`wait` without waiting: None while it runs, and after `detach`."""
        if not self._let_go:
            self._glance()
        return self._exit

    def signal(self, number: int | str) -> None:
        """Send it a signal (``15``, ``"SIGTERM"``). Raises `InvalidState` when it has ended."""
        from execdrivers.units import to_signal

        parsed = to_signal(number)
        self.poll()  # what has ended, and was not reaped, would take it without a word
        with self._lock:
            if self._exit is None:
                try:
                    return self._handle.signal(parsed)
                except ProcessLookupError:
                    pass
        raise InvalidState(f"process {self.id!r} has ended and takes no signal", remedy="see its exit: wait()")

    def kill(self) -> None:
        """Kill it, not what it may have started. No error when it has ended."""
        try:
            self.signal("SIGKILL")
        except InvalidState:
            pass

    def detach(self) -> None:
        """Let it run on without this program, until its own end or the container's. Nobody learns its exit then.

        Give it no pipes and no terminal: they close with this program.
        """
        with self._lock:
            self._handle.close()
            self._close_stdio()
            self._let_go = True

    @interrupts.deferring
    def close(self) -> None:
        """Kill it if it still runs, and let go of its streams. May be called twice, and does nothing after `detach`."""
        if self._let_go:
            return
        if not self._over:
            self.kill()
        if not self._over:
            self._supervise(time.monotonic() + DEATH)
        self._handle.close()
        self._close_stdio()
        self._let_go = True

    def _require_start(self) -> None:
        if self._let_go and self._exit is None:
            raise InvalidState(f"process {self.id!r} was let go of", remedy="wait for it before detach()")

    @property
    def _args(self) -> tuple[str, ...]:
        return self._command

    def _hold(self) -> ProcessHandle:
        return self._handle

    def _kill(self) -> None:
        self.kill()

    def _conclude(self, pump: Pump) -> None:
        pump.drain()
        with self._lock:
            try:
                self._exit = self._handle.exit()
            except Exception as error:
                self._exit = Exit(reason="unknown", error=f"{type(error).__name__}: {error}")
            self._handle.close()
        self._announcer.emit("exec_exited", exec=self.id, args=self._command, pid=self._pid, exit=self._exit)

    def __del__(self) -> None:
        if getattr(self, "_maker", None) != os.getpid() or self._let_go or sys.is_finalizing():
            return
        message, running = f"{self!r} was dropped without close()", self._exit is None
        self.close()
        if running:
            import warnings

            warnings.warn(message, ResourceWarning, source=self, stacklevel=2)

    def __enter__(self) -> ExecProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        how = f"stopped: {self._exit}" if self._exit is not None else f"pid={self._handle.pid}"
        return f"<ExecProcess {self.id!r} in {self._container!r} {how}>"


def deadline_after(timeout: float | None) -> float | None:
    """The time (time.monotonic) so many seconds from now; None: never."""
    return None if timeout is None else time.monotonic() + min(timeout, _MAX_TIMEOUT)
