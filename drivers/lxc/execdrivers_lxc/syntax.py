"""LXC's file formats: what can be written, and how, so that LXC reads just that."""

from __future__ import annotations

from collections.abc import Sequence

from execdrivers.errors import SpecError

__all__ = ["checked", "entry", "line"]

#: LXC reads a mount entry into a buffer of a page.
_MAX_ENTRY = 4000
#: What isspace(3) finds to be space, but the line break.
_SPACE = " \t\v\f"


def line(key: str, value: str) -> bytes:
    """One line of the file. LXC trims a value and takes one pair of quotes off; whatever is in them stays."""
    quoted = f'"{value}"' if value != value.strip(_SPACE) or value[:1] in ("'", '"') else value
    return f"{key} = {quoted}\n".encode("utf-8", "surrogateescape")


#: What getmntent(3) takes apart at, and how it reads it.
_ESCAPES = str.maketrans({"\\": "\\134", " ": "\\040", "\t": "\\011", "\n": "\\012"})


def entry(source: str, destination: str, type: str, options: Sequence[str], field: str) -> str:
    """The value of lxc.mount.entry: a line of fstab(5), its destination from the root on. Raises `SpecError`."""
    words = (source, destination.lstrip("/"), type, ",".join(options))
    text = " ".join([*(word.translate(_ESCAPES) for word in words), "0", "0"])
    if len(text.encode("utf-8", "surrogateescape")) > _MAX_ENTRY:
        raise SpecError(field, destination, "makes an entry longer than LXC reads", "shorten paths and options")
    return checked(text, field)


def checked(value: str, field: str) -> str:
    """The value. Raises `SpecError` when no line can hold it."""
    for character, name in (("\n", "line break"), ("\r", "carriage return"), ("\0", "NUL")):
        if character in value:
            raise SpecError(field, value, f"has a {name}, at which LXC would end the line", "leave it out")
    return value
