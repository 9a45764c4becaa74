"""Lifecycle events, as observers see them (hook ``execdrivers_observe``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from execdrivers.exit import Exit

__all__ = ["Event", "EventType"]

EventType = Literal["created", "started", "paused", "resumed", "updated", "oom", "exited", "deleted"]


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to a container.

    ``type``: ``created``; ``started``; ``oom`` (before ``exited``, when memory ran out); ``exited`` (with the ``exit``,
    also when the command could not be launched); ``deleted``. Each of these occurs at most once, in this order;
    ``paused``, ``resumed`` and ``updated`` occur any number of times in between. ``time`` is in seconds since the
    epoch, ``pid`` the host's of the first process. ``spec``, with ``created`` and ``updated``, is
    `ContainerSpec.to_dict`.
    """

    type: EventType
    id: str
    driver: str
    time: float
    pid: int | None = None
    exit: Exit | None = None
    spec: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form; what is None is left out."""
        data = {key: value for key in _FIELDS if (value := getattr(self, key)) is not None}
        if self.exit is not None:
            data["exit"] = self.exit.to_dict()
        return data

    def __str__(self) -> str:
        how = f": {self.exit}" if self.exit is not None else ""
        return f"{self.id} ({self.driver}) {self.type}{how}"


_FIELDS = tuple(item.name for item in attrs.fields(Event))
