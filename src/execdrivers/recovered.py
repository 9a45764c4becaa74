"""A container that another program has made, or this one before a crash, found again by its record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from execdrivers import interrupts, pidfd
from execdrivers.container import Container
from execdrivers.errors import ContainerNotFound, ExecDriverError, InvalidState
from execdrivers.exit import Exit
from execdrivers.process import DEATH
from execdrivers.store import damaged

if TYPE_CHECKING:
    from execdrivers.driver import Handle
    from execdrivers.pump import Pump
    from execdrivers.record import Record, State
    from execdrivers.registry import Registry
    from execdrivers.store import Entry

__all__ = ["Recovered", "removed"]

#: Seconds that the program that made a container is given to record its end, of which it knows most.
_PATIENCE = 0.5
_GLANCE = 0.005


class Recovered(Container):
    """A container made elsewhere. Its driver is asked for a handle only when something is to be done with it."""

    _shared = True
    #: The state that its handle was made of.
    _source: Mapping[str, Any] | None = None

    def __init__(self, registry: Registry, entry: Entry, record: Record, **options: Any) -> None:
        super().__init__(registry, entry, record, **options)
        self._begin_told = True
        self._note(record)

    def kill(self) -> None:
        """Kill every process in it. No error when there is none."""
        with contextlib.suppress(ContainerNotFound):
            self._refresh()
            super().kill()

    @property
    def state(self) -> State:
        """As of now, also when others start or end it."""
        if self._exit is None and not self._deleted:
            self._look()
        return self._known_state

    @property
    def _known_state(self) -> State:
        return self._record.state

    def _seen_state(self) -> State:
        # Without a hold on it the record tells, and none is taken for that.
        return self._record.status if self._seen_alive else self.state

    @property
    def exit(self) -> Exit | None:
        """How it ended, as far as its maker or we know; None before."""
        if self._exit is None:
            self._look()
        return self._exit

    @property
    def pid(self) -> int | None:
        """The host's pid of the first process; None after the end."""
        if self._exit is None:
            self._look()
        return self._known_pid

    @property
    def _known_pid(self) -> int | None:
        record = self._record
        return record.process[0] if record.process and record.state not in ("creating", "stopped") else None

    @property
    def owned(self) -> bool:
        """Whether the program that made it still lives, and will clean up after it."""
        return self._record.owned

    def start(self) -> None:
        """Only its maker can. Raises `InvalidState`."""
        with self._lock:
            if not self._deleted:
                self._look()
            self._require_created()
        message = f"container {self.id!r} was made by another program and cannot be started by this one"
        raise InvalidState(message, remedy="only its maker has its stdio: create another")

    @interrupts.deferring
    def detach(self) -> None:
        """Let it live on without its maker. Raises `InvalidState` before it is started, since only that one can."""
        with self._lock, self._entry as entry:
            if self._look() is not None:
                self._require_started()
                self._record.owner = None
                entry.write(self._record)

    def conclude(self) -> None:
        """Free what it took and record its exit, if it has ended with nobody there to do so."""
        record = self._look()
        if record is None or record.state != "stopped":
            return  # who makes it has it locked
        with self._changing(), self._entry:
            record = self._look()
            if record is None or record.owned or record.state != "stopped":
                return
            if record.status == "stopped" and record.handle is not None:  # who freed it did not come to its end
                self._free(remove=record.remove)
        if record.status in ("running", "paused"):
            self._supervise(time.monotonic() + DEATH)

    def _describe(self) -> str:
        text = super()._describe()
        return self._record.state if text == self._record.status else text

    def _look(self) -> Record | None:
        """Read the record anew; None when it was removed meanwhile."""
        with self._lock:
            if self._deleted:
                return None  # by another thread
            try:
                record = self._entry.read()
            except ContainerNotFound:
                return None
            self._note(record)
            return record

    def _note(self, record: Record) -> None:
        if record.status == "creating" and self._record.status != "creating":
            return  # it is being removed; what is known of it stays
        if record.spec != self._record.spec:
            self._spec = None  # another program has changed its limits
        self._record = record
        if record.status == "stopped":
            self._end_told = True
            self._exit = self._exit or record.ended or Exit(reason="unknown")

    def _hold(self) -> Handle:
        with self._lock:
            if (
                self._handle is not None
                and self._handle.exit_fd < 0
                and self._source not in (None, self._record.handle)
            ):
                self._release_handle()  # of a time before its first process was made
            if self._handle is None:
                self._settle()
                if self._exit is not None and self._record.handle is None:
                    raise InvalidState(f"container {self.id!r} has ended", remedy="see its exit: wait()")
                driver = self._registry.get(self.driver)
                with self._sensible():
                    self._source = self._record.handle
                    self._handle = driver.recover(self.id, self._record.handle or {}, self._entry.path)
            return self._handle

    def _sensible(self) -> _Sensible:
        return _Sensible(self.id, f"{self._entry.path}/state.json")

    def _settle(self) -> None:
        self._await_maker("try again in a moment; when its maker has crashed: delete()")

    def _refresh(self) -> None:
        self._settle()
        record = self._look()
        if record is None or record.status == "creating":
            raise removed(self.id)

    def _await_maker(self, remedy: str) -> None:
        """Give who makes it a moment, or removes it: either way there is no record for that long.

        Raises `InvalidState` when it takes longer, `ContainerNotFound`.
        """
        deadline = time.monotonic() + _PATIENCE
        while self._record.status == "creating":
            if self._look() is None:
                raise removed(self.id)
            if time.monotonic() >= deadline:
                raise InvalidState(f"container {self.id!r} is being made", remedy=remedy)
            time.sleep(_GLANCE)

    def _is_running(self) -> bool:
        self._look()
        # What has ended is concluded first, lest its exit be told to nobody. Its monitor may be about to do so, or
        # another thread.
        if self._record.status in ("running", "paused") and pidfd.wait(self._first(), 0):
            self._supervise(time.monotonic() + DEATH)
        return self._exit is None and self.state in ("running", "paused")

    def _first(self) -> int:
        """A pidfd of its first process; -1 when that has ended, or when others have concluded it, so that its driver
        knows of nothing any more."""
        with self._lock:
            return -1 if self._over else self._hold().exit_fd

    def _require_start(self) -> None:
        if self._exit is not None:
            return
        record = self._look()
        if record is None and (self._deleted or self._record.status == "created"):
            raise removed(self.id)
        # Its maker may start it any time, but without a process there is nothing to wait for.
        if record is not None and record.status == "created" and (record.process is None or record.state == "stopped"):
            self._require_started()

    def _pump(self, deadline: float | None, *, once: bool) -> bool:
        if self.exit is None:
            self._settle()  # what is still being made may have been started and ended by then
        return self.exit is not None or super()._pump(deadline, once=once)

    def _conclude(self, pump: Pump) -> None:
        with self._sensible():
            super()._conclude(pump)

    def _finish(self, exit: Exit) -> None:
        if self._record.owned:
            self._exit = self._recorded(exit)
            return
        # Its maker is dead, so cleaning up falls to us, or to who comes first.
        with self._entry:
            record = self._look()
            # Nor is a record written where somebody was killed at removing one.
            if record is not None and record.status not in ("stopped", "creating"):
                super()._finish(exit)
            elif self._exit is None:
                self._exit = exit

    def _recorded(self, exit: Exit) -> Exit:
        """What its maker records; when it removes the record instead, what we saw ourselves."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            record = self._look()
            if record is None:
                break
            if record.status == "stopped":
                return cast(Exit, record.ended) or exit
            time.sleep(_GLANCE)
        return exit

    def _discard(self) -> None:
        entry = self._entry
        if not entry.lock_now():
            with contextlib.suppress(ContainerNotFound):
                self._await_maker("wait until its maker has made it")
        with entry:
            record = self._look()
            if record is None or record.handle is None:
                # Its maker has cleaned up, or made nothing that outlives him. Somebody else may use the name by now, so
                # the driver is not to touch what goes by it.
                self._release_handle()
                self._freed = True
            if record is None:
                self._deleted = True
                self._let_go()
            else:
                with self._sensible():
                    super()._discard()

    def _drop(self) -> None:
        self._release()


class _Sensible:
    """Context manager. Raises `StoreError` where the driver can make nothing of the state that it is said to have left.

    No generator: one that raises another error than the one that came to it refers to itself from Python 3.12 on, by
    that one's traceback, and with it all that its callers hold open.
    """

    def __init__(self, id: str, path: str) -> None:
        self._id = id
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        senseless = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
        if isinstance(error, senseless) and not isinstance(error, ExecDriverError):
            why = f"makes no sense to its driver ({type(error).__name__}: {error})"
            raise damaged(self._id, self._path, why) from error


def removed(id: str) -> ContainerNotFound:
    """The error that another program has removed it."""
    return ContainerNotFound(
        f"there is no container {id!r} any more", remedy="execdrivers ps --all lists those there are"
    )
