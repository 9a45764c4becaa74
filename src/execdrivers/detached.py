"""A container that outlives the program that made it: a monitor stands by it, and has its output and its exit.

`monitor` has the monitor itself. Who waits for such a container, its maker too, waits for its monitor, and then reads
what that has left. To all but its start its maker has no more to do with it than any other program.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import guard, interrupts, pidfd
from execdrivers.errors import InvalidState, LaunchError, SpecError
from execdrivers.exit import Exit
from execdrivers.monitor.ended import Ended, read_exit
from execdrivers.process import DEATH
from execdrivers.pump import Pump
from execdrivers.record import identity
from execdrivers.recovered import Recovered, removed
from execdrivers.stdio import DEVNULL, PIPE, STDOUT, Input, Output, Wiring, connect
from execdrivers.supervision import Supervised
from execdrivers.terminal import Terminal

if TYPE_CHECKING:
    from execdrivers.driver import Handle, ProcessHandle
    from execdrivers.monitor import Attachment, LogOptions, Monitor
    from execdrivers.monitor.reader import LogReader
    from execdrivers.store import Entry

__all__ = ["Detached", "Standby", "connect_detached"]


@attrs.define
class Standby:
    """What a container's maker holds until it is started: its monitor, and how much is to be logged."""

    monitor: Monitor
    log: LogOptions | None = None
    #: Master of the container's terminal.
    terminal: Terminal | None = None

    @classmethod
    def start(cls, log: LogOptions | None) -> Standby:
        """Start the monitor. Raises `LaunchError`."""
        from execdrivers.monitor import Monitor

        return cls(Monitor.start(), log)

    @property
    def identity(self) -> tuple[int, int] | None:
        """Of the monitor, for the record."""
        return identity(self.monitor.pid)

    def keep(self, container: Detached, handle: Handle, wiring: Wiring, entry: Entry) -> None:
        """Have the monitor stand by the container. Raises `LaunchError`."""
        from execdrivers.monitor import Watch

        assert handle.pid is not None
        notices = handle.notices() if "events" in container._registry.probe(container.driver).features else ()
        command = guard.cleaner()
        journal = _opened_journal(container)
        ends = {name: reader.fd for name, reader in wiring.readers.items()}
        if wiring.writer is not None:
            ends["stdin"] = wiring.writer.fd
        if self.terminal is not None:
            ends = {"terminal": self.terminal.fileno()}
        try:
            self.monitor.keep(
                handle.pid,
                handle.exit_fd,
                entry.fileno(),
                **ends,
                log=self.log,
                events=journal,
                watches=[
                    Watch(each.fd, each.events, each.count_fd, container._announcer.beginning(each.type))
                    for each in (notices if journal >= 0 else ())
                ],
                aftermath=[*command, entry.root, entry.id] if command else (),
                env=guard.environment() if command else {},
            )
        finally:
            if journal >= 0:
                os.close(journal)
            for each in notices:
                each.close()

    def close(self) -> None:
        """Let go of it. One that stands by no container yet ends."""
        self.monitor.close()
        if self.terminal is not None:
            self.terminal.close()


