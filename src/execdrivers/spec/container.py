"""`ContainerSpec`: what to run and how contained."""

# ruff: noqa: RUF009 - the linter does not see that `field` is attrs.field

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs

from execdrivers.errors import SpecError
from execdrivers.spec import linux, process
from execdrivers.spec._convert import (
    EMPTY,
    Value,
    between,
    each_value,
    fail,
    field,
    flag,
    freeze,
    instance,
    integer,
    load_json,
    mapping,
    name,
    nearest,
    one_of,
    optional,
    path,
    paths,
    text,
)
from execdrivers.spec.capabilities import Capabilities
from execdrivers.spec.filesystem import Device, Mount, devices, mounts
from execdrivers.spec.hooks import Hooks
from execdrivers.spec.landlock import Landlock
from execdrivers.spec.linux import IdMapping, TimeOffset, id_mappings
from execdrivers.spec.process import CpuAffinity, IoPriority, Rlimit, Scheduler
from execdrivers.spec.resources import Resources
from execdrivers.spec.seccomp import seccomp as seccomp_profile
from execdrivers.units import parse_size, signal_name

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from execdrivers.spec.keywords import SpecFields

__all__ = ["ContainerSpec"]

#: Annotations that to_oci() writes for fields OCI has no word for.
RESERVED_ANNOTATIONS = "org.execdrivers."
STOP_SIGNAL_ANNOTATION = "org.opencontainers.image.stopSignal"


def _capabilities(value: Capabilities | Mapping[str, Any]) -> Capabilities:
    return instance(Capabilities)(value)  # type: ignore[no-any-return]


def _scheduler(value: Scheduler | Mapping[str, Any]) -> Scheduler:
    return instance(Scheduler)(value)  # type: ignore[no-any-return]


def _io_priority(value: IoPriority | Mapping[str, Any]) -> IoPriority:
    return instance(IoPriority)(value)  # type: ignore[no-any-return]


def _cpu_affinity(value: CpuAffinity | Mapping[str, Any]) -> CpuAffinity:
    return instance(CpuAffinity)(value)  # type: ignore[no-any-return]


def _landlock(value: Landlock | Mapping[str, Any]) -> Landlock:
    return instance(Landlock)(value)  # type: ignore[no-any-return]


def _resources(value: Resources | Mapping[str, Any]) -> Resources:
    return instance(Resources)(value)  # type: ignore[no-any-return]


def _hooks(value: Hooks | Mapping[str, Any]) -> Hooks:
    return instance(Hooks)(value)  # type: ignore[no-any-return]


def _annotation(value: str) -> str:
    value = name(value)
    if value.startswith(RESERVED_ANNOTATIONS):
        fail(value, "is reserved", f"set the field {value.removeprefix(RESERVED_ANNOTATIONS)!r} instead")
    if value == STOP_SIGNAL_ANNOTATION:
        fail(value, "is a field of its own", "use stop_signal=")
    return value


def _annotations(value: Mapping[str, str]) -> Mapping[str, str]:
    return each_value(_annotation, text, value)


