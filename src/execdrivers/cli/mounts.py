"""``-v``, ``--mount``, ``--tmpfs``, ``--shm-size`` and ``--device``: docker's texts → the spec's mounts and devices."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from execdrivers.cli.parsing import UsageError, parse_bool
from execdrivers.errors import SpecError

if TYPE_CHECKING:
    from execdrivers.spec import Device

__all__ = ["devices", "host_devices", "mount", "shm", "tmpfs", "volume"]

#: Docker's options for each tmpfs, unless their opposite is asked for.
_TMPFS_OPTIONS = ("nosuid", "nodev", "noexec")
_OWN_NODES = {f"/dev/{name}" for name in ("console", "full", "null", "ptmx", "random", "tty", "urandom", "zero")}
_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_BIND_USAGE = "-v /host/path:/container/path[:ro]"


def volume(text: str) -> dict[str, Any]:
    """``/src:/dst[:ro,rslave,…]`` as a mount. A source starting with ``.`` is relative to the working directory."""
    source, colon, rest = text.partition(":")
    if not colon:
        raise UsageError(
            f"-v/--volume: {text!r} names no directory of the host (anonymous volumes are not supported)",
            remedy=f"{_BIND_USAGE}, or --tmpfs {text} for scratch space",
        )
    destination, _, words = rest.partition(":")
    if not source.startswith(("/", ".")):
        raise UsageError(
            f"-v/--volume: {source!r} is not an absolute path (named volumes are not supported)", remedy=_BIND_USAGE
        )
    readonly, propagation = False, ""
    for word in filter(None, words.split(",")):
        if word in ("ro", "rw"):
            readonly = word == "ro"
        elif word in _PROPAGATIONS:
            propagation = word
        elif word in ("z", "Z"):
            raise UsageError(
                f"-v/--volume {text}: execdrivers does not relabel files for SELinux", remedy=f"leave out {word!r}"
            )
        else:
            raise UsageError(f"-v/--volume {text}: unknown option {word!r}", remedy="ro, rw or a propagation")
    return _bind("-v/--volume", source, destination, _recursion(readonly, "enabled"), propagation)


def mount(text: str) -> dict[str, Any]:
    """``type=bind,source=…,target=…`` or ``type=tmpfs,target=…`` as a mount; quotes as in CSV."""
    pairs = _pairs(text)
    kind = pairs.pop("type", "volume")
    if kind not in ("bind", "tmpfs"):
        missing = "" if "type" in text else ", docker's default,"
        raise UsageError(f"--mount {text}: type {kind!r}{missing} is not supported", remedy="type=bind or type=tmpfs")
    destination = pairs.pop("target", "")
    if not destination:
        raise UsageError(f"--mount {text}: no target", remedy="target=/path/in/the/container")
    readonly = parse_bool("--mount readonly", pairs.pop("readonly", "false"))
    if kind == "tmpfs":
        options = [*_TMPFS_OPTIONS, *(["ro"] if readonly else [])]
        if "tmpfs-size" in pairs:
            options.append(f"size={_size('--mount tmpfs-size', pairs.pop('tmpfs-size'))}")
        if "tmpfs-mode" in pairs:
            options.append(f"mode={pairs.pop('tmpfs-mode')}")
        _refuse_rest(text, pairs, "tmpfs-size, tmpfs-mode, readonly")
        return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    source = pairs.pop("source", "")
    if not source:
        raise UsageError(f"--mount {text}: no source", remedy="source=/path/on/the/host")
    propagation = pairs.pop("bind-propagation", "")
    if propagation and propagation not in _PROPAGATIONS:
        raise UsageError(
            f"--mount {text}: unknown bind-propagation {propagation!r}", remedy=f"one of {', '.join(_PROPAGATIONS)}"
        )
    recursive = pairs.pop("bind-recursive", "enabled")
    _refuse_rest(text, pairs, "readonly, bind-propagation, bind-recursive")
    return _bind(f"--mount {text}", source, destination, _recursion(readonly, recursive), propagation)


def tmpfs(text: str) -> dict[str, Any]:
    """``/run`` or ``/run:rw,size=64m,mode=755`` as a mount."""
    destination, _, words = text.partition(":")
    asked = [word for word in words.split(",") if word]
    defaults = [word for word in _TMPFS_OPTIONS if word.removeprefix("no") not in asked]
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": [*defaults, *asked]}


def shm(size: str) -> dict[str, Any]:
    """/dev/shm of another size than the driver's default."""
    options = ["nosuid", "noexec", "nodev", "mode=1777", f"size={_size('--shm-size', size)}"]
    return {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options}


