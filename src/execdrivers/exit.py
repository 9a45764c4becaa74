"""How a container ended: code, signal and reason, never only a number (design rule 4)."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Literal, get_args

import attrs

__all__ = ["Exit", "Reason"]

Reason = Literal["exited", "signaled", "oom", "timeout", "launch-failed", "unknown"]

#: Exit status of the CLI for a timeout, as timeout(1) has it.
TIMEOUT_STATUS = 124


@attrs.frozen(kw_only=True)
class Exit:
    """How a container ended.

    ``reason``: ``exited``; ``signaled``; ``oom`` (the kernel killed ``oom_kills`` processes of the container for
    want of memory, whatever the first process then did); ``timeout``; ``launch-failed`` (``error`` says why);
    ``unknown`` (it is gone and nobody could see how, as after a crash of the program that made it).
    ``code`` and ``signal`` are those of the first process, at most one of them set.
    """

    reason: Reason = attrs.field(validator=attrs.validators.in_(get_args(Reason)))
    code: int | None = None
    signal: int | None = None
    oom_kills: int = 0
    error: str = ""

    @classmethod
    def from_wait_status(cls, status: int | None, *, oom_kills: int = 0) -> Exit:
        """From wait(2)'s status word; None: nobody can tell."""
        if status is None:
            return cls(reason="oom" if oom_kills else "unknown", oom_kills=oom_kills)
        number = status & 0x7F
        if number:
            return cls(reason="oom" if oom_kills else "signaled", signal=number, oom_kills=oom_kills)
        return cls(reason="oom" if oom_kills else "exited", code=status >> 8 & 0xFF, oom_kills=oom_kills)

    @property
    def ok(self) -> bool:
        """Exited by itself, with 0."""
        return self.reason == "exited" and self.code == 0

    @property
    def returncode(self) -> int:
        """As `subprocess`: the code, or the negative signal."""
        if self.signal is not None:
            return -self.signal
        return self.code if self.code is not None else -int(signal.SIGKILL)

    @property
    def status(self) -> int:
        """As ``docker run``: the code, 128 + signal, 124 for a timeout; 137 where memory ran out and the first
        process nevertheless reports 0."""
        if self.reason == "timeout":
            return TIMEOUT_STATUS
        if self.signal is not None:
            return 128 + self.signal
        if self.reason == "oom" and not self.code:
            return 128 + int(signal.SIGKILL)
        return self.code if self.code is not None else 125

    def to_dict(self) -> dict[str, Any]:
        """JSON form; fields at their default are left out."""
        given = zip(_DEFAULTS.items(), _values(self), strict=True)
        return {name: value for (name, default), value in given if value != default}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Exit:
        """Inverse of `to_dict`."""
        return cls(**data)

    def __str__(self) -> str:
        how = f"exited with code {self.code}"
        if self.signal is not None:
            try:
                how = f"was ended by signal {signal.Signals(self.signal).name}"
            except ValueError:
                how = f"was ended by signal {self.signal}"
        if self.reason == "oom":
            return f"ran out of memory ({self.oom_kills} killed) and {how}"
        if self.reason == "timeout":
            return "was killed at its timeout"
        if self.reason == "launch-failed":
            return f"could not be launched: {self.error}"
        return "ended unseen" if self.reason == "unknown" else how


#: Field → its default.
_DEFAULTS = {item.name: item.default for item in attrs.fields(Exit)}
_values = attrgetter(*_DEFAULTS)