def _driver_options(value: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    return each_value(name, lambda options: freeze(mapping(options)), value)


def _cgroups_path(value: str) -> str:
    value = name(value)
    if ".." in value.split("/"):
        fail(value, "contains '..'", "name the cgroup itself")
    return value


def _personality(value: str) -> str:
    return text(value).removeprefix("PER_")


_PROPAGATION = [f"{r}{kind}" for r in ("", "r") for kind in ("shared", "slave", "private", "unbindable")]


#: What was built of plain arguments, or of a spec by plain changes: who runs one command again builds it once.
_built: dict[tuple[Any, ...], ContainerSpec] = {}
#: Specs in it; when there are so many, all go.
_MOST = 64
_PLAIN = frozenset({str, int, float, bool, type(None)})


def _keep(key: tuple[Any, ...], made: ContainerSpec) -> ContainerSpec:
    if len(_built) >= _MOST:
        _built.clear()
    _built[key] = made
    return made


def _key(args: object, fields: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Arguments of `ContainerSpec.build`, or `replace`, as a key, where they alone decide what comes of them."""
    if type(args) not in (list, tuple) or any(type(word) is not str for word in cast("list[object]", args)):
        return None
    key: list[Any] = [tuple(cast("list[str]", args))]
    for field_name, value in fields.items():
        if type(value) not in _PLAIN or (field_name == "rootfs" and value and str(value)[0] != "/"):
            return None
        key.append((field_name, type(value), value))  # for True is 1
    return tuple(key)


# The only field that may be given by position; of its own class because kw_only concerns all fields of one.
@attrs.frozen(eq=False, repr=False)
class _Command(Value):
    args: tuple[str, ...] = field(converter=process.args)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ContainerSpec(_Command):
    """What to run and how contained; says nothing of how a driver does it.

    Only ``args`` is needed. A field not given (None) means the driver's own safest default. Fields take plain data and
    human units and hold tuples, immutable mappings and bytes; a bad value raises `SpecError` at once. Terms are those
    of the OCI runtime specification. Specs compare, hash, pickle, and go to JSON and back.
    """

    # The process
    #: Environment; also taken as ["NAME=value", …].
    env: Mapping[str, str] = field(default=EMPTY, converter=process.environment)
    #: Add PATH, HOME, HOSTNAME, and TERM with a terminal, where ``env`` has them not.
    default_env: bool = field(default=True, converter=flag)
    #: Working directory in the container.
    cwd: str | None = field(default=None, converter=optional(path))
    #: "name", "name:group", "uid" or "uid:gid"; names are looked up in the container's /etc.
    user: str | None = field(default=None, converter=optional(process.user))
    #: Supplementary groups; None: those that the container's /etc/group lists for the user.
    additional_gids: tuple[int, ...] | None = field(default=None, converter=optional(process.gids))
    umask: int | None = field(default=None, converter=optional(process.umask), validator=between(0, 0o777))
    #: Give the process a terminal.
    tty: bool = field(default=False, converter=flag)
    #: Rows and columns of the terminal.
    console_size: tuple[int, int] | None = field(default=None, converter=optional(process.console_size))
    rlimits: Mapping[str, Rlimit] = field(default=EMPTY, converter=process.rlimits)
    capabilities: Capabilities | None = field(default=None, converter=optional(_capabilities))
    no_new_privileges: bool | None = field(default=None, converter=optional(flag))
    apparmor_profile: str | None = field(default=None, converter=optional(name))
    selinux_label: str | None = field(default=None, converter=optional(name))
    #: "unconfined", or OCI's linux.seccomp object, or a profile in Docker's form. None: `execdrivers.seccomp.default`.
    seccomp: str | Mapping[str, Any] | None = field(default=None, converter=optional(seccomp_profile))
    landlock: Landlock | None = field(default=None, converter=optional(_landlock))
    oom_score_adj: int | None = field(default=None, converter=optional(integer), validator=between(-1000, 1000))
    scheduler: Scheduler | None = field(default=None, converter=optional(_scheduler))
    io_priority: IoPriority | None = field(default=None, converter=optional(_io_priority))
    cpu_affinity: CpuAffinity | None = field(default=None, converter=optional(_cpu_affinity))
    #: "LINUX" or "LINUX32".
    personality: str | None = field(
        default=None, converter=optional(_personality), validator=one_of("LINUX", "LINUX32")
    )

    # The filesystem
    #: The container's root directory, absolute; None: the host's own root, read-only.
    rootfs: str | None = field(default=None, converter=optional(path))
    readonly: bool | None = field(default=None, converter=optional(flag))
    rootfs_propagation: str | None = field(default=None, converter=optional(text), validator=one_of(*_PROPAGATION))
    #: Changes to the root go to memory and are dropped at the exit.
    ephemeral: bool = field(default=False, converter=flag)
    #: Most that these changes may take, in bytes; "64M" is taken too.
    ephemeral_size: int | None = field(default=None, converter=optional(parse_size), validator=between(4096, 2**63 - 1))
    #: The driver's own /proc, /dev, /sys …; a mount at the same destination replaces one.
    default_mounts: bool = field(default=True, converter=flag)
    mounts: tuple[Mount, ...] = field(default=(), converter=mounts)
    devices: tuple[Device, ...] = field(default=(), converter=devices)
    masked_paths: tuple[str, ...] | None = field(default=None, converter=optional(paths))
    readonly_paths: tuple[str, ...] | None = field(default=None, converter=optional(paths))

    # Namespaces and what lives in them
    hostname: str | None = field(default=None, converter=optional(linux.host_name))
    domainname: str | None = field(default=None, converter=optional(linux.host_name))
    #: Kind (pid, mount, uts, ipc, network, cgroup, user, time) → "private", "host", or the path of one to join.
    namespaces: Mapping[str, str] = field(default=EMPTY, converter=linux.namespaces)
    #: "none": loopback only; "host": the host's own network.
    network: str | None = field(default=None, converter=optional(text), validator=one_of("none", "host"))
    uid_mappings: tuple[IdMapping, ...] = field(default=(), converter=id_mappings)
    gid_mappings: tuple[IdMapping, ...] = field(default=(), converter=id_mappings)
    #: Clock (monotonic, boottime) → offset.
    time_offsets: Mapping[str, TimeOffset] = field(default=EMPTY, converter=linux.time_offsets)
    sysctls: Mapping[str, str] = field(default=EMPTY, converter=linux.sysctls)

    # Limits
    resources: Resources = field(default=Resources(), converter=_resources)
    cgroups_path: str | None = field(default=None, converter=optional(_cgroups_path))

    # The life of the container
    hooks: Hooks = field(default=Hooks(), converter=_hooks)
    annotations: Mapping[str, str] = field(default=EMPTY, converter=_annotations)
    #: Run a small reaper as pid 1, the command as its child.
    init: bool = field(default=False, converter=flag)
    #: What asks the command to end; None: SIGTERM.
    stop_signal: str | None = field(default=None, converter=optional(signal_name))
    #: Driver name → options only it knows; refused when another driver is chosen.
    driver_options: Mapping[str, Mapping[str, Any]] = field(default=EMPTY, converter=_driver_options)

    def _check(self) -> None:
        if self.console_size and not self.tty:
            raise SpecError("console_size", self.console_size, "is given without a terminal", "set tty=True")
        if self.ephemeral_size is not None and not self.ephemeral:
            raise SpecError("ephemeral_size", self.ephemeral_size, "has nothing to limit", "set ephemeral=True")
        if self.landlock is not None and self.no_new_privileges is False:
            problem = "is given with no_new_privileges=False, which Landlock does not allow"
            raise SpecError("landlock", self.landlock.to_dict(), problem, "leave no_new_privileges unset")
        if self.namespaces or self.network:
            self._check_namespaces()
        for key in self.sysctls:
            self._check_sysctl(key)

    def _check_namespaces(self) -> None:
        kinds = self.namespaces
        network = kinds.get("network")
        wanted = {"none": "private", "host": "host"}.get(self.network or "")
        if wanted and network not in (None, wanted):
            problem = f"contradicts namespaces['network'] = {network!r}"
            raise SpecError("network", self.network, problem, "give one of the two")
        for kind, fields in (
            ("uts", ("hostname", "domainname")),
            ("user", ("uid_mappings", "gid_mappings")),
            ("time", ("time_offsets",)),
        ):
            for item in fields if kinds.get(kind) == "host" else ():
                if getattr(self, item):
                    problem = f"cannot be set in the host's {kind} namespace"
                    raise SpecError(item, getattr(self, item), problem, f"leave namespaces[{kind!r}] unset")

    def _check_sysctl(self, key: str) -> None:
        where = f'sysctls["{key}"]'
        if key in ("kernel.hostname", "kernel.domainname"):
            raise SpecError(where, self.sysctls[key], "is a field of its own", f"use {key.removeprefix('kernel.')}=")
        kind = linux.sysctl_namespace(key)
        if kind is None:
            problem = "concerns the whole host, not the container's namespaces"
            raise SpecError(where, self.sysctls[key], problem, "set it on the host")
        if self.namespaces.get(kind) == "host" or (kind == "network" and self.network == "host"):
            problem = f"needs a private {kind} namespace"
            raise SpecError(where, self.sysctls[key], problem, f"leave namespaces[{kind!r}] unset")

    @classmethod
    def build(cls, args: Iterable[str | bytes | os.PathLike[str]], **fields: Unpack[SpecFields]) -> Self:
        """A spec from flat keywords: those of the spec, and those of `Resources` (``memory=``, ``cpus=``, ``pids=`` …).

        A relative ``rootfs`` is taken from the current directory.
        """
        key = _key(args, fields) if cls is ContainerSpec else None
        if key is None:
            return cls._build(args, fields)
        if (made := _built.get(key)) is None:
            made = _keep(key, cls._build(args, fields))
        return made  # type: ignore[return-value]

    @classmethod
    def _build(cls, args: Iterable[str | bytes | os.PathLike[str]], fields: Mapping[str, Any]) -> Self:
        own: dict[str, Any] = {}
        limits: dict[str, Any] = {}
        for key, value in fields.items():
            if key in _OWN:
                own[key] = value
            elif key in _LIMITS:
                limits[key] = value
            else:
                raise SpecError(key, value, "is not a field of a spec", nearest(key, [*_OWN, *_LIMITS]))
        if limits:
            given = own.get("resources")
            own["resources"] = attrs.evolve(_resources(given), **limits) if given else Resources(**limits)
        rootfs = own.get("rootfs")
        if isinstance(rootfs, (str, os.PathLike)) and os.fspath(rootfs):
            own["rootfs"] = os.path.abspath(rootfs)
        return cls(args, **own)

    def replace(self, **changes: Any) -> Self:
        """The same spec with some fields changed, checked anew."""
        key = _key(changes.get("args", ()), {name: value for name, value in changes.items() if name != "args"})
        if key is None:
            return self._replaced(changes)
        key = (self, "args" in changes, *key)
        if (made := _built.get(key)) is None:
            made = _keep(key, self._replaced(changes))
        return made  # type: ignore[return-value]

    def _replaced(self, changes: Mapping[str, Any]) -> Self:
        for key in changes:
            if key not in _OWN and key != "args":
                raise SpecError(key, changes[key], "is not a field of ContainerSpec", nearest(key, _OWN))
        return attrs.evolve(self, **changes)

    def to_json(self) -> str:
        """JSON text of `to_dict`."""
        import json

        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, data: str | bytes) -> Self:
        """Inverse of `to_json`. Whatever is wrong with the text is a `SpecError`."""
        return cls.from_dict(load_json(data, "JSON"))

    def to_oci(self) -> dict[str, Any]:
        """A complete OCI ``config.json``; what is unset is filled in from `execdrivers.defaults`.

        Looks up names of users in the rootfs. Raises `SpecError` where OCI cannot say it (no rootfs).
        """
        from execdrivers.oci import to_oci

        return to_oci(self)

    @classmethod
    def from_oci(cls, config: Mapping[str, Any], bundle: str | os.PathLike[str] | None = None) -> ContainerSpec:
        """From an OCI ``config.json``; relative paths in it are taken from ``bundle``.

        Properties unknown to the specification are ignored. A property that cannot be honoured, or has a wrong type or
        value, raises `SpecError` whose field is its JSON pointer.
        """
        from execdrivers.oci import from_oci

        return from_oci(config, bundle)

    @classmethod
    def from_bundle(cls, directory: str | os.PathLike[str]) -> ContainerSpec:
        """From an OCI bundle: a directory with a ``config.json``. Raises `SpecError` as `from_oci` does."""
        from execdrivers.oci import from_bundle

        return from_bundle(directory)


_OWN = frozenset(item.name for item in attrs.fields(ContainerSpec)) - {"args"}
_LIMITS = frozenset(item.name for item in attrs.fields(Resources)) - _OWN
