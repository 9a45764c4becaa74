"""The operations a plan is made of: their arguments, how they read, how they are encoded for the launcher.

The vocabulary is that of c/plan.h. Arguments stay in words (``("nosuid", "nodev")``) until they are encoded, so that a
plan can be read and compared.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from execdrivers.defaults import ALL_CAPABILITIES
from execdrivers.driver import Step
from execdrivers.launcher._launcher import lib
from execdrivers.units import parse_ids

__all__ = [
    "MAX_DESCRIPTORS",
    "MOUNT_ATTRIBUTES",
    "NAMESPACE_FLAGS",
    "PROPAGATION",
    "SECCOMP_FLAGS",
    "Operation",
    "Prepared",
    "clear_mask",
    "encode",
    "operation",
    "set_mask",
]

#: Most descriptors that a launcher can be started with.
MAX_DESCRIPTORS: int = lib.ED_MAX_DESCRIPTORS
#: MOUNT_ATTR_* of mount_setattr(2).
MOUNT_ATTRIBUTES = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "relatime": 0x0,
    "noatime": 0x10,
    "strictatime": 0x20,
    "nodiratime": 0x80,
    "nosymfollow": 0x200000,
}
#: MOUNT_ATTR__ATIME: the access-time modes are one field, to be cleared before another is set.
_ATIME_FIELD = 0x70
_ATIME_MODES = frozenset({"relatime", "noatime", "strictatime"})

#: MS_* propagation of mount(2).
PROPAGATION = {"": 0, "unbindable": 1 << 17, "private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20}
_MS_REC = 1 << 14

#: CLONE_NEW* of clone(2), by OCI name.
NAMESPACE_FLAGS = {
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}

#: What Landlock can restrict, in the order of plan.h.
LANDLOCK = ("files", "bind", "connect", "abstract-unix-socket", "signal")


#: SCHED_* of sched(7).
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
#: SCHED_FLAG_* of sched_setattr(2).
_SCHEDULER_FLAGS = {
    f"SCHED_FLAG_{name}": 1 << bit
    for bit, name in enumerate(
        "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX".split()
    )
}
#: IOPRIO_CLASS_* of ioprio_set(2).
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
#: PER_* of personality(2), by OCI name.
_PERSONALITIES = {"LINUX": 0, "LINUX32": 8}
#: SECCOMP_FILTER_FLAG_* of seccomp(2), by OCI name; the last is ours to set.
SECCOMP_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0x1,
    "SECCOMP_FILTER_FLAG_LOG": 0x2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 0x4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0x20,
    "SECCOMP_FILTER_FLAG_NEW_LISTENER": 0x8,
}


#: When a filter is installed, seccomp in c/plan.h.
FILTER_TIMES = {"last": lib.ED_FILTER_LAST, "now": lib.ED_FILTER_NOW, "ready": lib.ED_FILTER_READY}


class Operation(NamedTuple):
    """One operation: its name and its arguments in the order of the schema."""

    name: str
    args: tuple[Any, ...]

    @property
    def listens(self) -> bool:
        """Whether it is a filter with a listener, which is the caller's, and for whose answers the command may wait."""
        return self.name == "seccomp" and "SECCOMP_FILTER_FLAG_NEW_LISTENER" in self.args[1]

    def step(self) -> Step:
        """As a step of the plan that people see; arguments that say nothing are left out."""
        shown: dict[str, Any] = {}
        for field, value in zip(_SCHEMA[self.name][1].split(), self.args, strict=True):
            key, kind = field.split(":")
            if kind == "mode":
                shown[key] = f"{value:04o}"
            elif kind == "program":
                shown["instructions"] = len(value) // 8
            elif value not in ("", ()) and (value or kind != "bool"):
                shown[key] = list(value) if isinstance(value, tuple) else bool(value) if kind == "bool" else value
        return Step(self.name.replace("_", "-"), shown)


def operation(name: str, *args: Any) -> Operation:
    """An operation of the schema below, its arguments in order."""
    return Operation(name, args)


_U32 = struct.Struct("<I").pack
_U64 = struct.Struct("<Q").pack


def _int(value: int) -> bytes:
    return _U64(value & 0xFFFFFFFFFFFFFFFF)


