"""``--detach-keys``: the keys that end a session at a terminal, in docker's notation."""

from __future__ import annotations

from execdrivers.cli.parsing import UsageError

__all__ = ["DEFAULT", "KeyFilter", "parse_keys"]

DEFAULT = "ctrl-p,ctrl-q"
#: What ctrl- makes of a key: the character with its upper bits gone.
_CONTROL = {chr(code | 0x40).lower(): code for code in range(0x20)}


def parse_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` → ``b"\\x10\\x11"``; no text: no keys. Raises `UsageError`."""
    keys = bytearray()
    for word in text.split(",") if text else ():
        name = word.removeprefix("ctrl-")
        if name == word and len(word) == 1 and word.isascii():
            keys.append(ord(word))
        elif name != word and name.lower() in _CONTROL:
            keys.append(_CONTROL[name.lower()])
        else:
            remedy = f"--detach-keys {DEFAULT}, with letters or ctrl- and one of a-z @ [ \\ ] ^ _"
            raise UsageError(f"--detach-keys: {word!r} is not a key", remedy=remedy)
    return bytes(keys)


class KeyFilter:
    """Looks for the keys in what is typed. What may be their beginning is held back until more is typed."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What of it to pass on, and whether the keys were there; what follows them is nobody's."""
        if not self._keys:
            return typed, False
        text = self._held + typed
        found = text.find(self._keys)
        if found >= 0:
            return text[:found], True
        held = next((n for n in range(len(self._keys) - 1, 0, -1) if text.endswith(self._keys[:n])), 0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False
