"""Renders a spec into LXC's configuration, and the launcher's part of the work. Pure but for looks at the rootfs.

LXC makes the namespaces, the root, the mounts, the cgroups and the network. What concerns the process itself, and what
LXC has no key for, is done by the core's launcher, which is the container's first process: see docs/lxc.md.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import cgroups, defaults, seccomp, users
from execdrivers.cgroups import devices
from execdrivers.driver import Plan, Step
from execdrivers.errors import SpecError
from execdrivers.launcher import (
    LAUNCHER_PATH,
    Operation,
    capability_sets,
    check_capabilities,
    filesystems,
    landlock_guarantee,
    operation,
    process_operations,
)
from execdrivers.launcher.operations import MOUNT_ATTRIBUTES
from execdrivers.spec import Mount
from execdrivers_lxc import rootfs
from execdrivers_lxc.options import raw_keys
from execdrivers_lxc.probe import Host
from execdrivers_lxc.syntax import checked, entry, line

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec

__all__ = ["DIRECTORY", "Config", "has_proc", "render", "render_exec"]

#: Stands in plans for the container's own directory.
DIRECTORY = "DIRECTORY"

#: OCI's kind of namespace → LXC's.
_NAMESPACES = {"pid": "pid", "uts": "uts", "ipc": "ipc", "network": "net", "cgroup": "cgroup", "mount": "mnt"}
#: Attributes that LXC sets as meant; "ro" would make the file system itself read-only. The launcher sets the others.
_LXC_ATTRIBUTES = frozenset({"nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime"})
#: Options that mean something to LXC and not to the file system.
_LXC_OPTIONS = ("create=", "optional", "relative", "idmap=", "defaults", "bind", "remount")


@attrs.frozen(kw_only=True)
class Config:
    """All that a launch needs. ``directory`` is the container's own, below which LXC keeps its files."""

    id: str
    directory: str
    lines: tuple[tuple[str, str], ...]
    operations: tuple[Operation, ...]
    #: Below each cgroup hierarchy's root.
    cgroup: str
    own_pids: bool
    #: LXC is to note how often memory ran out, before it removes the cgroup.
    notes_oom: bool
    #: And what it has used.
    accounting: bool
    #: Places of mounts that the rootfs, or what is bound into it, lacks: where, what, and whether a directory.
    missing: tuple[tuple[str, str, bool], ...]
    #: Where changes to the root go, "" when they stay.
    layer: str
    guarantees: Mapping[str, Any]

    @property
    def path(self) -> str:
        """LXC's own name for a directory of containers (``-P``)."""
        return f"{self.directory}/lxc"

    @property
    def log(self) -> str:
        """Where LXC's monitor logs."""
        return f"{self.path}/{self.id}/log"

    @property
    def text(self) -> bytes:
        """The configuration file."""
        return b"".join(line(key, value) for key, value in self.lines)

    def argv(self, tool: str) -> tuple[str, ...]:
        """What starts the container; ``tool`` is lxc-start. At DEBUG its log tells how the first process ended."""
        return (tool, "-q", "-F", "-n", self.id, "-P", self.path, "-o", self.log, "-l", "DEBUG")

    def plan(self, tool: str) -> Plan:
        """As people see it."""
        steps = [Step("mkdir" if directory else "touch", {"path": top + path}) for top, path, directory in self.missing]
        written = self.text.decode("utf-8", "surrogateescape").split("\n")[:-1]
        steps += [Step("config", {"line": text}) for text in written]
        steps.append(Step("run", {"args": list(self.argv(tool))}))
        steps.extend(item.step() for item in self.operations)
        return Plan(driver="lxc", steps=tuple(steps))


def render(
    spec: ContainerSpec,
    id: str,
    host: Host,
    directory: str = DIRECTORY,
    cgroup: str = "",
    *,
    accounting: bool = False,
) -> Config:
    """The configuration for a spec; ``cgroup`` is not the usual one where that is another's.

    ``accounting`` is as in `CreateRequest`: what it has used in all is noted at its end.

    Raises `SpecError` for what does not fit the rootfs, LXC or the host.
    """
    where = cgroup or f"{cgroups.parent()}/{id}"
    return _Renderer(spec, id, host, directory, where, accounting=accounting).render()


