"""Lifecycle events, as observers see them (hook ``execdrivers_observe``) and the journal has them (`Engine.events`)."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Literal, get_args

import attrs

from execdrivers.exit import Exit

__all__ = ["TYPES", "Event", "EventType"]

EventType = Literal[
    "created",
    "started",
    "exec_started",
    "exec_exited",
    "oom",
    "memory_pressure",
    "paused",
    "resumed",
    "updated",
    "exited",
    "deleted",
    "lost",
]

#: All types.
TYPES: tuple[EventType, ...] = get_args(EventType)


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to a container.

    ``type``: ``created``; ``started``; ``exited`` (with the ``exit``, also when the command could not be launched);
    ``deleted``: each at most once, in this order. In between, any number of times: ``paused``, ``resumed``,
    ``updated``; ``exec_started`` and ``exec_exited`` (with ``exec``, the id of that process, its ``args``, ``pid`` and
    ``exit``); ``oom`` (the kernel has killed for want of memory, ``oom_kills`` processes so far); ``memory_pressure``
    (its processes wait for memory). ``lost`` is of no container: a stream of events was read too slowly, and ``lost``
    of them are gone.

    ``time`` is in seconds since the epoch, ``pid`` the host's of the first process, ``spec``, with ``created`` and
    ``updated``, `ContainerSpec.to_dict` (in the journal without ``env``).
    """

    type: EventType
    id: str
    driver: str
    time: float
    pid: int | None = None
    exec: str | None = None
    args: tuple[str, ...] | None = None
    exit: Exit | None = None
    oom_kills: int | None = None
    lost: int | None = None
    spec: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form; what is None is left out."""
        data = {key: value for key, value in zip(_FIELDS, _values(self), strict=True) if value is not None}
        if self.exit is not None:
            data["exit"] = self.exit.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Event:
        """Inverse of `to_dict`, also from JSON; keys of later versions are passed over. Raises ValueError."""
        try:
            given = {key: data[key] for key in _FIELDS if key in data}
            if given["type"] not in TYPES:
                raise ValueError(f"events of type {given['type']!r} are not known")
            if not all(isinstance(given[key], kind) for key, kind in _KINDS.items() if key in given):
                raise ValueError("a value of another type")
            if "args" in given:
                given["args"] = tuple(map(str, given["args"]))
            if "exit" in given:
                given["exit"] = Exit.from_dict(given["exit"])
            return cls(**given)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an event: {error}") from None

    def __str__(self) -> str:
        if self.type == "lost":
            return f"{self.lost} events were lost: they were read too slowly"
        what = f"{self.type} {self.exec}" if self.exec else self.type
        how = f": {self.exit}" if self.exit is not None else ""
        if self.oom_kills is not None:
            how = f": {self.oom_kills} killed"
        return f"{self.id} ({self.driver}) {what}{how}"


_FIELDS = tuple(item.name for item in attrs.fields(Event))
_values = attrgetter(*_FIELDS)
_KINDS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "driver": str,
    "time": (int, float),
    "pid": int,
    "exec": str,
    "args": (list, tuple),
    "exit": dict,
    "oom_kills": int,
    "lost": int,
    "spec": dict,
}
