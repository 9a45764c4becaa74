"""`Container`: the live handle of one container made by this program."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

from execdrivers.errors import ContainerTimeout, InvalidState, LaunchError, SpecError
from execdrivers.exit import Exit
from execdrivers.pump import Pump
from execdrivers.record import State
from execdrivers.streams import END_OF_INPUT, Capture, Source, Writer
from execdrivers.supervision import Supervised, deadline_after

if TYPE_CHECKING:
    from execdrivers.terminal import Terminal

__all__ = ["OUTPUT_LIMIT", "Container"]

#: Bytes kept of each captured stream unless the caller says otherwise; the rest is read and dropped.
OUTPUT_LIMIT = 64 << 20


class Container(Supervised):
    """A container: `Engine.create` makes one, `Engine.get` finds one again.

    Every method may be called from any thread. Use it as a context manager, or call `delete`, lest it outlive its use.
    """

    # --- what it is

    @property
    def name(self) -> str:
        """Another word for `id`."""
        return self._record.id

    @property
    def guarantees(self) -> Mapping[str, Any]:
        """What is in force, as its driver reports."""
        return self._record.guarantees

    @property
    def stdio(self) -> Mapping[str, str]:
        """stdin, stdout and stderr, and what each is connected to."""
        return self._record.stdio

    @property
    def created_at(self) -> float | None:
        """Seconds since the epoch."""
        return self._record.created_at

    @property
    def started_at(self) -> float | None:
        """Seconds since the epoch; None before."""
        return self._record.started_at

    @property
    def finished_at(self) -> float | None:
        """When its end was noticed, in seconds since the epoch; None before."""
        return self._record.finished_at

    @property
    def state(self) -> State:
        """``created``, ``running`` or ``stopped``, as of now."""
        self.poll()
        return self._record.status

    @property
    def pid(self) -> int | None:
        """The host's pid of the first process; None once its end was noticed."""
        handle = self._handle
        return handle.pid if handle is not None and self._exit is None and not self._deleted else None

    @property
    def exit(self) -> Exit | None:
        """How it ended; None before, or before that was noticed (`poll`, `wait`)."""
        return self._exit

    @property
    def returncode(self) -> int | None:
        """As `subprocess.Popen.returncode`: the code, or the negative signal; None before the end was noticed."""
        return self._exit.returncode if self._exit is not None else None

    @property
    def stdin(self) -> IO[bytes] | Terminal | None:
        """Where to write its input, when created with ``stdin=PIPE``."""
        if self._record.stdio.get("stdin") != "pipe":
            return None
        if self._terminal is not None:
            return self._terminal
        writer = self._wiring.writer
        return writer.file if writer is not None and writer.source is None else None

    @property
    def stdout(self) -> IO[bytes] | Terminal | None:
        """Where to read its output, when created with ``stdout=PIPE``."""
        if self._record.stdio.get("stdout") != "pipe":
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
        """Its terminal, when the spec asks for a ``tty``."""
        return self._terminal

    # --- what can be done with it

    def start(self) -> None:
        """Execute the command. When that fails the container is deleted and the driver's `LaunchError` raised."""
        with self._lock:
            if self._record.status != "created" or self._deleted:
                message = f"container {self.id!r} is {self._describe()} and cannot be started"
                raise InvalidState(message, remedy="a container starts once: create another")
            handle = self._hold()
            try:
                self._wiring.push_early()
                handle.start()
                self._wiring.close_child()
                self._attach_terminal(handle)
                self._record.status = "running"
                self._record.started_at = time.time()
                # A transient one's record says so already, unless its driver makes the process only now.
                changed = self._take_state(handle)
                if changed or not self._transient:
                    self._write()
            except BaseException as error:
                unforeseen = Exit(reason="launch-failed", code=LaunchError.exit_code, error=str(error))
                self._exit = error.exit if isinstance(error, LaunchError) else unforeseen
                self._emit("exited", exit=self._exit)
                self._discard()
                raise
        self._emit("started", pid=handle.pid)

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait for the end, moving what goes to callbacks meanwhile, and free what it took; the record stays.

        Raises `ContainerTimeout` after ``timeout`` seconds; the container then runs on. A container that fills a pipe
        which nobody reads waits too: see `communicate` and `stream`.
        """
        self._require_start()
        if not self._supervise(deadline_after(timeout)):
            raise ContainerTimeout(self._args, cast(float, timeout))
        return cast(Exit, self._exit)

    def signal(self, number: int | str) -> None:
        """Send a signal (``15``, ``"SIGTERM"``) to the first process. Raises `InvalidState` when it has ended."""
        from execdrivers.units import parse_signal

        try:
            parsed = parse_signal(number)
        except SpecError as error:
            raise error.within("signal") from None
        with self._lock:
            if self._exit is None and not self._deleted:
                try:
                    return self._hold().signal(cast(signal.Signals, parsed))
                except ProcessLookupError:
                    pass
        raise InvalidState(f"container {self.id!r} has ended and takes no signal", remedy="see its exit: wait()")

    def stop(self, timeout: float = 10) -> Exit:
        """Ask it to end (the spec's ``stop_signal``, or SIGTERM), and kill it after ``timeout`` seconds."""
        self._require_start()
        if self._exit is None:
            try:
                self.signal(self.spec.stop_signal or signal.SIGTERM)
            except InvalidState:
                pass  # it ended just now
            if not self._supervise(deadline_after(timeout)):
                self.kill()
        return self.wait()

    def pids(self) -> Sequence[int]:
        """The host's pids of all processes in it. Raises `UnsupportedFeature` where its driver cannot tell."""
        with self._lock:
            return () if self._exit is not None or self._deleted else self._hold().pids()

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

    def detach(self) -> None:
        """Let it live on without this program, which then need not `delete` it. `Engine.get` finds it again.

        Give it no pipes: they close with this program.
        """
        with self._lock:
            self._detached = True
            if not self._deleted:
                # From now on who finds it ended may clean up.
                self._record.owner = None
                self._write()

    def _feed(self, input: bytes | None) -> None:
        wiring = self._wiring
        if self._record.stdio.get("stdin") != "pipe":
            if input:
                raise SpecError("input", input, "has no way to the container", "create it with stdin=PIPE")
            return
        if self._terminal is not None and wiring.writer is None and input is not None:
            wiring.writer = Writer(os.dup(self._terminal.fileno()), None)
        if wiring.writer is not None and wiring.writer.source is None:
            wiring.writer.feed(Source(input or b"", end=END_OF_INPUT if self._terminal else b""))

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.delete(force=True)

    def __repr__(self) -> str:
        return f"<Container {self.id!r} driver={self.driver} {self._describe()}>"
