"""The life of a container after its creation: its end, and cleaning up, each exactly once.

`Container` is the public face of this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import interrupts, pidfd
from execdrivers.announce import Announcer
from execdrivers.errors import ContainerNotFound, InvalidState, LaunchError, StoreError
from execdrivers.exit import Exit
from execdrivers.process import DEATH, Process
from execdrivers.pump import Pump
from execdrivers.record import Record
from execdrivers.stdio import Wiring

if TYPE_CHECKING:
    from execdrivers.driver import Handle
    from execdrivers.events import EventType
    from execdrivers.guard import Held
    from execdrivers.registry import Registry
    from execdrivers.spec import ContainerSpec
    from execdrivers.stats import Stats
    from execdrivers.store import Entry
    from execdrivers.watch import Watch

__all__ = ["Supervised"]


class Supervised(Process):
    """One container with its record, its driver's handle and its stdio; for any number of threads."""

    #: Whether other programs may have told of it.
    _shared = False

    def __init__(
        self,
        registry: Registry,
        entry: Entry,
        record: Record,
        *,
        spec: ContainerSpec | None = None,
        handle: Handle | None = None,
        wiring: Wiring | None = None,
        transient: bool = False,
        keep: bool = False,
        held: Held | None = None,
        forget: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(wiring or Wiring())
        self._registry = registry
        self._entry = entry
        self._record = record
        self._spec = spec
        self._handle = handle
        #: Its record goes as soon as it ends.
        self._transient = transient
        #: Its record stays when it has ended, whatever becomes of this program.
        self._keep = keep
        #: What has it end with this program.
        self._held = held
        self._forget = forget
        self._announcer = Announcer(registry, entry.root, record.id, record.driver, transient=transient)
        self._timed_out = False
        self._launch_failure: LaunchError | None = None
        #: Of its last sample, for the record.
        self._used: Mapping[str, Any] | None = None
        self._freed = False
        self._deleted = False
        #: What the journal has of its beginning and its end.
        self._begin_told = self._end_told = False
        #: It was let go of, and lives on without this program.
        self._let_live = False
        self._watch: Watch | None = None
        # A fork of this program inherits the object, but not the container.
        self._maker = os.getpid()

    @property
    def id(self) -> str:
        """Its name in the store."""
        return self._record.id

    @property
    def driver(self) -> str:
        """The name of its driver."""
        return self._record.driver

    @property
    def spec(self) -> ContainerSpec:
        """What it runs, after policy plugins have amended it."""
        if self._spec is None:
            from execdrivers.spec import ContainerSpec

            self._spec = ContainerSpec.from_dict(self._record.spec)
        return self._spec

    def poll(self) -> Exit | None:
        """`wait` without waiting: None while it runs."""
        if self._record.status in ("running", "paused"):
            self._glance()
        return self._exit

    def kill(self) -> None:
        """Kill every process in it. No error when there is none."""
        with self._lock:
            if self._exit is None and not self._deleted:
                self._hold().kill()

    @interrupts.deferring
    def delete(self, force: bool = False) -> None:
        """Free all that it took and forget it. No error when that is done already.

        Raises `InvalidState` while it runs, unless ``force``, which kills it.
        """
        if self._deleted:
            return
        unstarted = self._record.status == "created"
        if self._is_running():
            if not force:
                message = f"container {self.id!r} is running and cannot be deleted"
                raise InvalidState(message, remedy="stop() it before, or delete(force=True)")
            self.kill()
            self._supervise(time.monotonic() + DEATH)
        with self._changing():
            started = unstarted and self._record.status == "running"  # by another thread, meanwhile
            if not started and not self._deleted:
                self._discard()
        if started:
            self.delete(force=force)

    def __del__(self) -> None:
        # At the interpreter's exit nothing is killed or waited for: a container may be meant to live on.
        if getattr(self, "_pumping", None) is None or self._deleted or sys.is_finalizing():
            return
        if os.getpid() == self._maker:
            try:
                self._drop()
            except (OSError, RuntimeError):
                pass
            finally:
                # Not by a finaliser of its own: among what is dropped together that could come before this one.
                self._entry.close()

    @property
    def _lasting(self) -> bool:
        """Whether the engine that made it leaves it when that is closed."""
        if not self._transient and self._record.owner is not None:
            with self._lock, contextlib.suppress(ContainerNotFound, StoreError):
                self._adopt()
        return (self._let_live and self._record.status != "created") or self._keep

    @property
    def _gone(self) -> bool:
        """Whether it was deleted, by this program or another, which may have made one of the same name since."""
        with self._lock:
            # Whoever was killed at removing it may have left the directory; what that is others tell by the record.
            return self._deleted or self._entry.gone or self._entry.blank

    @property
    def _over(self) -> bool:
        return self._exit is not None or self._deleted

    def _kill(self) -> None:
        self.kill()

    def _kill_rest(self) -> None:
        with self._lock:
            self._hold().kill()  # a driver without a pid namespace

    @property
    def _args(self) -> tuple[str, ...]:
        return tuple(self._record.spec.get("args", ()))

    def _describe(self) -> str:
        if self._exit is not None:
            return f"stopped: {self._exit}"
        return "deleted" if self._deleted else self._record.status

    def _hold(self) -> Handle:
        assert self._handle is not None
        return self._handle

    def _require_start(self) -> None:
        self._require_started()

    def _require_started(self) -> None:
        if self._record.status == "created":
            if self._record.state == "stopped":
                message = f"container {self.id!r} has ended before it was started"
                raise InvalidState(message, remedy="delete() it, and create another")
            raise InvalidState(f"container {self.id!r} is not started", remedy="call start() before")
        if self._deleted and self._exit is None:
            raise InvalidState(f"container {self.id!r} is deleted")

    def _is_running(self) -> bool:
        return self.poll() is None and self._record.status in ("running", "paused")

    def _take_state(self, handle: Handle) -> bool:
        """Note what the driver needs to find it again; whether that is news."""
        state = handle.state()
        if state == self._record.handle:
            return False
        self._record.handle = state
        self._record.process = handle.identity()
        return True

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """With the lock; observers are told of what was noted meanwhile when it is let go: they may do anything, also
        with this container. Whoever else holds the lock neither ends it nor waits for its end."""
        try:
            with self._lock:
                yield
        finally:
            self._announcer.tell()

    def _write(self, change: EventType | None = None, **more: Any) -> None:
        """Write the record, and to the journal what has changed it."""
        with self._entry as entry:
            if not entry.gone:
                entry.write(self._record)
            if change is not None:
                self._announcer.note(change, **more)

    def _created(self) -> None:
        """The driver has made it, and its first record is written: unlock the id. On any error all is undone."""
        handle = self._hold()
        try:
            self._attach_terminal(handle, self.spec.console_size)
            with self._entry:
                self._record.status = "created"  # whatever others are told
                self._begin_told = True
                self._announcer.note("created", pid=handle.pid, spec=self._record.spec)
        except BaseException:
            with self._changing():
                self._discard()
            raise
        self._announcer.tell()

    def _conclude(self, pump: Pump) -> None:
        """The first process has ended: take the rest of the output and the exit, free the resources."""
        if not pump.drain():
            self._kill_rest()
            pump.drain()
        with self._changing():
            exit = self._ask_exit()
            self._finish(attrs.evolve(exit, reason="timeout") if self._timed_out else exit)

    def _ask_exit(self) -> Exit:
        """What its driver knows of its end."""
        try:
            if self._record.accounting:
                self._take_final_stats()
            return self._hold().exit()
        except LaunchError as error:
            if self._timed_out:
                return Exit(reason="timeout", signal=signal.SIGKILL)
            self._launch_failure = error
            return error.exit
        except Exception as error:
            # Cleaning up has to go on.
            return Exit(reason="unknown", error=f"{type(error).__name__}: {error}")

    def _raise_launch_failure(self) -> None:
        """Raise what `Handle.go` did not: the command was never executed."""
        error, self._launch_failure = self._launch_failure, None
        if error is not None:
            raise error.with_traceback(None)

    def _take_final_stats(self) -> None:
        """Its first process has ended, and its cgroups are there still."""
        try:
            found = self._hold().stats()
        except Exception as error:
            # Of no use to the caller now; the exit and the cleaning up are.
            import logging

            logging.getLogger("execdrivers").warning("container %r: no stats at the end: %s", self.id, str(error))
        else:
            if found.cpu.source == found.memory.source == "cgroup":  # its processes tell of nothing any more
                self._used = found.to_dict()

    def _final_stats(self) -> Stats | None:
        """What it used in all, where that was asked for; None before the end."""
        if self._record.stats is None:
            return None
        from execdrivers.stats import Stats

        return Stats.from_dict(self._record.stats)

    def _watched(self) -> Watch | None:
        if self._watch is None and self._record.status != "created" and not self._shared and self._announcer.heard:
            from execdrivers.watch import Watch

            with interrupts.deferred():  # each descriptor is somebody's to close
                try:
                    notices = self._hold().notices()
                except OSError:
                    notices = ()
                # These do not refer to the container, which else were freed late when it is dropped.
                announcer = self._announcer
                self._watch = Watch(
                    notices,
                    announcer.emit_oom,
                    lambda: announcer.emit("memory_pressure"),
                )
        return self._watch

    def _finish(self, exit: Exit) -> None:
        """Called with the lock, once."""
        self._exit = exit
        self._record.stats = self._used
        self._record.status = "stopped"
        self._record.finished_at = time.time()
        if self._keep:
            self._record.owner = None
        self._free(remove=self._transient or self._record.remove)

    def expire(self) -> None:
        """Its time is over: kill every process in it. The reason of its exit is ``timeout``."""
        self._timed_out = True
        self.kill()
        self._supervise(time.monotonic() + DEATH)

    def _free(self, *, remove: bool) -> None:
        """Free what the driver took, once; keep the record up to date, or remove it. Called with the lock."""
        heard = self._announcer.heard
        with self._entry as entry:
            try:
                if not self._freed:
                    if self._watch is not None:
                        self._watch.close()
                    # Even if another program has cleaned up already: this closes the descriptors.
                    self._relinquish() if entry.replaced else self._hold().delete()
                    self._freed = True
                    self._record.handle = None
            finally:
                if not (remove and self._freed) and not entry.gone:
                    with contextlib.suppress(StoreError):
                        self._adopt()
                    self._write_last(entry)
                if heard:
                    self._note_end(entry)
                if remove and self._freed:
                    self._remove(entry, heard)
        if self._deleted:
            self._let_go()
        elif self._keep:
            self._unguard()

    def _note_end(self, entry: Entry) -> None:
        """Note its exit, once."""
        if self._exit is not None and not self._end_told:
            self._end_told = True
            self._announcer.note_oom(self._exit.oom_kills, elsewhere=self._shared or self._let_live)
            # Whoever has removed the record has noted it.
            self._announcer.note("exited", exit=self._exit, written=entry.gone)

    def _remove(self, entry: Entry, heard: bool) -> None:
        """Remove the record; only who does that notes it."""
        theirs = entry.gone
        entry.remove()
        self._deleted = True
        if heard and self._begin_told:
            self._announcer.note("deleted", written=theirs)

    def _relinquish(self) -> None:
        """Another program has deleted it, and its name is another container's by now: what goes by it is not ours."""
        handle = self._hold()
        with contextlib.suppress(ProcessLookupError):
            handle.signal(signal.SIGKILL)
        if pidfd.wait(handle.exit_fd, DEATH) and self._exit is None:
            with contextlib.suppress(Exception):
                handle.exit()  # reaps it
        handle.close()

    def _adopt(self) -> None:
        """Take over what other programs may have changed: what it is doing, its limits, that it was let go of.

        Raises `ContainerNotFound` when it was removed, `StoreError`.
        """
        record, live = self._entry.look(), ("running", "paused")
        if record.status in live and self._record.status in live:
            self._record.status = record.status
        if record.spec and record.spec != self._record.spec:
            self._record.spec, self._spec = record.spec, None
        if record.owner is None and self._record.owner is not None and record.status != "creating":
            self._record.owner, self._let_live = None, True
            self._unguard()
        if record.status == "stopped":
            self._end_told = True

    def _write_last(self, entry: Entry) -> None:
        if self._exit is not None:
            self._record.exit = self._exit.to_dict()
        try:
            entry.write(self._record)
        except StoreError as error:
            # The caller gets the exit all the same; to others it is one that nobody saw.
            import logging

            logging.getLogger("execdrivers").warning("%s", str(error))

    def _discard(self) -> None:
        """Free everything and remove the record. Called with the lock."""
        self._record.status = "stopped"
        self._wiring.close_child()
        self._free(remove=True)

    def _unguard(self) -> None:
        """From now on it does not end with this program."""
        if self._held is not None:
            self._held.release()

    def _let_go(self) -> None:
        self._unguard()
        if self._watch is not None:
            self._watch.close()
        self._close_stdio()
        self._entry.close()
        if self._forget is not None:
            self._forget(self)

    def _drop(self) -> None:
        """Nobody refers to it any more."""
        if self._lasting:
            return self._release()
        import warnings

        message = f"{self!r} was dropped without delete()"
        try:
            with self._changing():
                self._free(remove=True)
        finally:
            warnings.warn(message, ResourceWarning, source=self, stacklevel=2)

    def _release(self) -> None:
        """Let go of what this program holds of it; the container lives on."""
        self._release_handle()
        self._let_go()

    def _release_handle(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None and not self._freed:
            handle.close()
