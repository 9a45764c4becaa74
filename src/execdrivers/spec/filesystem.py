"""Mounts and device nodes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from execdrivers.errors import SpecError
from execdrivers.spec._convert import (
    MAX_ID,
    Value,
    between,
    each,
    fail,
    field,
    inner_path,
    instance,
    integer,
    nearest,
    one_of,
    optional,
    text,
)
from execdrivers.spec.linux import IdMapping, id_mappings

__all__ = ["Device", "Mount", "MountOptions"]

_TYPES = ("bind", "tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "overlay")

#: Option → (attribute, whether it sets it), as mount_setattr(2) has the attributes.
_ATTRIBUTES: dict[str, tuple[str, bool]] = {
    "ro": ("ro", True),
    "rw": ("ro", False),
    **{f"no{name}": (f"no{name}", True) for name in ("suid", "dev", "exec", "atime", "diratime", "symfollow")},
    **{name: (f"no{name}", False) for name in ("suid", "dev", "exec", "atime", "diratime", "symfollow")},
    **{name: (name, True) for name in ("relatime", "strictatime")},
    **{f"no{name}": (name, False) for name in ("relatime", "strictatime")},
}
#: Of these the kernel holds one at a time.
_ATIME = frozenset({"noatime", "relatime", "strictatime"})
_PROPAGATION = frozenset(f"{r}{name}" for r in ("", "r") for name in ("shared", "slave", "private", "unbindable"))
#: What mount(8) knows and what asks for nothing that a new mount has not anyway.
_NEUTRAL = frozenset({"defaults", "async", "silent", "loud", "nomand", "nolazytime", "noiversion"})
_FLAGS = frozenset({"tmpcopyup", "idmap", "ridmap"})


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MountOptions(Value):
    """Mount options sorted by what the kernel does with them; a later option overrides an earlier one.

    ``set`` and ``clear`` hold attributes of the mount itself, ``recursive_set`` and ``recursive_clear`` those of all
    mounts below as well (``rro`` …): ro, nosuid, nodev, noexec, noatime, relatime, strictatime, nodiratime,
    nosymfollow. ``data`` is for the filesystem: ``size=64m``, ``mode=755``.
    """

    set: frozenset[str] = frozenset()
    clear: frozenset[str] = frozenset()
    recursive_set: frozenset[str] = frozenset()
    recursive_clear: frozenset[str] = frozenset()
    propagation: str | None = None
    recursive_bind: bool = False
    tmpcopyup: bool = False
    idmap: bool = False
    ridmap: bool = False
    data: tuple[str, ...] = ()


def _parse(options: Iterable[str]) -> MountOptions:
    states: tuple[dict[str, bool], dict[str, bool]] = ({}, {})
    propagation, recursive_bind, data, flags = None, False, [], {}
    for option in options:
        recursive = option[0] == "r" and option not in _ATTRIBUTES and option[1:] in _ATTRIBUTES
        if recursive or option in _ATTRIBUTES:
            attribute, on = _ATTRIBUTES[option[1:] if recursive else option]
            state = states[recursive]
            if on and attribute in _ATIME:
                for other in _ATIME:
                    state.pop(other, None)
            state[attribute] = on
        elif option in _PROPAGATION:
            propagation = option
        elif option in ("bind", "rbind"):
            recursive_bind = option == "rbind"
        elif option in _FLAGS:
            flags[option] = True
        elif option not in _NEUTRAL:
            data.append(option)
    return MountOptions(
        set=frozenset(name for name, on in states[0].items() if on),
        clear=frozenset(name for name, on in states[0].items() if not on),
        recursive_set=frozenset(name for name, on in states[1].items() if on),
        recursive_clear=frozenset(name for name, on in states[1].items() if not on),
        propagation=propagation,
        recursive_bind=recursive_bind,
        data=tuple(data),
        **flags,
    )


def _type(value: str) -> str:
    value = text(value)
    return "cgroup" if value == "cgroup2" else value or "none"


def _option(value: str) -> str:
    value = text(value)
    if not value:
        fail(value, "is empty", "leave it out")
    if not value.isprintable():
        fail(value, "contains a control character", "use printable characters only")
    # Escaped or quoted, a comma is the filesystem's own: overlay's lowerdir, an SELinux context.
    if "," in value and not set(value) & {"\\", '"'}:
        fail(value, "contains a comma", f"give the options one by one: {value.split(',')!r}")
    return value


def _options(value: Iterable[str]) -> tuple[str, ...]:
    return each(_option, value)


@attrs.frozen(eq=False, repr=False)
class Mount(Value):
    """A filesystem at ``destination`` in the container, in OCI's terms.

    ``type``: bind, tmpfs, proc, sysfs, devpts, mqueue, cgroup (v1 or v2, as the host has it), overlay; an option
    ``bind`` or ``rbind`` makes it bind, whatever was given. ``source``: for bind, an absolute path on the host.
    Mappings are for an idmapped mount.
    """

    destination: str = field(converter=inner_path)
    type: str = field(default="none", converter=_type)
    source: str | None = field(default=None, converter=optional(text))
    options: tuple[str, ...] = field(default=(), converter=_options)
    uid_mappings: tuple[IdMapping, ...] = field(default=(), converter=id_mappings)
    gid_mappings: tuple[IdMapping, ...] = field(default=(), converter=id_mappings)

    def _check(self) -> None:
        if self.type != "bind" and ("bind" in self.options or "rbind" in self.options):
            object.__setattr__(self, "type", "bind")
        if self.type not in _TYPES:
            problem = "is missing" if self.type == "none" else "is not a mount type"
            raise SpecError("type", self.type, problem, nearest(self.type, _TYPES))
        options = self.parse_options() if self.options else MountOptions()
        data = options.data
        if options.tmpcopyup and self.type != "tmpfs":
            raise SpecError("options", "tmpcopyup", f"is not an option of {self.type} mounts", "use type='tmpfs'")
        if "mand" in data:
            problem = "asks for mandatory locks, which Linux has not had since 5.15"
            raise SpecError("options", "mand", problem, "leave it out")
        if self.type == "bind":
            if not (self.source or "").startswith("/"):
                problem = "is not an absolute path" if self.source else "is missing"
                raise SpecError("source", self.source, problem, "give the absolute path on the host to bind")
            if data:
                known = (*_ATTRIBUTES, *_PROPAGATION, *_FLAGS, "bind", "rbind")
                raise SpecError("options", data[0], "is not an option of bind mounts", nearest(data[0], known))
        if self.type == "overlay" and not any(item.startswith("lowerdir") for item in data):
            raise SpecError("options", self.options, "has no lowerdir=", "give the directories to overlay")
        if bool(self.uid_mappings) != bool(self.gid_mappings):
            missing = "gid_mappings" if self.uid_mappings else "uid_mappings"
            raise SpecError(missing, (), "is missing", "an idmapped mount needs both")

    def parse_options(self) -> MountOptions:
        """The options by what they do."""
        return _parse(self.options)

    @property
    def receives(self) -> bool:
        """Whether what the host mounts later in the source of a bind appears in it."""
        return self.type == "bind" and self.parse_options().propagation in ("slave", "rslave", "shared", "rshared")


def mounts(value: Iterable[Mount | Mapping[str, Any]]) -> tuple[Mount, ...]:
    """Mounts, no two at one destination."""
    result: tuple[Mount, ...] = each(instance(Mount), value)
    seen: dict[str, int] = {}
    for index, mount in enumerate(result):
        first = seen.setdefault(mount.destination, index)
        if first != index:
            problem = f"is mounted on already by item {first}"
            raise SpecError(f"[{index}].destination", mount.destination, problem, "remove one of the two")
    return result


def device_access(value: str) -> str:
    """Some of r, w, m, in this order."""
    value = text(value)
    if not value or set(value) - set("rwm") or len(set(value)) != len(value):
        fail(value, "is not a device access", "combine r (read), w (write), m (mknod)")
    return "".join(letter for letter in "rwm" if letter in value)


def _device_type(value: str) -> str:
    value = text(value)
    # OCI's u is mknod(1)'s other word for c.
    return "c" if value == "u" else value


def file_mode(value: int) -> int:
    """Permission bits; bits of the file's type, as Go and stat(2) add them, are dropped."""
    return integer(value) & 0o7777 if isinstance(value, int) and 0 <= value <= 0o177777 else integer(value)