class Detached(Recovered):
    """A container with a monitor. ``standby`` is its maker's."""

    def __init__(self, *args: Any, standby: Standby | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._standby = standby
        self._begin_told = standby is None
        #: Of the monitor; None: not looked for yet, -1: it has ended.
        self._monitor: int | None = None

    # --- its start, by its maker

    @interrupts.deferring
    def start(self) -> None:
        """Execute the command. When that fails the container is deleted and the driver's `LaunchError` raised.

        Raises `InvalidState` in any program but its maker.
        """
        with self._changing():
            standby = self._standby
            if standby is None:
                super().start()  # which refuses
                return
            self._require_created()
            try:
                self._launch_detached(standby, self._hold())
            except BaseException as error:
                standby.monitor.abort()
                self._fail(error)
                raise

    def _launch_detached(self, standby: Standby, handle: Handle) -> None:
        """Whoever notices its end waits for the entry, so that all that begins it comes before."""
        with self._entry as entry:
            standby.keep(self, handle, self._wiring, entry)
            # Whenever this program is killed from here on, others find it as what it is by then.
            self._record.status = "running"
            self._record.started_at = time.time()
            self._record.owner = None
            entry.write(self._record)
            handle.start()
            standby.monitor.channels(handle.channels)
            if self._take_state(handle):
                entry.write(self._record)
            self._announcer.note("started", pid=handle.pid)
        self._unguard()
        self._let_go_of_start(standby, handle)

    def _let_go_of_start(self, standby: Standby, handle: Handle) -> None:
        """From now on its maker is one of many."""
        listener, handle.seccomp_listener = handle.seccomp_listener, None
        self._release_handle()
        if listener is not None:
            self._hold().seccomp_listener = listener
        self._standby = None
        standby.close()
        self._wiring.close()
        self._wiring = Wiring()

    def _attach_terminal(self, handle: ProcessHandle, size: tuple[int, int] | None) -> None:
        if handle.terminal is not None and self._standby is not None:
            self._standby.terminal = Terminal(handle.terminal)
            if size is not None:
                self._standby.terminal.resize(*size)

    # --- its stdio, which its monitor has

    @property
    def stdin(self) -> None:
        """Its monitor has it: see `attach`."""
        return None

    @property
    def stdout(self) -> None:
        """Its monitor has it: see `logs` and `attach`."""
        return None

    @property
    def stderr(self) -> None:
        """Its monitor has it: see `logs` and `attach`."""
        return None

    def _open_log(self, **options: Any) -> LogReader:
        from execdrivers.monitor.reader import LogReader

        with self._lock:
            if self._deleted:
                message = f"container {self.id!r} is deleted, and its log with it"
                raise InvalidState(message, remedy="read it before delete()")
            if self._entry.gone:
                raise removed(self.id)
            # Not by its name, which may be another's by now.
            return LogReader(f"/proc/self/fd/{self._entry.fileno()}/.", writer=self._record.monitor, **options)

    def attach(self) -> Attachment:
        """Connect to its stdio: see `Container.attach`."""
        from execdrivers.monitor import Attachment

        self._require_running(self.state, "be attached to", paused=True)
        return Attachment(self._entry.path)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal: see `Container.resize`."""
        if self._standby is not None and self._standby.terminal is not None:
            self._standby.terminal.resize(rows, columns)
        else:
            with self.attach() as attachment:
                attachment.resize(rows, columns)

    # --- its end

    @property
    def _lasting(self) -> bool:
        return self._standby is None

    def detach(self) -> None:
        """It is."""

    def conclude(self) -> None:
        """Free what it took and record its exit, if it has ended with nobody there to do so."""
        if self._told() is not None:
            pidfd.wait(self._monitor_fd(), DEATH)  # it is about to end
        super().conclude()

    def _drop(self) -> None:
        Supervised._drop(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._standby is not None:
            self.delete(force=True)

    def _require_start(self) -> None:
        if self._standby is not None:
            self._require_started()
        else:
            super()._require_start()

    def _pump(self, deadline: float | None, *, once: bool) -> bool:
        if self.exit is not None:
            return True
        wait: Callable[[Pump], bool] = lambda pump: pump.step(deadline) if once else pump.run(deadline)  # noqa: E731
        if not once:
            self._first()  # the kernel may tell its end where others remove what the monitor has left
        if (monitor := self._monitor_fd()) >= 0 and not wait(Pump(monitor, ())):
            return False
        # One that was killed has left no word; its container may run on.
        if self._told() is None and not wait(Pump(self._first(), ())):
            return False
        with interrupts.deferred():
            self._conclude(Pump(-1, ()))
        return True

    def _awaited(self) -> int:
        """Its monitor's; where that was killed, and has left no word, that of its first process."""
        if (monitor := self._monitor_fd()) >= 0 and not pidfd.wait(monitor, 0):
            return monitor
        return self._first() if self._told() is None else -1

    def _conclude(self, pump: Pump) -> None:
        """Its monitor knows best how it ended; why, and where the monitor was killed all of it, its driver."""
        with self._changing():
            if self._over:
                return  # another thread has deleted it
            told = self._told()
            exit = self._ask_exit()
            if told is not None and not told.started:
                error = "the program that made it was killed as it started it"
                exit = Exit(reason="launch-failed", code=LaunchError.exit_code, error=error)
            elif told is not None and (told.status is not None or told.oom_kills):
                status = _status_of(exit) if told.status is None else told.status
                kills = max(exit.oom_kills, told.oom_kills or 0)
                exit = Exit.from_wait_status(status, oom_kills=kills)
            self._finish(attrs.evolve(exit, reason="timeout") if self._timed_out else exit)

    def _told(self) -> Ended | None:
        """What the monitor has left."""
        return read_exit(f"/proc/self/fd/{self._entry.fileno()}")

    def _monitor_fd(self) -> int:
        """A pidfd of the monitor; -1 when it has ended."""
        with self._lock:
            if self._monitor is None:
                fd = pidfd.open_checked(*self._record.monitor) if self._record.monitor else None
                self._monitor = -1 if fd is None else fd
            return self._monitor

    def _free(self, *, remove: bool) -> None:
        if remove:
            self._end_monitor()
        super()._free(remove=remove)

    def _end_monitor(self) -> None:
        """Before its directory is removed: it would write there."""
        if self._standby is not None:
            self._standby.monitor.abort()
        elif (fd := self._monitor_fd()) >= 0 and not pidfd.wait(fd, 0):
            try:
                pidfd.send_signal(fd, signal.SIGKILL)
            except ProcessLookupError:
                return
            pidfd.wait(fd, DEATH)

    def _let_go(self) -> None:
        super()._let_go()
        if self._standby is not None:
            self._standby.close()
        fd, self._monitor = self._monitor, -1
        if fd is not None and fd >= 0:
            os.close(fd)


def _opened_journal(container: Detached) -> int:
    """Where its monitor is to tell of it; -1 where there can be no journal, which keeps no container from running."""
    try:
        return os.open(container._announcer.journal.prepare(), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def _status_of(exit: Exit) -> int | None:
    """As wait(2) would have it."""
    if exit.signal is not None:
        return exit.signal
    return None if exit.code is None else exit.code << 8


def connect_detached(stdin: Input, stdout: Output, stderr: Output, *, tty: bool) -> Wiring:
    """As `connect`, for a container that outlives this program: what is a pipe is its monitor's.

    Without anything given, its input is empty and its output is logged. Raises `SpecError` for what needs this program.
    """
    for name, given in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
        if given is not None and not isinstance(given, int) and not _has_descriptor(given):
            problem = "ends with this program, which the container is to outlive"
            remedy = "give a file, PIPE or DEVNULL; attach() writes to a PIPE, logs() reads what goes to one"
            raise SpecError(name, given, problem, remedy)
    if tty and not all(_is_plain(given) for given in (stdin, stdout)):
        problem = "cannot be copied from or to a terminal that its monitor holds"
        raise SpecError("stdin or stdout", (stdin, stdout), problem, "leave it out, and use attach() and logs()")
    stdin = DEVNULL if stdin is None else stdin
    wiring = connect(stdin, PIPE if stdout is None else stdout, PIPE if stderr is None else stderr, tty=tty)
    for name in ("stdout", "stderr"):
        if wiring.kinds[name] == "pipe":
            wiring.kinds[name] = "log"
    return wiring


def _is_plain(given: object) -> bool:
    return given is None or (isinstance(given, int) and given in (PIPE, DEVNULL, STDOUT))


def _has_descriptor(given: Any) -> bool:
    try:
        return isinstance(given.fileno(), int)
    except (AttributeError, OSError):
        return False
