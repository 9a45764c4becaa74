"""One process of a container, for tasks of an event loop: its streams, and the waiting for its end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING

from execdrivers.aio.cancellation import deferred, in_thread, submit
from execdrivers.aio.drive import Drive
from execdrivers.aio.streams import InputStream, OutputStream, first_readable
from execdrivers.errors import ContainerTimeout, InvalidState, SpecError
from execdrivers.process import DEATH, OUTPUT_LIMIT, deadline_after
from execdrivers.streams import Capture, Writer

if TYPE_CHECKING:
    from execdrivers.exit import Exit
    from execdrivers.process import ExecProcess as SyncExecProcess
    from execdrivers.process import Process as SyncProcess
    from execdrivers.watch import Watch

__all__ = ["ExecProcess", "Process", "watched"]


def watched(process: SyncProcess) -> tuple[int, Watch | None]:
    """What the loop has to watch of a process that is started. Takes its time: to be called in a thread."""
    with process._lock:
        return (-1, None) if process._over else (process._awaited(), process._watched())


class Process:
    """What `Container` and `ExecProcess` share. To be used in one event loop, by any number of its tasks."""

    def __init__(self, process: SyncProcess) -> None:
        self._process = process
        self._drive: Drive | None = None
        self._outputs: dict[str, OutputStream] = {}
        self._captures: dict[str, Capture] = {}
        self._stdin: InputStream | None = None
        if process._wiring.kinds.get("stdin") == "pipe":
            self._stdin = InputStream(terminal=process._wiring.stdio.stdin < 0)

    # --- what it is

    @property
    def pid(self) -> int | None:
        """The host's pid; None once its end was noticed."""
        raise NotImplementedError

    @property
    def exit(self) -> Exit | None:
        """How it ended; None before."""
        return self._process._exit

    @property
    def returncode(self) -> int | None:
        """As `asyncio.subprocess.Process.returncode`: the code, or the negative signal; None before the end."""
        return self._process.returncode

    @property
    def stdin(self) -> InputStream | None:
        """Where to write its input, when created with ``stdin=PIPE``."""
        return self._stdin

    @property
    def stdout(self) -> OutputStream | None:
        """Where to read its output, when created with ``stdout=PIPE``. With a terminal: once started."""
        return self._output("stdout")

    @property
    def stderr(self) -> OutputStream | None:
        """Where to read its errors, when created with ``stderr=PIPE``; None with a terminal, which has one stream."""
        return self._output("stderr")

    @property
    def seccomp_listener(self) -> int | None:
        """As of `execdrivers.Container`."""
        return self._process.seccomp_listener

    # --- what can be done with it

    async def wait(self, timeout: float | None = None) -> Exit:
        """Wait for the end. Raises `ContainerTimeout` after ``timeout`` seconds; it then runs on, and so it does when
        the waiting is cancelled.

        What fills a pipe that nobody reads waits too: see `communicate` and `stream`.
        """
        if not await self._ended(timeout):
            assert timeout is not None
            raise ContainerTimeout(self._process._args, timeout)
        return self._result()

    async def poll(self) -> Exit | None:
        """`wait` without waiting: None while it runs."""
        if self._drive is None:
            return await in_thread(self._poll)
        await self._look()
        return self._result() if self._drive.ended.done() else None

    async def kill(self) -> None:
        """Kill it. No error when it has ended."""
        await in_thread(self._process._kill)

    async def communicate(
        self, input: bytes | None = None, timeout: float | None = None, *, output_limit: int | None = OUTPUT_LIMIT
    ) -> tuple[bytes | None, bytes | None]:
        """Write ``input`` to its stdin and read stdout and stderr to the end, of those created as ``PIPE``.

        Of each stream the first ``output_limit`` bytes are kept. After a `ContainerTimeout`, or when cancelled, call it
        again: nothing is lost.
        """
        await self._begin()
        if self._stdin is not None:
            if input and not self._stdin.closed:
                try:
                    self._stdin.write(input)
                except BrokenPipeError:
                    pass  # as with subprocess, a command need not read its input
            self._stdin.close()
        elif input:
            raise SpecError("input", input, "has no way to the container", "create it with stdin=PIPE")
        for name, _ in self._readable():
            self._captures.setdefault(name, Capture(output_limit))
        async for name, data in self.stream(timeout):
            self._captures[name](data)
        out, err = (self._captures[name].value() if name in self._captures else None for name in ("stdout", "stderr"))
        return out, err

    async def stream(self, timeout: float | None = None) -> AsyncIterator[tuple[str, bytes]]:
        """Iterate over the output as it comes, until the end: ``("stdout", b"…")``, of streams created as ``PIPE``.

        Nothing is read ahead of who iterates. Raises `ContainerTimeout` after ``timeout`` seconds.
        """
        deadline = deadline_after(timeout)
        await self._begin()
        streams = dict(self._readable())
        while streams:
            moved = False
            for name, stream in list(streams.items()):
                data = stream.read_now()
                if data:
                    moved = True
                    yield name, data
                elif data is not None:
                    del streams[name]
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0 and not await self._ended(0):
                raise ContainerTimeout(self._process._args, timeout or 0)
            if moved:
                await asyncio.sleep(0)  # others get their turn
            elif streams:
                await first_readable(list(streams.values()), left)
        if not await self._ended(None if deadline is None else max(0.0, deadline - time.monotonic())):
            raise ContainerTimeout(self._process._args, timeout or 0)
        self._result()

    # --- the machinery

    def _poll(self) -> Exit | None:
        raise NotImplementedError

    def _readable(self) -> list[tuple[str, OutputStream]]:
        streams = (("stdout", self.stdout), ("stderr", self.stderr))
        return [(name, stream) for name, stream in streams if stream is not None]

    def _output(self, name: str) -> OutputStream | None:
        process = self._process
        if name not in self._outputs:
            reader = process._wiring.readers.get(name)
            if process._wiring.kinds.get(name) != "pipe" or reader is None or reader.fd < 0:
                return None
            stream = self._outputs[name] = OutputStream(name, reader)
            if self._drive is not None:
                stream.begin()
                if self._drive.ended.done():
                    stream.conclude()
        return self._outputs[name]

    async def _begin(self) -> Drive:
        """Have the loop wait for it, if that is not so yet. Raises `InvalidState` where it is not started."""
        if self._drive is None:

            def find() -> tuple[int, Watch | None]:
                self._process._require_start()
                return watched(self._process)

            found = await in_thread(find)
            if self._drive is None:
                self._start_drive(*found)
        assert self._drive is not None
        if not self._drive.waits and not self._drive.ended.done():
            raise InvalidState(f"{self!r} is of an event loop that was closed", remedy="delete it")
        return self._drive

    def _start_drive(self, exit_fd: int, watch: Watch | None) -> None:
        wiring = self._process._wiring
        if self._stdin is not None and wiring.writer is None and self._process.terminal is not None:
            # A descriptor of its own, for it is closed at the end of the input.
            wiring.writer = Writer(os.dup(self._process.terminal.fileno()), None)
        self._drive = Drive(self._process, exit_fd, self._stdin, watch)
        for stream in self._outputs.values():
            stream.begin()
        self._drive.ended.add_done_callback(self._conclude)

    def _conclude(self, ended: object) -> None:
        if self._stdin is not None:
            self._stdin.conclude()
        for stream in self._outputs.values():
            stream.conclude()

    async def _ended(self, timeout: float | None) -> bool:
        """Wait for the end, so long at the most; whether it has come."""
        drive = await self._begin()
        if timeout is not None and timeout <= 0:
            await self._look()
        if not drive.ended.done():
            await asyncio.wait([drive.ended], timeout=timeout)
        return drive.ended.done()

    def _result(self) -> Exit:
        assert self._drive is not None
        failure, self._drive.failure = self._drive.failure, None
        if failure is not None:
            raise failure
        exit = self._process._exit
        if exit is None:
            raise InvalidState(f"{self!r} is waited for no more", remedy="get it from another engine")
        return exit

    async def _look(self) -> None:
        """Have an end noticed that has come."""
        if self._drive is not None and self._drive.over_now():
            await asyncio.wait([self._drive.looked])

    async def _kill_and_wait(self, patiently: deferred) -> None:
        """Kill it, and wait until that is noticed, ten seconds at the most."""
        await patiently(submit(self._process._kill))
        if self._drive is not None and self._drive.waits:
            await patiently(self._drive.ended, DEATH)

    def _release(self) -> None:
        """The loop is to watch nothing of it any more, for what it watches will be closed."""
        if self._drive is not None:
            self._drive.stop()
        if self._stdin is not None:
            self._stdin.conclude()
        for stream in self._outputs.values():
            stream.end()