def _str(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return _U32(len(data)) + data + b"\0"


def _bytes(value: bytes) -> bytes:
    return _U32(len(value)) + value + b"\0"


def _list(encode_item: Callable[[Any], bytes]) -> Callable[[Sequence[Any]], bytes]:
    def encode_list(values: Sequence[Any]) -> bytes:
        return _U32(len(values)) + b"".join(map(encode_item, values))

    return encode_list


def _bits(table: dict[str, int]) -> Callable[[Iterable[str]], bytes]:
    def encode_bits(names: Iterable[str]) -> bytes:
        mask = 0
        for name in names:
            mask |= table[name]
        return _U64(mask)

    return encode_bits


def set_mask(names: Iterable[str]) -> int:
    """The MOUNT_ATTR_* of these attributes."""
    mask = 0
    for name in names:
        mask |= MOUNT_ATTRIBUTES[name]
    return mask


def clear_mask(names: Iterable[str]) -> int:
    """The MOUNT_ATTR_* to be cleared for these attributes to go, or for an access-time mode to come."""
    mask = 0
    for name in names:
        mask |= _ATIME_FIELD if name in _ATIME_MODES else MOUNT_ATTRIBUTES[name]
    return mask


def _tree_propagation(name: str) -> bytes:
    return _U64(PROPAGATION[name] | _MS_REC)


_CODEC: dict[str, Callable[[Any], bytes]] = {
    "int": _int,
    "bool": _int,
    "mode": _int,
    "str": _str,
    "strs": _list(_str),
    "ints": _list(_int),
    "attrs": lambda names: _U64(set_mask(names)),
    "clear": lambda names: _U64(clear_mask(names)),
    "propagation": lambda name: _U64(PROPAGATION[name]),
    "tree": _tree_propagation,
    "caps": _bits({name: 1 << number for name, number in ALL_CAPABILITIES.items()}),
    "namespaces": _bits(NAMESPACE_FLAGS),
    "cpus": lambda text: _list(_int)(parse_ids(text)),
    "policy": lambda name: _U64(_POLICIES[name]),
    "flags": _bits(_SCHEDULER_FLAGS),
    "io_class": lambda name: _U64(_IO_CLASSES[name]),
    "personality": lambda name: _U64(_PERSONALITIES[name]),
    "restricts": _bits({name: 1 << number for number, name in enumerate(LANDLOCK)}),
    "kinds": _list(lambda name: _U64(NAMESPACE_FLAGS[name])),
    "program": _bytes,
    "filter_flags": _bits(SECCOMP_FLAGS),
    "when": lambda word: _U64(FILTER_TIMES[word]),
}

#: name → (code, arguments as "name:type").
_SCHEMA: dict[str, tuple[int, str]] = {
    "write": (lib.ED_OP_WRITE, "path:str data:str"),
    "unshare": (lib.ED_OP_UNSHARE, "namespaces:namespaces"),
    "propagation": (lib.ED_OP_PROPAGATION, "propagation:tree"),
    "root": (lib.ED_OP_ROOT, "path:str recursive:bool set:attrs"),
    "root_overlay": (lib.ED_OP_ROOT_OVERLAY, "path:str set:attrs userxattr:bool options:strs"),
    "mount": (lib.ED_OP_MOUNT, "type:str source:str destination:str set:attrs options:strs"),
    "bind": (
        lib.ED_OP_BIND,
        "source:str destination:str recursive:bool set:attrs clear:clear "  # noqa: ISC004 - one schema
        "recursive_set:attrs recursive_clear:clear propagation:propagation",
    ),
    "set_attributes": (
        lib.ED_OP_SET_ATTRIBUTES,
        "destination:str recursive:bool set:attrs clear:clear propagation:propagation",
    ),
    "symlink": (lib.ED_OP_SYMLINK, "target:str destination:str"),
    "device": (lib.ED_OP_DEVICE, "destination:str mode:mode major:int minor:int uid:int gid:int"),
    "mask": (lib.ED_OP_MASK, "destination:str"),
    "readonly": (lib.ED_OP_READONLY, "destination:str"),
    "pivot": (lib.ED_OP_PIVOT, ""),
    "hostname": (lib.ED_OP_HOSTNAME, "name:str"),
    "domainname": (lib.ED_OP_DOMAINNAME, "name:str"),
    "loopback": (lib.ED_OP_LOOPBACK, ""),
    "rlimit": (lib.ED_OP_RLIMIT, "resource:int soft:int hard:int"),
    "session": (lib.ED_OP_SESSION, ""),
    "console": (lib.ED_OP_CONSOLE, "rows:int columns:int uid:int first:bool"),
    "bounding": (lib.ED_OP_BOUNDING, "capabilities:caps"),
    "identity": (lib.ED_OP_IDENTITY, "uid:int gid:int set_groups:bool groups:ints"),
    "capabilities": (lib.ED_OP_CAPABILITIES, "effective:caps permitted:caps inheritable:caps ambient:caps"),
    "no_new_privileges": (lib.ED_OP_NO_NEW_PRIVILEGES, ""),
    "umask": (lib.ED_OP_UMASK, "mask:mode"),
    "chdir": (lib.ED_OP_CHDIR, "path:str"),
    "ready": (lib.ED_OP_READY, ""),
    "exec": (lib.ED_OP_EXEC, "init:bool candidates:strs args:strs env:strs"),
    "channel": (lib.ED_OP_CHANNEL, ""),
    "unmount": (lib.ED_OP_UNMOUNT, "destination:str"),
    "join": (lib.ED_OP_JOIN, "namespaces:namespaces capabilities:caps"),
    "stdio": (lib.ED_OP_STDIO, ""),
    "keyring": (lib.ED_OP_KEYRING, ""),
    "scheduler": (
        lib.ED_OP_SCHEDULER,
        "policy:policy flags:flags nice:int priority:int runtime:int deadline:int period:int",
    ),
    "io_priority": (lib.ED_OP_IO_PRIORITY, "class:io_class priority:int"),
    "affinity": (lib.ED_OP_AFFINITY, "processors:cpus"),
    "personality": (lib.ED_OP_PERSONALITY, "domain:personality"),
    "hook": (lib.ED_OP_HOOK, "point:str path:str args:strs env:strs timeout:int state:str"),
    "copy_up": (lib.ED_OP_COPY_UP, "source:str destination:str set:attrs whole:bool options:strs"),
    "sync": (lib.ED_OP_SYNC, "point:str"),
    "apparmor": (lib.ED_OP_APPARMOR, "profile:str"),
    "selinux": (lib.ED_OP_SELINUX, "label:str"),
    "landlock": (
        lib.ED_OP_LANDLOCK,
        "abi:int restricts:restricts read:strs write:strs execute:strs bind:ints connect:ints",
    ),
    "enter": (lib.ED_OP_ENTER, "point:str namespaces:namespaces dumpable:bool kinds:kinds"),
    "clocks": (lib.ED_OP_CLOCKS, ""),
    "root_tree": (lib.ED_OP_ROOT_TREE, "descriptor:int"),
    "attach": (lib.ED_OP_ATTACH, "descriptor:int destination:str"),
    "seccomp": (lib.ED_OP_SECCOMP, "filter:program flags:filter_flags when:when"),
    "adopt": (lib.ED_OP_ADOPT, "args:strs env:strs descriptors:int"),
}

_ENCODERS = {
    name: (code, tuple(_CODEC[field.split(":")[1]] for field in fields.split()))
    for name, (code, fields) in _SCHEMA.items()
}


def _encode_operation(item: Operation) -> bytes:
    # Most operations of most plans are the same; what carries the caller's data is not worth keeping.
    return _encode_anew(item) if item.name in ("exec", "write", "adopt", "hook") else _encode_cached(item)


def _encode_anew(item: Operation) -> bytes:
    code, encoders = _ENCODERS[item.name]
    body = b"".join([encoder(value) for encoder, value in zip(encoders, item.args, strict=True)])
    return _U32(code) + _U32(len(body)) + body


_encode_cached = lru_cache(maxsize=1024)(_encode_anew)


class Prepared(tuple[Operation, ...]):
    """Operations that many launchers are given: encoded once."""

    @cached_property
    def encoded(self) -> bytes:
        """As `encode` has it."""
        return _encode(self)


def encode(operations: Sequence[Operation]) -> bytes:
    """The plan as the launcher reads it (c/plan.h)."""
    return operations.encoded if isinstance(operations, Prepared) else _encode(operations)


def _encode(operations: Sequence[Operation]) -> bytes:
    body = b"".join(map(_encode_operation, operations))
    size = 16 + len(body)
    return b"".join([_U32(lib.ED_PLAN_MAGIC), _U32(lib.ED_PLAN_VERSION), _U32(size), _U32(len(operations)), body])