def _size(option: str, text: str) -> int:
    """Bytes: the kernel itself knows fewer ways to write them."""
    from execdrivers.units import parse_size

    try:
        return parse_size(text)
    except SpecError as error:
        raise UsageError(f"{option}: {text!r} {error.problem}", remedy=error.remedy) from None


def devices(text: str) -> list[Device]:
    """``/dev/x``, ``/dev/x:rwm``, ``/dev/x:/dev/y[:rwm]``; all devices below where the host's path is a directory."""
    from execdrivers.spec import Device

    source, *rest = text.split(":")
    target, access = source, "rwm"
    if rest and not rest[-1].startswith("/"):
        access = rest.pop()
    if rest:
        target = rest.pop()
    if rest or not source or not access or set(access) - set("rwm"):
        raise UsageError(f"--device: {text!r} is not HOST[:CONTAINER][:rwm]", remedy="--device /dev/fuse:/dev/fuse:rw")
    if os.path.isdir(source):
        return [Device.from_host(path, target + path.removeprefix(source), access) for path in _nodes(source)]
    return [Device.from_host(source, target, access)]


def host_devices() -> list[Device]:
    """The devices of the host, without those that every container has of its own."""
    from execdrivers.spec import Device

    paths = (path for path in _nodes("/dev") if path not in _OWN_NODES and not path.startswith("/dev/pts/"))
    return [Device.from_host(path) for path in paths]


def _nodes(directory: str) -> Iterator[str]:
    for parent, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                yield path


def _bind(flag: str, source: str, destination: str, options: list[str], propagation: str) -> dict[str, Any]:
    if source.startswith("."):
        source = os.path.abspath(source)
    if not os.path.lexists(source):
        raise UsageError(
            f"{flag}: {source!r} does not exist on the host",
            remedy=f"mkdir {source} (execdrivers creates nothing on the host)",
        )
    # Docker's default, rprivate, is what a mount has with every driver when nothing is asked for.
    asked = [propagation] if propagation else []
    return {"destination": destination, "type": "bind", "source": source, "options": [*options, *asked]}


def _recursion(readonly: bool, recursive: str) -> list[str]:
    """Docker's ``bind-recursive``: mounts below the source come along, and are read-only with it where that is so."""
    if recursive == "disabled":
        return ["bind", "ro" if readonly else "rw"]
    if recursive not in ("enabled", "writable", "readonly"):
        raise UsageError(
            f"--mount: unknown bind-recursive {recursive!r}", remedy="enabled, disabled, writable or readonly"
        )
    if not readonly:
        return ["rbind", "rw"]
    if recursive == "enabled" and not _can_make_readonly_recursively():
        recursive = "writable"
    return ["rbind", "ro"] if recursive == "writable" else ["rbind", "ro", "rro"]


def _can_make_readonly_recursively() -> bool:
    """mount_setattr(2) came with Linux 5.12."""
    from execdrivers import kernel

    return kernel.version() >= (5, 12)


def _pairs(text: str) -> dict[str, str]:
    import csv

    names = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        remedy = 'quotes around the whole of a pair: type=bind,"source=/a,b",target=/c'
        raise UsageError(f"--mount {text}: {error}", remedy=remedy) from None
    pairs = {}
    for field in fields:
        name, equals, value = field.partition("=")
        name = names.get(name.lower(), name.lower())
        if name == "readonly" and not equals:
            value = "true"
        elif not equals:
            raise UsageError(f"--mount {text}: {field!r} is not KEY=VALUE", remedy="type=bind,source=/a,target=/b")
        pairs[name] = value
    return pairs


def _refuse_rest(text: str, pairs: dict[str, str], known: str) -> None:
    for name in pairs:
        raise UsageError(f"--mount {text}: {name!r} is unknown or does not fit the type", remedy=f"one of {known}")