class ExecProcess(Process):
    """A process that `Container.exec` has started in a running container; it ends with the container at the latest.

    Use it as an async context manager, or await `close`.
    """

    def __init__(self, process: SyncExecProcess) -> None:
        super().__init__(process)
        self._exec = process
        self._start_drive(process._awaited(), None)

    @property
    def id(self) -> str:
        """Unique among the processes of its container."""
        return self._exec.id

    @property
    def pid(self) -> int | None:
        """The host's pid; None once its end was noticed."""
        return self._exec.pid

    async def signal(self, number: int | str) -> None:
        """Send it a signal (``15``, ``"SIGTERM"``). Raises `InvalidState` when it has ended."""
        await self._look()
        await in_thread(lambda: self._exec.signal(number))

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal, in characters. Raises `InvalidState` where it has none (``tty``)."""
        terminal = self._exec.terminal
        if terminal is None:
            raise InvalidState(f"{self!r} has no terminal", remedy="give it one: exec(…, tty=True)")
        terminal.resize(rows, columns)

    async def close(self) -> None:
        """Kill it if it still runs, and let go of its streams. May be called twice."""
        with deferred() as patiently:
            await self._kill_and_wait(patiently)
            self._release()
            await patiently(submit(self._exec.close))

    def _poll(self) -> Exit | None:
        return self._exec.poll()

    async def __aenter__(self) -> ExecProcess:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not GeneratorExit:  # the loop is gone; what is dropped cleans up by itself
            await self.close()

    def __repr__(self) -> str:
        return f"<aio {repr(self._exec)[1:]}"
