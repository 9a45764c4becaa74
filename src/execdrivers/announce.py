"""Telling what happens to a container: to the journal below its store's root, and to the observers of this program."""

from __future__ import annotations

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

    __slots__ = ("_driver", "_id", "_later", "_oom_kills", "_registry", "_transient", "journal")

    def __init__(self, registry: Registry, root: str, id: str, driver: str, *, transient: bool = False) -> None:
        self.journal = journal_at(root)
        self._registry = registry
        self._id = id
        self._driver = driver
        self._transient = transient
        self._oom_kills = 0
        #: Noted where observers cannot be called.
        self._later: deque[Event] = deque()

    @property
    def heard(self) -> bool:
        """Whether there is anybody to tell."""
        return not self._transient or self._registry.observed or self.journal.heard

    def emit(self, type: EventType, **more: Any) -> None:
        """Tell the journal and the observers."""
        self.tell(self.note(type, **more))

    def note(self, type: EventType, *, written: bool = False, **more: Any) -> Event | None:
        """Write to the journal, unless it is ``written``; what is to be told to observers. For where these, who may do
        anything, cannot be called: with the container's entry locked, which makes the order in the journal that of the
        facts."""
        journaled = not written and (not self._transient or self.journal.heard)
        if not journaled and not self._registry.observed:
            return None
        from execdrivers.events import Event

        event = Event(type=type, id=self._id, driver=self._driver, time=time.time(), **more)
        if journaled:
            self.journal.append(event)
        return event

    def tell(self, *events: Event | None) -> None:
        """Show events to the observers."""
        for event in events:
            if event is not None and self._registry.observed:
                self._registry.observe(event)

    def tell_later(self, *events: Event | None) -> None:
        """Show them when the container's lock is let go."""
        self._later.extend(event for event in events if event is not None)

    def tell_now(self) -> None:
        """Show what was put off, in its order."""
        while self._later:
            try:
                event = self._later.popleft()
            except IndexError:
                return  # another thread has it
            self.tell(event)

    def beginning(self, type: EventType) -> bytes:
        """A line of the journal up to its time, for a monitor to complete."""
        return beginning(type, self._id, self._driver)

    def note_oom(self, oom_kills: int, *, elsewhere: bool = False) -> Event | None:
        """Note that the kernel has killed for want of memory, unless that was told already; ``elsewhere``: perhaps by
        another program."""
        if oom_kills <= self._oom_kills:
            return None
        self._oom_kills = oom_kills
        written = elsewhere and self.journal.oom_kills_told(self._id) >= oom_kills
        return self.note("oom", written=written, oom_kills=oom_kills)
