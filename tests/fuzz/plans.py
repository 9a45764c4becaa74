"""Plans: the real ones of many specs, and one of each operation of the vocabulary."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from execdrivers.errors import SpecError
from execdrivers.launcher import Operation, encode
from execdrivers.launcher import operations as vocabulary
from execdrivers.spec import ContainerSpec
from execdrivers_native.compile import compile, compile_exec
from execdrivers_native.host import look

#: Keywords of `ContainerSpec.build` for the fault tests and the fuzzer.
SPECS: dict[str, dict[str, Any]] = {
    "default": {},
    "host root": {"rootfs": None},
    "terminal": {"tty": True, "console_size": (24, 80)},
    "init": {"init": True},
    "ephemeral": {"ephemeral": True},
    "limits": {"memory": "64M", "pids": 20, "cpus": 0.5, "rlimits": {"nofile": 64}, "oom_score_adj": 100},
    "mounts": {
        "mounts": [
            {"type": "bind", "source": "/etc", "destination": "/host/etc", "options": ["rbind", "ro", "noatime"]},
            {"type": "tmpfs", "destination": "/data", "options": ["size=1m", "mode=1777", "nosuid"]},
        ],
        "devices": [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 7}],
        "readonly": True,
        "masked_paths": ["/proc/kcore", "/etc"],
        "readonly_paths": ["/proc/sys", "/bin"],
    },
    "user": {
        "user": "1000:1000",
        "additional_gids": [5, 6],
        "capabilities": {"add": ["CAP_NET_ADMIN"]},
        "umask": 0o77,
        "cwd": "/tmp",
        "hostname": "faults",
        "domainname": "example",
        "sysctls": {"net.ipv4.ip_forward": "1"},
    },
}


def spec(rootfs: Path, name: str, *args: str) -> ContainerSpec:
    """One of `SPECS`."""
    return ContainerSpec.build(args or ("true",), **{"rootfs": str(rootfs), **SPECS[name]})


def real(rootfs: Path) -> Iterator[tuple[str, bytes]]:
    """What the native driver makes of each, as root and as an ordinary user."""
    hosts = {"root": look(), "rootless": attrs.evolve(look(), capabilities=0, uid=1000, gid=1000)}
    for who, host in hosts.items():
        for name in SPECS:
            with contextlib.suppress(SpecError):  # some take root
                given = spec(rootfs, name)
                compiled = compile(given, "fuzz", host)
                yield f"{who}-{name.replace(' ', '-')}", encode(compiled.operations)
    given = spec(rootfs, "terminal")
    guarantees = compile(given, "fuzz", hosts["root"]).guarantees
    yield "exec", encode(compile_exec(given, "fuzz", hosts["root"], guarantees))


def _candidates() -> Iterator[Any]:
    words = [key for table in vars(vocabulary).values() if isinstance(table, dict) for key in table]
    texts = [word for word in words if isinstance(word, str)]
    yield from (1, 0, 0xFFFFFFFF, "/a/b", "0-2", "", ("/bin/a", "b=c"), (), (1, 2), bytes(16), b"")
    yield from texts
    yield from ((text,) for text in texts)


def _values(kind: str) -> tuple[Any, Any]:
    """Two values that an argument of that kind can have, the second one small or empty."""
    accepted = []
    for value in _candidates():
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError, struct.error):
            vocabulary._CODEC[kind](value)
            accepted.append(value)
    return accepted[0], next((value for value in accepted if not value), accepted[-1])


def of_each_operation() -> Iterator[tuple[str, bytes]]:
    """The operation, with arguments of two sorts, and then an execution."""
    execute = Operation("exec", (0, ("/bin/a", "/bin/b"), ("a",), ("X=1",)))
    known = {kind: _values(kind) for kind in vocabulary._CODEC}
    for name, (_, fields) in vocabulary._SCHEMA.items():
        kinds = [field.split(":")[1] for field in fields.split()]
        for sort in (0, 1):
            values = tuple(known[kind][sort] for kind in kinds)
            yield f"{name}-{sort}", encode([Operation(name, values), execute])