def render_exec(spec: ContainerSpec, id: str, host: Host) -> tuple[Operation, ...]:
    """The operations of one more process, which lxc-attach brings into the container."""
    user = users.resolve(spec.user, spec.rootfs, spec.additional_gids)
    operations = [operation("channel"), *_stdio(spec), operation("session")]
    if spec.oom_score_adj is not None:
        operations.append(operation("write", "/proc/self/oom_score_adj", str(spec.oom_score_adj)))
    environment = defaults.environment(spec, user.home, spec.hostname or id)
    confined = _filter(spec, user)
    process = process_operations(spec, user, environment, available=host.bounding, first=False, seccomp=confined)
    return (*operations, *process)


def _filter(spec: ContainerSpec, user: users.User) -> seccomp.Filter | None:
    return seccomp.compile(spec, capability_sets(spec.capabilities, root=user.uid == 0).bounding)


def has_proc(spec: ContainerSpec) -> bool:
    """Whether a launcher finds itself in the running container."""
    mounts = filesystems.mounts(spec)
    return any(mount.destination == "/proc" and mount.type == "proc" for mount in mounts)


def _stdio(spec: ContainerSpec) -> Iterator[Operation]:
    if not spec.tty:
        yield operation("stdio")  # so that neither do LXC's words get into them, nor does LXC hold them open