@attrs.frozen(eq=False, repr=False)
class Device(Value):
    """A device node: ``type`` c (character), b (block) or p (FIFO, no numbers). ``access`` is for the device cgroup."""

    path: str = field(converter=inner_path)
    type: str = field(default="c", converter=_device_type, validator=one_of("c", "b", "p"))
    major: int = field(default=0, converter=integer, validator=between(0, 4095))
    minor: int = field(default=0, converter=integer, validator=between(0, 2**20 - 1))
    file_mode: int | None = field(default=None, converter=optional(file_mode), validator=between(0, 0o7777))
    uid: int | None = field(default=None, converter=optional(integer), validator=between(0, MAX_ID))
    gid: int | None = field(default=None, converter=optional(integer), validator=between(0, MAX_ID))
    access: str = field(default="rwm", converter=device_access)

    @classmethod
    def from_host(cls, source: str | os.PathLike[str], path: str | None = None, access: str = "rwm") -> Device:
        """As the host's node ``source``, at ``path`` (the same if None) in the container.

        Raises `SpecError` when ``source`` is not a device.
        """
        try:
            node = os.stat(source)
        except OSError as error:
            problem = f"cannot be used: {error.strerror}"
            raise SpecError("source", os.fspath(source), problem, "name a device of the host") from None
        kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
        kind = kinds.get(stat.S_IFMT(node.st_mode))
        if kind is None:
            raise SpecError("source", os.fspath(source), "is not a device", "name a character or block device")
        return cls(
            path or os.path.abspath(source),
            kind,
            os.major(node.st_rdev),
            os.minor(node.st_rdev),
            file_mode=stat.S_IMODE(node.st_mode),
            uid=node.st_uid,
            gid=node.st_gid,
            access=access,
        )


def devices(value: Iterable[Device | Mapping[str, Any]]) -> tuple[Device, ...]:
    """Devices, no two at one path."""
    result: tuple[Device, ...] = each(instance(Device), value)
    seen: set[str] = set()
    for index, device in enumerate(result):
        if device.path in seen:
            raise SpecError(f"[{index}].path", device.path, "is there already", "remove one of the two")
        seen.add(device.path)
    return result
