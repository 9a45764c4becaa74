"""Commands that run at points of a container's life, as OCI defines them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from execdrivers.spec._convert import EMPTY, Value, between, each, field, instance, integer, optional, path, texts
from execdrivers.spec.process import environment

__all__ = ["Hook", "Hooks"]


@attrs.frozen(eq=False, repr=False)
class Hook(Value):
    """A command: absolute ``path``; ``args`` including argv[0]; its whole environment; ``timeout`` in seconds."""

    path: str = field(converter=path)
    args: tuple[str, ...] = field(default=(), converter=texts)
    env: Mapping[str, str] = field(default=EMPTY, converter=environment)
    timeout: int | None = field(
        default=None, converter=optional(integer), validator=between(1, 2**31 - 1, unit="seconds")
    )


def _hooks(value: Iterable[Hook | Mapping[str, Any]]) -> tuple[Hook, ...]:
    return each(instance(Hook), value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Hooks(Value):
    """Hooks by the moment they run at. ``prestart`` is OCI's deprecated forerunner of the create hooks."""

    prestart: tuple[Hook, ...] = field(default=(), converter=_hooks)
    create_runtime: tuple[Hook, ...] = field(default=(), converter=_hooks)
    create_container: tuple[Hook, ...] = field(default=(), converter=_hooks)
    start_container: tuple[Hook, ...] = field(default=(), converter=_hooks)
    poststart: tuple[Hook, ...] = field(default=(), converter=_hooks)
    poststop: tuple[Hook, ...] = field(default=(), converter=_hooks)
