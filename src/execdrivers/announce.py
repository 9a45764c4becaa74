"""Telling what happens to a container: to the journal below its store's root, and to the observers of this program."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from execdrivers.journal import Journal, beginning

if TYPE_CHECKING:
    from execdrivers.events import Event, EventType
    from execdrivers.registry import Registry

__all__ = ["Announcer", "journal_at"]

#: Root → its journal, as this program sees it.
_journals: dict[str, Journal] = {}


def journal_at(root: str) -> Journal:
    """The journal below a root."""
    return _journals.get(root) or _journals.setdefault(root, Journal(root))


class Announcer:
    """Tells of one container. ``transient``: nothing of it is kept, so that only who listens already is told."""

    __slots__ = ("_driver", "_id", "_noted", "_oom_kills", "_registry", "_telling", "_transient", "journal")

    def __init__(self, registry: Registry, root: str, id: str, driver: str, *, transient: bool = False) -> None:
        self.journal = journal_at(root)
        self._registry = registry
        self._id = id
        self._driver = driver
        self._transient = transient
        self._oom_kills = 0
        #: What observers are still to be told, in the order of the journal.
        self._noted: deque[Event] = deque()
        #: Held by the thread that tells them.
        self._telling = threading.Lock()

    @property
    def heard(self) -> bool:
        """Whether there is anybody to tell."""
        return not self._transient or self._registry.observed or self.journal.heard

    def emit(self, type: EventType, **more: Any) -> None:
        """Tell the journal and the observers."""
        self.note(type, **more)
        self.tell()

    def emit_oom(self, oom_kills: int) -> None:
        """Tell them of processes killed for want of memory, so many in all."""
        self.note_oom(oom_kills)
        self.tell()

    def note(self, type: EventType, *, written: bool = False, **more: Any) -> None:
        """Write to the journal, unless it is ``written``. With the container's entry locked, which makes the order in
        the journal that of the facts; observers, who may do anything, are told when it is not: by `tell`."""
        journaled = not written and (not self._transient or self.journal.heard)
        observed = self._registry.observed
        if not journaled and not observed:
            return
        from execdrivers.events import Event

        event = Event(type=type, id=self._id, driver=self._driver, time=time.time(), **more)
        if journaled:
            self.journal.append(event)
        if observed:
            self._noted.append(event)

    def tell(self) -> None:
        """Show observers what was noted, one after the other. Where another thread does so it goes on with this."""
        while self._noted and self._telling.acquire(blocking=False):
            try:
                if self._noted:
                    self._registry.observe(self._noted.popleft())
            finally:
                self._telling.release()

    def beginning(self, type: EventType) -> bytes:
        """A line of the journal up to its time, for a monitor to complete."""
        return beginning(type, self._id, self._driver)

    def note_oom(self, oom_kills: int, *, elsewhere: bool = False) -> None:
        """Note that the kernel has killed for want of memory, unless that was told already; ``elsewhere``: perhaps by
        another program."""
        if oom_kills <= self._oom_kills:
            return
        self._oom_kills = oom_kills
        written = elsewhere and self.journal.oom_kills_told(self._id) >= oom_kills
        self.note("oom", written=written, oom_kills=oom_kills)
