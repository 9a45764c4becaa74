"""Compiled filters, kept on disk: the same profile compiles once on a host, and a command line pays microseconds.

A file has the whole of what its program was made of before the program itself, so that it is used for that alone. The
directory and the files must belong to the user who runs us, and be writable by nobody else; else they are left alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tempfile
import zlib
from collections.abc import Callable

__all__ = ["directory", "program"]

_MAGIC = b"edbpf1\n\0"
_HEAD = struct.Struct("<8sIII")  # magic, length of the key, length of the program, checksum of both
#: Bytes: BPF_MAXINSNS instructions, and keys that are longer than that are not worth it.
_LIMIT = 1 << 20
#: Files; when there are so many, all go: whoever makes a new profile for every container needs none of them again.
_MOST = 256


def directory() -> str:
    """Where they are kept: $XDG_CACHE_HOME/execdrivers, else /var/cache/execdrivers as root, else ~/.cache/execdrivers.

    "": nowhere.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = "/var/cache" if os.geteuid() == 0 else os.path.expanduser("~/.cache")
    return f"{base}/execdrivers" if base.startswith("/") else ""


def program(key: str, make: Callable[[], bytes]) -> bytes:
    """The program of that key: as kept, or made now and kept if that is possible."""
    place = directory()
    full = f"{_host()}\n{key}".encode()
    if not place or len(full) > _LIMIT:
        return make()
    name = f"seccomp-{zlib.crc32(full):08x}"
    kept = _read(place, name, full)
    if kept is None:
        kept = make()
        with contextlib.suppress(OSError):
            _write(place, name, full, kept)
    return kept


def _host() -> str:
    """What else a program depends on: the kernel, the libraries, which ld.so's cache stands for, and our compiler."""
    system = os.uname()
    words = [system.machine, system.release]
    here = os.path.dirname(__file__)
    for path in ("/etc/ld.so.cache", f"{here}/compiler.py", f"{here}/shorten.py"):
        with contextlib.suppress(OSError):
            found = os.stat(path)
            words.append(f"{found.st_ino} {found.st_size} {found.st_mtime_ns}")
    return " ".join(words)


def _ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _open(place: str) -> int:
    """The directory, if it is ours alone. Raises OSError."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not _ours(os.fstat(fd)):
        os.close(fd)
        raise PermissionError(place)
    return fd


def _read(place: str, name: str, key: bytes) -> bytes | None:
    try:
        above = _open(place)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=above)
        finally:
            os.close(above)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or not _ours(found):
                return None
            data = os.read(fd, 2 * _LIMIT)
        finally:
            os.close(fd)
    except OSError:
        return None
    if len(data) < _HEAD.size:
        return None
    magic, key_length, length, checksum = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    whole = magic == _MAGIC and len(body) == key_length + length and zlib.crc32(body) == checksum
    return body[key_length:] if whole and body[:key_length] == key else None


def _write(place: str, name: str, key: bytes, program: bytes) -> None:
    """In one piece, or not at all. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.mkdir(place, 0o700)
    os.close(_open(place))
    names = os.listdir(place)
    for old in names if len(names) >= _MOST else ():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{place}/{old}")
    fd, temporary = tempfile.mkstemp(prefix=".", dir=place)
    try:
        with os.fdopen(fd, "wb") as file:
            body = key + program
            file.write(_HEAD.pack(_MAGIC, len(key), len(program), zlib.crc32(body)) + body)
        os.rename(temporary, f"{place}/{name}")
    except BaseException:
        os.unlink(temporary)
        raise
