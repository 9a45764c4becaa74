"""libseccomp, as far as a filter takes it. Loaded when the first filter is compiled, through ctypes: no build step, no
dependency, and a millisecond where the compiled filter is not at hand already.

Source: seccomp_rule_add(3) and its neighbours, <seccomp.h> of libseccomp 2.5.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Comparison", "Context", "LibraryMissing", "architecture", "number", "number_on", "version"]

_ARCH_NATIVE = 0
_ATTRIBUTE_OPTIMIZE = 8
_BINARY_TREE = 2
#: __NR_SCMP_ERROR: no such name.
_NO_NUMBER = -1


class LibraryMissing(OSError):
    """There is no libseccomp on this host."""


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp: argument, operator, and one or two data."""

    _fields_ = (("index", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


class Version(NamedTuple):
    """Of the library."""

    major: int
    minor: int
    micro: int

    def __str__(self) -> str:
        return ".".join(map(str, self))


@lru_cache(maxsize=1)
def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise LibraryMissing(errno.ENOENT, str(error)) from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.restype = None
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison),
    ]  # fmt: skip
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    return library


def version() -> Version:
    """The library's. Raises `LibraryMissing`."""
    found = _load().seccomp_version().contents
    return Version(found.major, found.minor, found.micro)


def architecture(name: str = "") -> int:
    """The token of an architecture by libseccomp's name for it, or of our own; 0: it knows none of that name."""
    library = _load()
    return int(library.seccomp_arch_resolve_name(name.encode()) if name else library.seccomp_arch_native())


def number(name: str) -> int | None:
    """A system call's number here. Negative: it is one of another architecture's. None: unknown to the library."""
    found = int(_load().seccomp_syscall_resolve_name(name.encode()))
    return None if found == _NO_NUMBER else found


def number_on(token: int, name: str) -> int | None:
    """The same, on another architecture."""
    found = int(_load().seccomp_syscall_resolve_name_arch(token, name.encode()))
    return None if found == _NO_NUMBER else found


class Context:
    """A filter in the making. Release it (``with``)."""

    def __init__(self, default_action: int) -> None:
        self._library = _load()
        self._context = self._library.seccomp_init(default_action)
        if not self._context:
            raise OSError(errno.EINVAL, "libseccomp takes no such default action")
        # Before 2.5 there is none; then it takes the kernel longer, and that is all.
        self._library.seccomp_attr_set(self._context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *exc: object) -> None:
        self._library.seccomp_release(self._context)

    def add_architecture(self, token: int) -> None:
        """Rules from here on hold for it too. Raises OSError."""
        self._check(self._library.seccomp_arch_add(self._context, token), ignore=errno.EEXIST)

    def add_rule(self, action: int, number: int, comparisons: Iterable[Comparison] = ()) -> None:
        """All comparisons must hold. One rule twice is one rule. Raises OSError."""
        all_of = tuple(comparisons)
        array = (Comparison * len(all_of))(*all_of)
        result = self._library.seccomp_rule_add_array(self._context, action, number, len(all_of), array)
        self._check(result, ignore=errno.EEXIST)

    def export(self) -> bytes:
        """The program: struct sock_filter, one after the other. Raises OSError."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._check(self._library.seccomp_export_bpf(self._context, fd))
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    @staticmethod
    def _check(result: int, ignore: int = 0) -> None:
        if result < 0 and -result != ignore:
            raise OSError(-result, os.strerror(-result))
