"""`Container`: the live handle of one container made by this program."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from execdrivers import interrupts, pidfd
from execdrivers.driver import ExecRequest
from execdrivers.errors import (
    ContainerNotFound,
    InvalidState,
    LaunchError,
    OperationError,
    SpecError,
    StoreError,
)
from execdrivers.exit import Exit
from execdrivers.process import ExecProcess, deadline_after
from execdrivers.record import State
from execdrivers.stdio import Input, Output, connect
from execdrivers.supervision import Supervised

if TYPE_CHECKING:
    from signal import Signals

    from execdrivers.driver import Handle
    from execdrivers.events import EventType
    from execdrivers.monitor import Attachment, LogEntry
    from execdrivers.monitor.reader import LogReader
    from execdrivers.spec import Capabilities, ContainerSpec, Resources
    from execdrivers.stats import Stats

__all__ = ["Container"]


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
        """``created``, ``running``, ``paused`` or ``stopped``, as of now."""
        if self.poll() is None:
            with self._lock, contextlib.suppress(ContainerNotFound, StoreError):
                self._refresh()
        return self._known_state

    @property
    def _known_state(self) -> State:
        """As of the last look."""
        return self._record.state if self._record.status == "created" else self._record.status

    def _seen_state(self) -> State:
        """As this program has made it, or sees it end: others' doings are in the record alone."""
        if not self._seen_alive:
            self.poll()
        return self._known_state

    @property
    def _seen_alive(self) -> bool:
        """Whether what we hold of it has not ended."""
        handle = self._handle
        return handle is not None and not self._over and not pidfd.wait(handle.exit_fd, 0)

    @property
    def pid(self) -> int | None:
        """The host's pid of the first process; None once its end was noticed."""
        return self._known_pid

    @property
    def _known_pid(self) -> int | None:
        handle = self._handle
        return handle.pid if handle is not None and self._exit is None and not self._deleted else None

    @property
    def detached(self) -> bool:
        """Whether it was created so, and outlives its maker once it is started."""
        return self._record.detached

    @property
    def exit(self) -> Exit | None:
        """How it ended; None before, or before that was noticed (`poll`, `wait`)."""
        return self._exit

    # --- what can be done with it

    @interrupts.deferring
    def start(self) -> None:
        """Execute the command. When that fails the container is deleted and the driver's `LaunchError` raised."""
        self._start()

    def _start(self, *, go: bool = False) -> None:
        """``go``: need not know when the command is executed. When that fails it is noticed as its end is, and
        `_raise_launch_failure` raises."""
        with self._changing():
            self._require_created()
            handle = self._hold()
            try:
                self._wiring.push_early()
                if go and not self._announcer.heard:
                    handle.go()
                else:
                    handle.start()
                self._wiring.close_child()
                self._attach_terminal(handle, self.spec.console_size)
                self._record.started_at = time.time()
                self._record.status = "running"
                # A transient one's record says so already, unless its driver makes the process only now.
                changed = self._take_state(handle)
                if changed or not self._transient:
                    if self._let_live:
                        self._record.owner = None
                    self._write("started", pid=handle.pid)
                else:
                    self._announcer.note("started", pid=handle.pid)
            except BaseException as error:
                self._fail(error)
                raise
            if self._let_live:
                self._unguard()

    def _require_created(self) -> None:
        if not self._deleted and self._entry.gone:
            message = f"container {self.id!r} was removed by another program"
            raise InvalidState(message, remedy="delete() it, and create another")
        if self._record.status != "created" or self._deleted:
            message = f"container {self.id!r} is {self._describe()} and cannot be started"
            raise InvalidState(message, remedy="a container starts once: create another")

    def _fail(self, error: BaseException) -> None:
        """It could not be started: nothing of it remains."""
        unforeseen = Exit(reason="launch-failed", code=LaunchError.exit_code, error=str(error))
        self._exit = error.exit if isinstance(error, LaunchError) else unforeseen
        self._discard()

    def signal(self, number: int | str, *, all: bool = False) -> None:
        """Send a signal (``15``, ``"SIGTERM"``) to the first process, or to ``all``.

        All are those of one moment, for which they stand still where the driver can pause; elsewhere those that are
        forked meanwhile get it too. An ``init`` gets none then, since it would pass it on once more.

        Raises `InvalidState` when it has ended; with ``all`` also before it runs, `UnsupportedFeature` where its driver
        cannot list processes, `OperationError` where one lets no signal through, or forks faster than it is caught.
        """
        from execdrivers.units import to_signal

        parsed = to_signal(number)
        if all:
            return self._signal_all(parsed)
        self.poll()  # what has ended, and was not reaped, would take it without a word
        with self._lock:
            if self._exit is None and not self._deleted:
                try:
                    return self._hold().signal(parsed)
                except ProcessLookupError:
                    self._require_started()  # some drivers make the process only at the start
        raise InvalidState(f"container {self.id!r} has ended and takes no signal", remedy="see its exit: wait()")

    @interrupts.deferring
    def _signal_all(self, number: Signals) -> None:
        from execdrivers.broadcast import signal_all

        asked = "signal(all=True)"
        self._require({"signal": asked, "pids": asked})
        with self._operating("be signalled as a whole", paused=True) as handle:
            if number == signal.SIGKILL:
                return handle.kill()
            spare = handle.pid if self.spec.init else None
            if self._record.status == "paused":
                return signal_all(handle, number, still=True, spare=spare)
            if "pause" not in self._registry.probe(self.driver).features:
                return signal_all(handle, number, still=False, spare=spare)
            # The record tells of the pause, should this program not live to end it.
            self._changed("paused")
            try:
                try:
                    handle.pause()
                    signal_all(handle, number, still=True, spare=spare)
                finally:
                    handle.resume()
            except OperationError:
                if not pidfd.wait(handle.exit_fd, 0):  # else it ended meanwhile, and has nobody to be signalled
                    raise
            finally:
                self._changed("running")

    def logs(
        self,
        *,
        follow: bool = False,
        since: float | None = None,
        until: float | None = None,
        tail: int | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> Iterator[LogEntry]:
        """What a detached container has written, as its monitor has logged it.

        ``since`` and ``until`` (seconds since the epoch) leave out entries by their time, ``tail`` all but so many
        lines at the end. ``follow`` waits for more, until the container has ended or is gone, or ``until`` is past.
        Raises `InvalidState` for a container that is not detached, whose output goes to its maker, and for one that is
        deleted; `ContainerNotFound` when another program removed it; `StoreError`.
        """
        return iter(self._open_log(follow=follow, since=since, until=until, tail=tail, stdout=stdout, stderr=stderr))

    def _open_log(self, **options: Any) -> LogReader:
        raise self._not_detached("has no log")

    def attach(self) -> Attachment:
        """Connect to the stdio of a detached container: see `execdrivers.monitor.Attachment`.

        Raises `InvalidState` when it has ended, when sixteen are attached already, or for a container that is not
        detached; `StoreError` when this program may not.
        """
        raise self._not_detached("cannot be attached to")

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal, in characters. Raises `InvalidState` when there is none, or none any more."""
        if self._terminal is None:
            raise InvalidState(f"container {self.id!r} has no terminal that this program could resize")
        self._terminal.resize(rows, columns)

    def _not_detached(self, what: str) -> InvalidState:
        message = f"container {self.id!r} is not detached and {what}"
        return InvalidState(message, remedy="create it with detach=True")

    def stop(self, timeout: float | None = 10, *, signal: int | str | None = None) -> Exit:
        """Ask it to end by a signal (the spec's ``stop_signal``, or SIGTERM), and kill it after ``timeout`` seconds.

        None: it is never killed. One that is paused is resumed, lest it hear nothing.
        """
        self._require_start()
        if self.state != "stopped":
            try:
                self.signal(signal if signal is not None else self.spec.stop_signal or "SIGTERM")
                if self.state == "paused":
                    self.resume()
            except InvalidState:
                pass  # it ended just now
            if not self._supervise(deadline_after(timeout)):
                self.kill()
        return self.wait()

    def pids(self) -> Sequence[int]:
        """The host's pids of all processes in it. Raises `UnsupportedFeature` where its driver cannot tell."""
        self._require({"pids": "pids"})
        with self._lock:
            return () if self._exit is not None or self._deleted else self._hold().pids()

    def stats(self) -> Stats:
        """What it uses now: processor time, memory, processes, block I/O, network, pressure.

        Once it has ended: what it used in all, where it was created with ``accounting``, or detached.

        Raises `InvalidState` where nothing is known after its end; `UnsupportedFeature` where its driver cannot tell.
        """
        self._require({"stats": "stats"})
        if self.state != "stopped":
            with self._lock:
                if not self._over:
                    handle = self._hold()
                    found = handle.stats()
                    if not pidfd.wait(handle.exit_fd, 0):
                        return found
            self.poll()  # it ended meanwhile, and the sample is perhaps of half of it
        if (final := self._final_stats()) is not None:
            return final
        now = self._describe() if self._over else "ending"  # another thread waits for it, and will tell
        remedy = "create it with accounting=True, or take samples while it runs"
        raise InvalidState(f"container {self.id!r} is {now} and uses nothing", remedy=remedy)

    def exec(
        self,
        args: Iterable[str],
        *,
        env: Mapping[str, str] | Iterable[str] | None = None,
        cwd: str | None = None,
        user: str | int | None = None,
        additional_gids: Iterable[int] | None = None,
        tty: bool = False,
        console_size: tuple[int, int] | None = None,
        capabilities: Capabilities | Mapping[str, Any] | None = None,
        no_new_privileges: bool | None = None,
        umask: int | str | None = None,
        rlimits: Mapping[str, Any] | None = None,
        stdin: Input = None,
        stdout: Output = None,
        stderr: Output = None,
    ) -> ExecProcess:
        """Run one more process in it, in its namespaces and cgroups and within its limits; returns once that runs.

        The arguments are those of a spec, and of `Engine.create`. ``env`` is added to the container's own; whatever
        else is not given is as for the first process. Policy plugins see the spec that comes of it.

        Raises `InvalidState` unless the container runs; `UnsupportedFeature` where its driver cannot; `LaunchError`
        (`CommandNotFound`, `CommandNotExecutable`) when the command could not be run, and nothing is left then.
        """
        changes: dict[str, Any] = {
            "cwd": cwd,
            "user": user,
            "additional_gids": additional_gids,
            "capabilities": capabilities,
            "no_new_privileges": no_new_privileges,
            "umask": umask,
            "rlimits": rlimits,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        self._settle()
        if user is not None:
            changes.setdefault("additional_gids", None)  # another user has other groups
        if env is not None:
            changes["env"] = {**self.spec.env, **self.spec.replace(env=env).env}
        spec = self.spec.replace(args=args, tty=tty, console_size=console_size, init=False, **changes)
        spec = self._amended(spec, "exec")
        return interrupts.whole(lambda: self._exec(spec, stdin, stdout, stderr), ExecProcess.close)

    def _exec(self, spec: ContainerSpec, stdin: Input, stdout: Output, stderr: Output) -> ExecProcess:
        wiring = connect(stdin, stdout, stderr, tty=spec.tty)
        try:
            with self._beginning("take another process") as admit:
                container = self._handle
                late: Callable[[], Handle] | None = admit
                if container is None or not container.admits:
                    container, late = admit(), None
                request = ExecRequest(
                    id=os.urandom(6).hex(),
                    spec=spec,
                    stdio=wiring.stdio,
                    directory=self._entry.path,
                    admit=late,
                )
                handle = container.exec(request)
                self._announcer.note("exec_started", exec=request.id, args=spec.args, pid=handle.pid)
        except BaseException:
            wiring.close()
            raise
        wiring.close_child()
        process = ExecProcess(request.id, self.id, spec.args, handle, wiring, self._announcer)
        process._attach_terminal(handle, spec.console_size)
        return process

    @interrupts.deferring
    def pause(self) -> None:
        """Freeze all its processes; on return they stand still. `resume` lets them go on.

        Raises `InvalidState` unless it runs; `UnsupportedFeature` where its driver cannot; `OperationError`.
        """
        self._require({"pause": "pause"})
        with self._operating("be paused") as handle:
            # The record tells of the pause, should this program not live to tell what came of it.
            self._changed("paused")
            try:
                handle.pause()
                if handle.pid is None or pidfd.is_ending(handle.pid):
                    handle.resume()  # frozen, cgroup v1 would hold it for good
                    raise InvalidState(f"container {self.id!r} is ending and cannot be paused", remedy="wait()")
                self._changed("paused", "paused")
            except BaseException:
                with contextlib.suppress(StoreError):
                    self._changed("running")
                raise

    @interrupts.deferring
    def resume(self) -> None:
        """Let it go on. Raises as `pause` does; no error when it is not paused."""
        self._require({"pause": "resume"})
        with self._operating("be resumed", paused=True) as handle:
            paused = self._record.status == "paused"
            handle.resume()
            self._changed("running", "resumed" if paused else None)

    @interrupts.deferring
    def update(self, resources: Resources | None = None, **limits: Any) -> None:
        """Change limits while it runs: fields of `Resources`, as a whole or as keywords; those not given stay.

        Policy plugins see the spec that comes of it. Raises `SpecError`; `InvalidState` unless it runs;
        `UnsupportedFeature` where its driver cannot; `OperationError` when the kernel refuses a value.
        """
        from execdrivers.spec import Resources

        given = dict((resources or Resources()).given()) | limits
        if not given:
            raise SpecError("resources", {}, "asks for no change", "give a limit, as memory='64M'")
        self._settle()
        with self._operating("be updated", paused=True) as handle:
            current = dict(self.spec.resources.given())
            if "cpus" in given:
                current.pop("cpu_quota", None)
                current.pop("cpu_period", None)
            elif "cpu_quota" in given or "cpu_period" in given:
                current.pop("cpus", None)
            wanted = self.spec.replace(resources=Resources(**current | given))
            amended = self._amended(wanted, "update")
            after = dict(amended.resources.given())
            changes = {name: value for name, value in after.items() if name in given or value != current.get(name)}
            if "memory" in changes or "memory_swap" in changes:  # the one includes the other
                changes |= {name: after.get(name) for name in ("memory", "memory_swap")}
            handle.update(Resources(**changes))
            self._spec, self._record.spec = amended, amended.to_dict()
            self._changed(self._record.status, "updated", spec=self._record.spec)

    def _amended(self, spec: ContainerSpec, feature: str) -> ContainerSpec:
        """The spec as policy will have it, if its driver can do that to a live container."""
        from execdrivers.features import required

        spec = self._registry.amend(spec, self.driver)
        self._require({feature: feature, **required(spec)})
        return spec

    @contextlib.contextmanager
    def _operating(self, what: str, *, paused: bool = False) -> Iterator[Handle]:
        """Its driver's hold on it, for what changes it: as recorded by now, and alone among all threads and programs.

        Raises `InvalidState` unless it runs, or is paused where that will do, or when it ends meanwhile.
        """
        with self._beginning(what, paused=paused) as admit:
            yield admit()

    @contextlib.contextmanager
    def _beginning(self, what: str, *, paused: bool = False) -> Iterator[Callable[[], Handle]]:
        """As `_operating`, alone among all threads; among all programs, as recorded, once what it yields is called."""
        if self._seen_state() != "running":  # others may have changed that
            self._require_running(self.state, what, paused=paused)
        with self._changing(), contextlib.ExitStack() as stack:
            self._require_running(self._record.status, what, paused=paused)  # not deleted by another thread meanwhile

            def admit() -> Handle:
                stack.enter_context(self._entry)
                self._refresh()
                self._require_running(self._record.status, what, paused=paused)
                return self._hold()

            try:
                yield admit
            except (LaunchError, OperationError) as error:
                handle = self._handle
                if handle is None or (handle.pid is not None and not pidfd.is_ending(handle.pid)):
                    raise
                # Whatever it is that failed first; without its traceback, which would refer to itself by this
                # generator from Python 3.12 on, and keep open what our callers hold.
                message = f"container {self.id!r} is ending and cannot {what}"
                raise InvalidState(message, remedy="create another") from error.with_traceback(None)

    def _require(self, asked: Mapping[str, str]) -> None:
        """Raises `UnsupportedFeature` unless its driver has these features (feature → what asks for it)."""
        self._settle()
        self._registry.require(self.driver, asked)

    def _settle(self) -> None:
        """See to it that its driver and spec are known."""

    def _refresh(self) -> None:
        """Take over what other programs have recorded of it since. Raises `ContainerNotFound` when one removed it."""
        if not self._deleted and self._exit is None and self._record.status in ("running", "paused"):
            self._adopt()

    def _require_running(self, state: State, what: str, *, paused: bool = False) -> None:
        if state == "paused" and not paused:
            raise InvalidState(f"container {self.id!r} is paused and cannot {what}", remedy="resume() it before")
        if state not in ("running", "paused") or self._over:
            remedy = "start() it before" if state == "created" else "create another"
            raise InvalidState(f"container {self.id!r} is {self._describe()} and cannot {what}", remedy=remedy)

    def _changed(self, status: State, change: EventType | None = None, **more: Any) -> None:
        """Its driver has done something to it."""
        self._record.status = status
        self._take_state(self._hold())
        self._write(change, **more)

    @interrupts.deferring
    def detach(self) -> None:
        """Let it live on without this program, which then need not `delete` it. `Engine.get` finds it again.

        One that is not started yet is let go of as it is started. Give it no pipes: they close with this program.
        """
        with self._lock:
            self._let_live = True
            if self._record.status == "created":
                return  # nobody else can start it, so that without its maker it is garbage
            if not self._deleted:
                with self._entry:
                    with contextlib.suppress(ContainerNotFound, StoreError):
                        self._adopt()  # what others have recorded stays
                    # From now on who finds it ended may clean up.
                    self._record.owner = None
                    self._write()
        self._unguard()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.delete(force=True)

    def __repr__(self) -> str:
        return f"<Container {self.id!r} driver={self.driver} {self._describe()}>"