class _Renderer:
    """One rendering: what several parts need to know, and the parts in order."""

    def __init__(
        self, spec: ContainerSpec, id: str, host: Host, directory: str, cgroup: str, *, accounting: bool
    ) -> None:
        self.spec = spec
        self.accounting = accounting
        self.id = id
        self.host = host
        self.directory = directory
        assert spec.rootfs is not None  # rootfs.host is not among the features
        #: LXC takes no link for a root.
        self.root = os.path.realpath(spec.rootfs)
        rootfs.check(spec)
        check_capabilities(spec.capabilities, host.bounding)
        self.user = users.resolve(spec.user, spec.rootfs, spec.additional_gids)
        self.namespaces = self._namespaces()
        self.capabilities = capability_sets(spec.capabilities, root=self.user.uid == 0)
        #: Devices made by an allowed mknod(2) stay dead, unless the container may remount as it likes anyway.
        self.nodev = "CAP_SYS_ADMIN" not in self.capabilities.bounding
        self.cgroup = cgroup
        self.mounts = filesystems.mounts(spec)
        self.entries: list[str] = []
        self.beginning: list[Operation] = []
        self.operations: list[Operation] = []
        #: Where something is mounted already.
        self.covered: dict[str, Mount] = {}
        self.temporary: list[str] = []
        self.missing: list[tuple[str, str, bool]] = []
        #: Place of a bind → the attributes that it gives to all below.
        self.recursive: dict[str, tuple[str, ...]] = {}

    def render(self) -> Config:
        for index, mount in enumerate(self.mounts):
            self._mount(mount, self._field(mount, index))
        self._cover()
        self._devices()
        self._hidden_paths()
        if self.spec.readonly:
            self.operations.append(operation("set_attributes", "/", 0, ("ro",), (), ""))
        lines = list(self._lines())
        for key, value, field in raw_keys(self.spec, lines):
            lines.append((key, checked(value, field)))
        return Config(
            id=self.id,
            directory=self.directory,
            lines=tuple(lines),
            operations=(*self._first_operations(), *self.beginning, *self.operations, *self._process()),
            cgroup=self.cgroup,
            own_pids="pid" in self.namespaces,
            notes_oom=self._notes_oom,
            accounting=self.accounting,
            missing=tuple(self.missing),
            layer=self._layer if self.spec.ephemeral else "",
            guarantees=self._guarantees(),
        )

    def _field(self, mount: Mount, index: int) -> str:
        own = len(self.mounts) - len(self.spec.mounts)
        given = self.spec.mounts.index(mount) if mount in self.spec.mounts else index - own
        return f"mounts[{max(given, 0)}]"

    def _namespaces(self) -> tuple[str, ...]:
        asked = dict(self.spec.namespaces)
        if self.spec.network == "host":
            asked["network"] = "host"
        return tuple(kind for kind in defaults.NAMESPACES if asked.get(kind, "private") != "host")

    @property
    def _layer(self) -> str:
        return f"{self.directory}/lxc/{self.id}/layer"

    @property
    def _notes_oom(self) -> bool:
        return any(name.startswith("memory.") for files in self._limits().values() for name, _ in files)

    def _limits(self) -> dict[str, list[tuple[str, str]]]:
        return cgroups.values(self.spec.resources, self.host.cgroups)

    # --- the configuration

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "lxc.init.cmd", LAUNCHER_PATH
        yield "lxc.hook.version", "1"  # a hook's arguments are in its environment, not at its end
        yield from self._root()
        yield from (("lxc.console.path", "none"), ("lxc.tty.max", "0"), ("lxc.pty.max", "0"), ("lxc.autodev", "0"))
        # The container outlives its monitor: it is found again, and cleaned up after, without it.
        yield "lxc.monitor.signal.pdeath", "0"
        yield "lxc.apparmor.profile", "unconfined"
        if len(self.namespaces) < len(defaults.NAMESPACES):
            yield "lxc.namespace.clone", " ".join(_NAMESPACES[kind] for kind in self.namespaces)
        if "uts" in self.namespaces:
            yield "lxc.uts.name", self.spec.hostname or self.id[:63]
        yield from self._network()
        yield from self._cgroups()
        for name, value in self.spec.sysctls.items():
            field = f'sysctls["{name}"]'
            if "/" in name:
                raise SpecError(field, value, "has a name that LXC cannot express", "use another driver")
            yield f"lxc.sysctl.{name}", checked(value, field)
        if self.spec.oom_score_adj is not None:
            yield "lxc.proc.oom_score_adj", str(self.spec.oom_score_adj)
        for mounted in self.entries:
            yield "lxc.mount.entry", mounted

    def _root(self) -> Iterator[tuple[str, str]]:
        root = checked(self.root, "rootfs")
        if not self.spec.ephemeral:
            yield "lxc.rootfs.path", f"dir:{root}"
        else:
            if set(root) & set(":,\\\"'"):
                problem = "has a character in its name that LXC's overlay paths cannot have"
                raise SpecError("rootfs", root, problem, "rename it, or bind it elsewhere")
            size = f",size={self.spec.ephemeral_size}" if self.spec.ephemeral_size else ""
            layer = shlex.quote(checked(self._layer, "rootfs"))
            # In the container's own mount namespace: it is gone with it.
            script = f"mount -n -t tmpfs -o mode=700{size} execdrivers {layer} && mkdir {layer}/upper"
            yield "lxc.hook.pre-mount", f"sh -c {shlex.quote(script)}"
            yield "lxc.rootfs.path", f"overlay:{root}:{self._layer}/upper"
        yield "lxc.rootfs.managed", "0"

    def _network(self) -> Iterator[tuple[str, str]]:
        if "network" in self.namespaces:
            yield "lxc.net.0.type", "empty"
            yield "lxc.net.0.flags", "up"
        else:
            yield "lxc.net.0.type", "none"

    def _cgroups(self) -> Iterator[tuple[str, str]]:
        if self.host.cgroup:
            yield "lxc.cgroup.relative", "1"
        yield "lxc.cgroup.dir.container", self.cgroup
        yield "lxc.cgroup.dir.monitor", f"{self.cgroup}.monitor"
        if self.host.version >= (4, 0, 5):
            yield "lxc.cgroup.dir.monitor.pivot", cgroups.parent()
        for controller, files in self._limits().items():
            prefix = "lxc.cgroup2" if self.host.cgroups.version(controller) == 2 else "lxc.cgroup"
            for name, value in files:
                yield f"{prefix}.{name}", value
        prefix = "lxc.cgroup" if "devices" in self.host.cgroups.v1 else "lxc.cgroup2"
        for name, value in self._device_rules():
            yield f"{prefix}.{name}", value
        if self._notes_oom:
            version = self.host.cgroups.version("memory")
            point = self.host.cgroups.v1.get("memory") or self.host.cgroups.v2
            file = f"{point}/{self.cgroup}/{'memory.oom_control' if version == 1 else 'memory.events'}"
            note = f"{self.directory}/lxc/{self.id}/oom"
            yield "lxc.hook.stop", checked(f"cp {shlex.quote(file)} {shlex.quote(note)}", "resources.memory")
        if self.accounting:
            from execdrivers_lxc.account import script

            words = script(self.cgroup, self.host.cgroups, f"{self.directory}/lxc/{self.id}/account")
            yield "lxc.hook.stop", checked(f"sh -c {shlex.quote(words)}", "accounting")

    def _device_rules(self) -> list[tuple[str, str]]:
        """Those that must be there unasked. LXC reads the form of v1 on v2 as well."""
        asked = self.spec.resources.devices
        if not devices.needed(asked, self.mounts, nodev=self.nodev):
            return []
        return devices.v1_files(devices.rules(asked, devices.nodes(self.spec.devices)))

    # --- the file system

    def _mount(self, mount: Mount, field: str) -> None:
        spot = rootfs.place(self.root, mount.destination, f"{field}.destination", self.covered)
        if mount.type == "cgroup":
            self._cgroup_mounts(mount, spot, field)
        elif mount.type == "bind":
            self._bind(mount, spot, field)
        else:
            self._file_system(mount, spot, field)
        self.covered[spot.path] = mount
        if _is_dev(mount):
            self.operations.extend(filesystems.standard_devices(self.spec, rootless=False))

    def _cover(self) -> None:
        """LXC starts from a procfs, and makes links in /dev: it gets its own for that, over what is there."""
        for path, type in (("/proc", "proc"), ("/dev", "tmpfs")):
            mount = next((mount for mount in self.mounts if mount.destination == path), None)
            if mount is not None and mount.type == type:
                continue
            place = self.root + path
            if mount is None and (not os.path.isdir(place) or os.path.islink(place)):
                raise SpecError("rootfs", self.root, f"has no directory {path}, which LXC needs", f"mkdir {place}")
            self.entries.append(entry(type, path, type, ["nosuid", "noexec"], "mounts"))
            self.temporary.append(path)

    def _create(self, spot: rootfs.Place, *, directory: bool = True) -> list[str]:
        """See to it that there is something to mount on; the option for LXC to make it, where only LXC can."""
        if spot.exists:
            return []
        if spot.missing and not self.spec.ephemeral:
            self.missing.append((*spot.missing, directory))
            return []
        return ["create=dir" if directory else "create=file"]

    def _bind(self, mount: Mount, spot: rootfs.Place, field: str) -> None:
        """LXC attaches it; its attributes, which LXC would set only in part, are the launcher's."""
        source = mount.source or ""
        if not os.path.lexists(source):
            raise SpecError(f"{field}.source", source, "does not exist", "make it first, or correct the path")
        options = mount.parse_options()
        words = ["rbind" if options.recursive_bind else "bind"]
        words += self._create(spot, directory=os.path.isdir(source))
        self.entries.append(entry(source, spot.path, "none", words, f"{field}.destination"))
        below = set(options.recursive_set)
        if self.nodev and options.recursive_bind and "nodev" in self._attributes(mount):
            below |= {"nodev"} - options.recursive_clear  # a node made in a mount further down is to be as dead
        whole = (tuple(sorted(below)), filesystems.cleared(options.recursive_set, options.recursive_clear))
        if any(whole):
            self.operations.append(operation("set_attributes", spot.path, 1, *whole, ""))
        top = (
            self._attributes(mount),
            (*filesystems.cleared(options.set, options.clear), *self._overdone(mount, spot)),
        )
        if whole[0]:
            self.recursive[spot.path] = whole[0]
        if any(top):
            self.operations.append(operation("set_attributes", spot.path, 0, *top, ""))

    def _file_system(self, mount: Mount, spot: rootfs.Place, field: str) -> None:
        options = mount.parse_options()
        attributes = self._attributes(mount)
        if mount.type == "devpts":
            # LXC takes away what is mounted on /dev/pts before it would mount its own.
            self.operations.extend(filesystems.mount(mount, nodev=self.nodev, rootless=False))
            return
        words = [name for name in attributes if name in _LXC_ATTRIBUTES]
        for option in options.data:
            if "," in option or option.startswith(_LXC_OPTIONS):
                problem = "is an option that LXC would take apart"
                raise SpecError(f"{field}.options", option, problem, "use another driver")
            words.append(option)
        words += self._create(spot)
        source = mount.source or mount.type
        if source.startswith("#"):
            raise SpecError(f"{field}.source", source, "would be a comment to LXC", "begin it with another character")
        self.entries.append(entry(source, spot.path, mount.type, words or ["defaults"], f"{field}.destination"))
        overdone = self._overdone(mount, spot)
        if rest := tuple(name for name in attributes if overdone or name not in _LXC_ATTRIBUTES):
            self.operations.append(operation("set_attributes", spot.path, 0, rest, overdone, ""))
        elif overdone:
            self.operations.append(operation("set_attributes", spot.path, 0, (), overdone, ""))

    def _cgroup_mounts(self, mount: Mount, spot: rootfs.Place, field: str) -> None:
        """The container's own cgroups and no others, whatever its cgroup namespace is, by bind mounts."""
        layout, attributes = self.host.cgroups, self._attributes(mount)
        create = self._create(spot)
        if not layout.v1:
            self.entries.append(entry(f"{layout.v2}/{self.cgroup}", spot.path, "none", ["bind", *create], field))
            self.operations.append(operation("set_attributes", spot.path, 0, attributes, (), ""))
            return
        self.entries.append(entry("cgroup", spot.path, "tmpfs", ["mode=755", *create], field))
        points: dict[str, list[str]] = {}
        for controller, point in layout.v1.items():
            points.setdefault(point, []).append(controller)
        for point, controllers in points.items():
            name = os.path.basename(point)
            path = f"{spot.path}/{name}"
            self.entries.append(entry(f"{point}/{self.cgroup}", path, "none", ["bind", "create=dir"], field))
            self.operations.append(operation("set_attributes", path, 0, attributes, (), ""))
            for alias in controllers:
                if alias != name:
                    self.operations.append(operation("symlink", name, f"{spot.path}/{alias}"))
        self.operations.append(operation("set_attributes", spot.path, 0, attributes, (), ""))

    def _overdone(self, mount: Mount, spot: rootfs.Place) -> tuple[str, ...]:
        """Attributes that it gets as it lies on a bind whose are recursive: by then LXC has mounted everything."""
        above = {name for path, names in self.recursive.items() if _is_below(spot.path, [path]) for name in names}
        own = {*self._attributes(mount), *(_attributes_of(mount.source or "/") if mount.type == "bind" else ())}
        return tuple(sorted(above - own))

    def _attributes(self, mount: Mount) -> tuple[str, ...]:
        options = mount.parse_options()
        attributes = tuple(name for name in MOUNT_ATTRIBUTES if name in options.set)
        # /dev becomes nodev once it has its nodes; in a devpts nobody can make any.
        exempt = mount.destination == "/dev" or mount.type == "devpts" or "nodev" in options.clear
        return (*attributes, "nodev") if self.nodev and not exempt and "nodev" not in attributes else attributes

    def _devices(self) -> None:
        self.operations.extend(filesystems.device(node, rootless=False) for node in self.spec.devices)
        if self.nodev and any(map(_is_dev, self.mounts)):
            self.operations.append(operation("set_attributes", "/dev", 0, ("nodev",), (), ""))
        if self.nodev:
            self.operations.append(operation("set_attributes", "/", 0, ("nodev",), (), ""))

    def _hidden_paths(self) -> None:
        hidden = filesystems.hidden_paths(self.spec)
        first = []
        if "/dev" in self.temporary:
            # It takes a null device to mask a file, and the root may have none.
            first = [item for item in hidden if item.name == "mask" and not _is_below(item.args[0], self.temporary)]
            self.beginning.append(operation("device", "/dev/null", stat.S_IFCHR | 0o666, 1, 3, 0, 0))
        self.beginning.extend([*first, *(operation("unmount", path) for path in self.temporary)])
        self.operations.extend(item for item in hidden if item not in first)

    # --- the process

    def _first_operations(self) -> Iterator[Operation]:
        yield operation("channel")
        yield from _stdio(self.spec)
        yield operation("propagation", "private")
        if self.spec.domainname:
            yield operation("domainname", self.spec.domainname)

    def _process(self) -> Iterator[Operation]:
        environment = defaults.environment(self.spec, self.user.home, self.spec.hostname or self.id)
        confined = _filter(self.spec, self.user)
        return process_operations(self.spec, self.user, environment, available=self.host.bounding, seccomp=confined)

    def _guarantees(self) -> Mapping[str, Any]:
        spec = self.spec
        limits = {}
        for controller, files in self._limits().items():
            point = self.host.cgroups.v1.get(controller) or self.host.cgroups.v2
            limits.update({f"{point}/{self.cgroup}/{name}": value for name, value in files})
        return {
            "namespaces": sorted(self.namespaces),
            "user": f"{self.user.uid}:{self.user.gid}",
            "rootless": False,
            "capabilities": sorted(self.capabilities.bounding),
            "no_new_privileges": spec.no_new_privileges is not False,
            "readonly_root": bool(spec.readonly),
            "seccomp": seccomp.origin(spec),
            "apparmor": None,
            "landlock": landlock_guarantee(spec.landlock),
            "cgroups": limits,
        }


def _is_dev(mount: Mount) -> bool:
    return mount.destination == "/dev" and mount.type == "tmpfs"


def _is_below(path: str, places: Sequence[str]) -> bool:
    return any((path + "/").startswith(place + "/") for place in places)


def _attributes_of(source: str) -> set[str]:
    """What a bind takes over from the mount that its source lies on."""
    flags = os.statvfs(source).f_flag
    known = {"ro": os.ST_RDONLY, "nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV, "noexec": os.ST_NOEXEC}
    return {name for name, flag in known.items() if flags & flag}
