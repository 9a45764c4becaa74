"""A pump for event loops: it never waits, and one descriptor stands for all that it moves."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from execdrivers.pump import Pump

if TYPE_CHECKING:
    from execdrivers.streams import Reader, Writer
    from execdrivers.watch import Teller, Watch

__all__ = ["LoopPump"]


class LoopPump(Pump):
    """A `Pump` by epoll(7), whose descriptor is readable whenever there is something to `move`."""

    def __init__(
        self,
        readers: Sequence[Reader],
        writer: Writer | None,
        watch: Watch | None,
        tell: Teller,
    ) -> None:
        """What the watch notices is told by ``tell``."""
        super().__init__(-1, readers, writer, watch)
        self._teller = tell

    def fileno(self) -> int:
        """The descriptor to watch."""
        return int(self._poll.fileno())

    @property
    def done(self) -> bool:
        """Nothing is left that could be moved, or watched."""
        return not self._readers and not self._noticed and (self._writer is None or self._writer.fd < 0)

    def move(self) -> None:
        """Move what is there now, at most one chunk of each stream."""
        ready = self._poll.poll(0)
        if self._watch is not None:
            self._notice(self._watch, ready)
        for fd, _ in ready:
            self._move(fd, False)  # what others close, epoll forgets

    def refill(self) -> None:
        """The writer's source has got something to write."""
        self._watch_input()

    def close(self) -> None:
        """Watch no more; the streams stay open. May be called twice."""
        self._poll.close()

    def _tell(self, call: Callable[[], object]) -> None:
        self._teller(call)

    def _make_poll(self) -> Any:
        return select.epoll()

    def _watch_input(self) -> None:
        try:
            super()._watch_input()
        except PermissionError:
            # epoll takes no regular files, of which a read never waits.
            self._watched = -1
            assert self._writer is not None
            assert self._writer.source is not None
            self._writer.source.fill()
            self._watch_input()
