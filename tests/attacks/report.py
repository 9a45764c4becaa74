"""Reading what the attacker prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["ATTACK", "UNCONFINED", "lost", "won"]

#: The attacker's place in the rootfs.
ATTACK = "/bin/attack"
#: For controls: each of the two would stop by itself what else only one other thing stops.
UNCONFINED: dict[str, Any] = {"seccomp": "unconfined", "apparmor_profile": "unconfined"}


def won(lines: Iterable[str]) -> list[str]:
    """What the attacker achieved."""
    return [line.removeprefix("won ") for line in lines if line.startswith("won ")]


def lost(lines: Iterable[str]) -> dict[str, str]:
    """What it tried in vain → the name of the errno."""
    return dict(line.removeprefix("lost ").rsplit(" ", 1) for line in lines if line.startswith("lost "))
