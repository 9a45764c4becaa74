"""What the store keeps of one container."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs

from execdrivers import pidfd
from execdrivers.errors import StoreError
from execdrivers.exit import Exit
from execdrivers.frozen import FrozenDict

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec

__all__ = ["Record", "State", "Summary", "identity", "own_process", "spec_data"]

State = Literal["creating", "created", "running", "paused", "stopped"]

#: Of the layout; a program refuses records of a later one. 2 has ``detached``, ``monitor``, ``remove``.
LAYOUT = 2


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


@lru_cache(maxsize=16)
def spec_data(spec: ContainerSpec) -> Mapping[str, Any]:
    """``spec.to_dict()``, for the records of all that run it."""
    return FrozenDict(spec.to_dict())


@attrs.define(kw_only=True)
class Record:
    """What the store keeps of one container. Times are seconds since the epoch, processes (pid, start time)."""

    id: str
    driver: str = ""
    #: ``ContainerSpec.to_dict()``
    spec: Mapping[str, Any] = attrs.field(factory=dict)
    #: As last written; `state` knows better.
    status: State = "creating"
    #: The first process of the container.
    process: tuple[int, int] | None = None
    #: The program that made the container, and with which it ends; None: it lives on, or its record is kept on purpose.
    owner: tuple[int, int] | None = None
    #: Whether it was created so; it has, or had, a monitor then.
    detached: bool = False
    #: That keeps its output and its exit, once it is started.
    monitor: tuple[int, int] | None = None
    #: Whether the record of a detached one goes as it ends.
    remove: bool = False
    #: ``Handle.state()``; None once the driver has nothing left to free.
    handle: Mapping[str, Any] | None = None
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    #: ``Exit.to_dict()``
    exit: Mapping[str, Any] | None = None
    #: Whether what it uses is counted from its birth; ``Stats.to_dict()`` as it ended then.
    accounting: bool = False
    stats: Mapping[str, Any] | None = None
    guarantees: Mapping[str, Any] = attrs.field(factory=dict)
    #: stdin, stdout, stderr → what it is connected to.
    stdio: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def state(self) -> State:
        """The state by now: one that was running may have ended with nobody there to record it."""
        if self.status in ("creating", "stopped") or is_alive(self.process):
            return self.status
        if self.status == "created":
            # Some drivers make the process only at the start.
            return "created" if self.process is None and self.owned else "stopped"
        return self.status if is_alive(self.monitor) else "stopped"

    @property
    def owned(self) -> bool:
        """Whether the program that made the container still lives, so that the rest is its business."""
        return is_alive(self.owner)

    @property
    def ended(self) -> Exit | None:
        """How it ended, as far as somebody recorded it."""
        return Exit.from_dict(self.exit) if self.exit is not None else None

    def to_json(self) -> bytes:
        """Compact JSON."""
        data = {key: value for key, value in zip(_FIELDS, _values(self), strict=True) if value is not None}
        return _encode({"layout": LAYOUT, **data}).encode("ascii")

    @classmethod
    def from_json(cls, text: bytes) -> Record:
        """Inverse of `to_json`. The ValueError that it raises says what the text is, as in "is truncated"."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("is damaged") from None
        if not isinstance(data, dict) or not isinstance(layout := data.pop("layout", None), int):
            raise ValueError("is not one of execdrivers")
        if layout > LAYOUT:
            raise ValueError(f"was written by a newer version (layout {layout}, known is {LAYOUT})")
        try:
            record = cls(**data)
            for key in ("process", "owner", "monitor"):
                pair = getattr(record, key)
                if pair is not None:
                    pid, start = pair
                    setattr(record, key, (pid, start))
            sound = all(check(getattr(record, key)) for key, check in _SOUND.items())
            sound = sound and bool(record.driver or record.status == "creating")
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise ValueError("is damaged")
        return record


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds or (int,)) and not isinstance(value, bool)


def _is_process(value: Any) -> bool:
    return value is None or (all(map(_is_number, value)) and value[0] > 0)


def _is_time(value: object) -> bool:
    return value is None or _is_number(value, int, float)


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_spec(value: Any) -> bool:
    args = value.get("args", []) if isinstance(value, dict) else None
    return isinstance(args, list) and all(isinstance(word, str) for word in args)


def _is_exit(value: Any) -> bool:
    if value is None:
        return True
    exit = Exit.from_dict(value)
    numbers = (exit.code, exit.signal, exit.oom_kills)
    return all(number is None or _is_number(number) for number in numbers) and isinstance(exit.error, str)


#: Field → whether a value, which may be anything, is what is meant by it.
_SOUND: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("id", "driver"), lambda value: isinstance(value, str)),
    "status": lambda value: value in get_args(State),
    "spec": _is_spec,
    **dict.fromkeys(("process", "owner", "monitor"), _is_process),
    **dict.fromkeys(("detached", "remove", "accounting"), lambda value: isinstance(value, bool)),
    **dict.fromkeys(("handle", "stats"), lambda value: value is None or isinstance(value, dict)),
    **dict.fromkeys(("guarantees", "stdio"), _is_mapping),
    **dict.fromkeys(("created_at", "started_at", "finished_at"), _is_time),
    "exit": _is_exit,
}

_FIELDS = tuple(item.name for item in attrs.fields(Record))
_values = attrgetter(*_FIELDS)


@attrs.frozen(kw_only=True)
class Summary:
    """One line of a list of containers. Times are seconds since the epoch.

    ``error`` is set, and little else, where the record makes no sense.
    """

    id: str
    driver: str = ""
    state: State | None = None
    args: tuple[str, ...] = ()
    #: The host's pid of the first process while it lives.
    pid: int | None = None
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    exit: Exit | None = None
    #: The pid of the program that made it, while that lives.
    owner: int | None = None
    #: Whether a monitor holds its output, so that it outlives its maker.
    detached: bool = False
    error: StoreError | None = None
    _spec: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Another word for ``id``."""
        return self.id

    @property
    def spec(self) -> ContainerSpec:
        """What it runs. Raises `SpecError` where there is none yet, or one of a later version."""
        from execdrivers.spec import ContainerSpec

        return ContainerSpec.from_dict(self._spec)

    @classmethod
    def of(cls, record: Record | StoreError) -> Summary:
        """From what the store lists."""
        if isinstance(record, StoreError):
            return cls(id=os.path.basename(os.path.dirname(record.filename or "")), error=record)
        state = record.state
        return cls(
            id=record.id,
            driver=record.driver,
            state=state,
            args=tuple(record.spec.get("args", ())),
            pid=record.process[0] if record.process and state != "stopped" else None,
            created_at=record.created_at,
            started_at=record.started_at,
            finished_at=record.finished_at,
            exit=record.ended,
            owner=record.owner[0] if record.owner and record.owned else None,
            detached=record.detached,
            spec=record.spec,
        )


#: By pid, since a fork keeps the memory.
_own: dict[int, tuple[int, int]] = {}


def own_process() -> tuple[int, int]:
    """This program's pid and start time."""
    pid = os.getpid()
    if pid not in _own:
        _own[pid] = pid, pidfd.start_time(pid) or 0
    return _own[pid]


def identity(pid: int | None) -> tuple[int, int] | None:
    """A process as the record has it: (pid, start time); None when there is none."""
    started = None if pid is None else pidfd.start_time(pid)
    return None if pid is None or started is None else (pid, started)


def is_alive(process: tuple[int, int] | None) -> bool:
    """Whether this very process exists and is no zombie."""
    return process is not None and pidfd.start_time(process[0], alive=True) == process[1]
