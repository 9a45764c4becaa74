"""Compiles a spec, and what is known of the host, into the operations that the launcher executes.

Pure: the same spec, id, host and container root give the same plan, and nothing is changed. What only a look at the
file system can tell (does the rootfs exist, who is "www-data") is asked of rootfs.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import cgroups, seccomp
from execdrivers.cgroups import devices
from execdrivers.cgroups.devices import Rule
from execdrivers.errors import SpecError
from execdrivers.features import required
from execdrivers.launcher import (
    HookPoints,
    Operation,
    capability_sets,
    check_capabilities,
    filesystems,
    landlock_guarantee,
    operation,
    rlimit_number,
)
from execdrivers.launcher.ids import map_lines
from execdrivers.launcher.operations import MAX_DESCRIPTORS
from execdrivers.launcher.trees import Tree
from execdrivers.spec import FrozenDict, Hooks, Mount
from execdrivers_native import ids, namespaces, rootfs
from execdrivers_native.host import Host
from execdrivers_native.plan import CREATE_HOOKS, ENTERED, MAPPED, NativePlan
from execdrivers_native.process import (
    available,
    become,
    compile_exec,
    confine,
    exec_device_rules,
    inherited_profile,
    oom_score,
    process,
    wanted_user,
)

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec, IdMapping, Resources

__all__ = ["NativePlan", "compile", "compile_exec", "exec_device_rules"]

#: Order in which namespaces are listed; "time" and "user" are not made unless asked for or needed.
_DEFAULT_NAMESPACES = ("pid", "mount", "uts", "ipc", "network", "cgroup")
#: Type of mount → the namespace that it shows, and where the host has its own.
_SHOWS = {"sysfs": ("network", "/sys"), "mqueue": ("ipc", "/dev/mqueue"), "proc": ("pid", "/proc")}
#: The kernel whose overlayfs takes layers with mapped ids.
_MAPPED_LAYERS = (5, 19)
#: The launcher's first descriptor for whatever else it is given.
_FIRST_DESCRIPTOR = 6
_NO_HOOKS = Hooks()
#: File systems that show nothing of the network namespace they are mounted in.
_NO_NETWORK = frozenset({"proc", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"})


def compile(
    spec: ContainerSpec, id: str, host: Host, directory: str = "DIRECTORY", *, accounting: bool = False
) -> NativePlan:
    """The plan for a spec. ``directory`` is the container's own, which hooks are told of as its bundle.

    ``accounting`` is as in `CreateRequest`.

    Raises `SpecError` for what does not fit the rootfs or the host.
    """
    return _Compiler(spec, id, host, directory, accounting=accounting).compile()


def _kind(propagation: str | None) -> str:
    return (propagation or "").removeprefix("r")


def _check_options(spec: ContainerSpec) -> None:
    for key, value in spec.driver_options.get("native", {}).items():
        raise SpecError(f'driver_options["native"]["{key}"]', value, "is no option of this driver", "it has none")


def _check_propagation(spec: ContainerSpec) -> None:
    """A root in memory, or the host's that is read-only as a whole, cannot take in what the host mounts later."""
    if _kind(spec.rootfs_propagation) == "slave" and (spec.ephemeral or spec.rootfs is None):
        why = "cannot be with ephemeral" if spec.ephemeral else "cannot be without a rootfs"
        raise SpecError("rootfs_propagation", spec.rootfs_propagation, why, "bind what is to appear with 'rslave'")


class _Compiler:
    """One compilation: what several parts of the plan need to know, and the parts in the order of the plan."""

    def __init__(self, spec: ContainerSpec, id: str, host: Host, directory: str, *, accounting: bool) -> None:
        self.spec = spec
        self.id = id
        self.host = host
        self.hooks = HookPoints(spec.hooks, id, directory, spec.annotations) if spec.hooks != _NO_HOOKS else None
        self.rootless = not host.privileged
        _check_options(spec)
        _check_propagation(spec)
        namespaces.check(spec, host)
        self.joined = namespaces.joined(spec)
        self.found = rootfs.look(spec, wanted_user(spec, host))
        self.user = self.found.user
        self.maps = ids.choose(spec, self.user, host)
        #: In another user namespace than the caller's, without the host's rights.
        self.confined = self.maps is not None or "user" in self.joined
        self.groups = True
        #: Its mappings, where they are known.
        self.ids = self.maps
        if self.confined:
            self.ids = self.maps or namespaces.maps_of(self.joined)
            self.user, self.groups = ids.fit(spec, self.user, self.ids, host)
        check_capabilities(spec.capabilities, available(host, confined=self.confined))
        self.namespaces = self._namespaces()
        self.capabilities = capability_sets(spec.capabilities, root=self.user.uid == 0)
        #: Devices made by an allowed mknod(2) stay dead, unless the container may remount as it likes anyway.
        self.nodev = "CAP_SYS_ADMIN" not in self.capabilities.bounding
        #: The launcher cannot take hold of the host's mounts where its user does not get to; we can.
        self.lends = self.confined and host.privileged
        self.trees: list[Tree] = []
        self.profile = self._profile()
        #: To lower one's score, or raise one's limits, takes the host's rights.
        adjust = spec.oom_score_adj if self.lends else None
        self.outside = {} if adjust is None else {"oom_score_adj": str(adjust)}
        limits = spec.rlimits.items() if self.lends else ()
        self.raised = {rlimit_number(name): limit.hard for name, limit in limits}
        self.mounts = self._mounts()
        #: Without privilege it is the launcher that keeps mounts as slaves of the host's.
        self.told = self.rootless and (self._receives() or any(mount.receives for mount in self.mounts))
        cgroups.check(spec.resources, host.cgroups)
        self.devices = self._device_rules()
        self.cgroups = cgroups.plan(
            self._limits(),
            id,
            host.cgroups,
            path=spec.cgroups_path,
            devices=self.devices,
            track="pid" not in self.namespaces,
            show=any(mount.type == "cgroup" for mount in self.mounts),
            accounting=accounting,
        )
        if "pid" in self.joined and not self.cgroups:
            problem = "is shared with others, and it takes a cgroup to tell the container's processes from theirs"
            raise SpecError('namespaces["pid"]', self.joined["pid"], problem, "run as root")

    def compile(self) -> NativePlan:
        # On v1 the process moves itself, and only then may the cgroup namespace be made, rooted where it is; what joins
        # others is moved on v2 too. The clocks of a time namespace are set by who has made it and is not in it yet.
        moves = any(cgroup.version == 1 or self.joined for cgroup in self.cgroups)
        late = tuple(name for name in self.namespaces if name == "time" or (name == "cgroup" and moves))
        early = tuple(name for name in self.namespaces if name not in late)
        # Device lists would keep us from making nodes, which in a user namespace none can anyway.
        lists = [c for c in self.cgroups if c.version == 1 and "devices" in c.controllers and not self.confined]
        rooted = ("cgroup",) if lists and "cgroup" in late else ()
        soon = tuple(name for name in late if name not in rooted)
        inside, with_network = self._contents()
        bounding, *process_itself = process(
            self.spec, self.user, self.id, self.host, confined=self.confined, groups=self.groups
        )
        operations = [
            *self._enter(early),
            *self._identity_maps(),
            *self._join_cgroups([cgroup for cgroup in self.cgroups if cgroup not in lists]),
            *([operation("unshare", soon)] if soon else []),
            *self._clocks(),
            *([] if self.outside else oom_score(self.spec)),
            operation("keyring"),  # while we are who started us: ids of namespaces soon have as many keys as they may
            *self._root_of_namespace(),
            operation("session"),
            *self._names(),
            *inside,
            *self._join_cgroups(lists),
            *([operation("unshare", rooted)] if rooted else []),
            *confine(self.profile, self.spec.selinux_label),
            operation("pivot"),
            bounding,  # it takes nothing from the launcher, who may have to wait now
            *with_network,
            *self._root_propagation(),
            *process_itself,
        ]
        if self.hooks:
            operations[-1:-1] = self.hooks.inside("start_container")
        return NativePlan(
            cgroups=self.cgroups,
            namespaces=early,
            operations=tuple(operations),
            guarantees=self._guarantees(),
            joined=self.joined,
            trees=tuple(self.trees),
            maps=self.maps,
            confined=self.confined,
            profile=self.profile,
            outside=self.outside,
            raised=self.raised,
            hooks=self.hooks,
            found=self.found,
        )

    # --- who and where

    def _namespaces(self) -> tuple[str, ...]:
        asked = dict(self.spec.namespaces)
        if self.spec.network == "host":
            asked["network"] = "host"
        kinds = [name for name in _DEFAULT_NAMESPACES if asked.get(name, "private") == "private"]
        if asked.get("time") == "private" or (self.spec.time_offsets and "time" not in self.joined):
            kinds.append("time")
        return (*(("user",) if self.maps else ()), *kinds)

    # --- the process's surroundings

    def _limits(self) -> Resources | None:
        """What is unlimited takes no cgroup, which without privilege perhaps none could make."""
        if not self.rootless or any(feature.startswith("cgroup.") for feature in required(self.spec)):
            return self.spec.resources
        return None

    def _device_rules(self) -> tuple[Rule, ...]:
        """Rules that something asks for, or those that must be there unasked."""
        spec = self.spec
        rules = devices.rules(spec.resources.devices, devices.nodes(spec.devices))
        if "cgroup.devices" in required(spec):
            return rules
        asked = spec.resources.devices
        needed = devices.needed(asked, self.mounts, nodev=self.nodev, told=self._receives()) and not self.rootless
        return rules if needed and cgroups.device_rules_problem(self.host.cgroups) is None else ()

    def _enter(self, new: tuple[str, ...]) -> Iterator[Operation]:
        if self.joined:
            # Without privilege it needs its own files of /proc; what is inside sees it then in no case.
            yield operation("enter", ENTERED, new, int(self.rootless), tuple(self.joined))

    def _identity_maps(self) -> Iterator[Operation]:
        if self.maps is not None and self.maps.writer == "launcher":
            # One id each, which needs no privilege: user_namespaces(7).
            yield operation("write", "/proc/self/setgroups", "deny")
            yield operation("write", "/proc/self/uid_map", map_lines(self.maps.uids)[0])
            yield operation("write", "/proc/self/gid_map", map_lines(self.maps.gids)[0])
        elif self.maps is not None or self.outside or self.raised:
            yield operation("sync", MAPPED)

    def _clocks(self) -> Iterator[Operation]:
        if "time" in self.namespaces:
            offsets = [f"{clock} {o.secs} {o.nanosecs}" for clock, o in self.spec.time_offsets.items()]
            if offsets:
                yield operation("write", "/proc/self/timens_offsets", "\n".join(offsets))
            yield operation("clocks")

    def _root_of_namespace(self) -> Iterator[Operation]:
        if self.confined:
            identity = self.ids.root(self.user, self.host) if self.ids else (0, 0)
            yield from become(identity, groups=self.groups)

    @staticmethod
    def _join_cgroups(joined: Sequence[cgroups.CgroupDir]) -> Iterator[Operation]:
        for cgroup in joined:
            if cgroup.version == 1:
                yield operation("write", f"{cgroup.path}/tasks", "0")

    def _names(self) -> Iterator[Operation]:
        if "uts" in self.namespaces:
            yield operation("hostname", self.spec.hostname or self.id[:63])
            if self.spec.domainname:
                yield operation("domainname", self.spec.domainname)

    def _sysctls(self) -> Iterator[Operation]:
        # /proc/sys shows the writer's own namespaces, so the host's /proc, which nobody can have swapped, will do.
        for name, value in self.spec.sysctls.items():
            yield operation("write", "/proc/sys/" + name.replace(".", "/"), value)

    # --- the file system

    def _contents(self) -> tuple[Sequence[Operation], Sequence[Operation]]:
        """All that is found in it: what is made before its root is, and what afterwards, where nothing of the host's is
        needed any more. That is what shows its network, which the caller may be at work on until then."""
        made = [*self._sysctls(), *self._root(), *self._file_systems()]
        hooks, hidden = list(self._create_hooks()), list(self._hidden_paths())
        network = [operation("loopback")] if "network" in self.namespaces else []
        others = [item for item in hidden if item.name == "mask" and not item.args[0].startswith(("/proc/", "/sys/"))]
        # Which may need the network, or the host; and who is in a user namespace must see the host's sysfs still.
        if not network or hooks or others or self.spec.mounts or self.spec.sysctls or self.confined:
            return [*network, *made, *hooks, *hidden], []
        early = [item for item in hidden if item.args[0].startswith("/proc/")]
        shows = [item for item in made if item.name == "mount" and item.args[0] not in _NO_NETWORK]
        before = [item for item in made if item not in shows]
        after = [item for item in hidden if item not in early]
        return [*before, *early], [*network, *shows, *after]

    def _root(self) -> Iterator[Operation]:
        spec = self.spec
        receives = self._receives()
        yield operation("propagation", "slave" if self.told else "private")
        nodev = ("nodev",) if self.nodev else ()
        path = self.found.path
        lent = self.lends or (receives and not self.rootless)
        if lent:
            whole = spec.rootfs is None and not spec.ephemeral
            attributes = ("ro", "nosuid", *nodev) if whole else nodev
            uids, gids = self._layer_mapping(path)
            relation = "slave" if receives else ""
            tree = Tree(
                source=path,
                recursive=whole,
                recursive_set=attributes,
                propagation=relation,
                uids=uids,
                gids=gids,
            )
            yield operation("root_tree", self._tree(tree))
        if spec.ephemeral and spec.rootfs is None and self.confined and not self.lends:
            problem = "is not to be had of the host's root without privilege: its mounts are locked together"
            raise SpecError("ephemeral", True, problem, "give a rootfs, or mount a tmpfs where it is to write")
        if spec.ephemeral:
            size = (f"size={spec.ephemeral_size}",) if spec.ephemeral_size else ()
            lower = "" if lent else path
            yield operation("root_overlay", lower, nodev, int(self.confined), ("mode=700", *size))
        elif lent:
            return
        elif spec.rootfs is None:
            yield operation("root", "/", 1, ("ro", "nosuid", *nodev))
        else:
            # A user namespace may not take a tree apart whose mounts another one locked together: take it whole.
            yield operation("root", path, int(self.confined), nodev)
        if self.told and not receives:
            yield operation("set_attributes", "/", 1, (), (), "private")

    def _receives(self) -> bool:
        """Whether the root is told of what the host mounts below the rootfs."""
        asked = _kind(self.spec.rootfs_propagation) in ("slave", "shared")
        return asked and self.spec.rootfs is not None and not self.spec.ephemeral

    def _root_propagation(self) -> Iterator[Operation]:
        """To the mount namespaces that are made in the container. When all is mounted: a shared root cannot be pivoted
        to, and what is mounted before would be in them already."""
        asked = self.spec.rootfs_propagation or ""
        if _kind(asked) in ("shared", "unbindable"):
            yield operation("set_attributes", "/", int(asked.startswith("r")), (), (), _kind(asked))

    def _layer_mapping(self, path: str) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
        """Under a layer that takes all changes files have the ids inside that they have on the disk, where nothing is
        written; unless they are the container's already."""
        ephemeral = self.spec.ephemeral and self.spec.rootfs is not None
        if self.maps is None or not ephemeral or self.host.kernel < _MAPPED_LAYERS:
            return (), ()
        owner = os.stat(path)
        return ((), ()) if self.maps.own(owner.st_uid, owner.st_gid) else (self.maps.uids, self.maps.gids)

    def _mounts(self) -> tuple[Mount, ...]:
        """The defaults, each replaced by the spec's mount at its destination, then the spec's others."""
        spec = self.spec
        rootfs.check(spec, self.found.mounts)
        given = {mount.destination: mount for mount in spec.mounts}
        merged = [given.pop(mount.destination, mount) for mount in self.found.mounts]
        return tuple(filter(None, map(self._at_hand, (*merged, *given.values()))))

    def _at_hand(self, mount: Mount) -> Mount | None:
        """To mount what shows a namespace takes rights in that namespace; without them it is the host's own mount."""
        if not self.confined:
            return mount
        if mount.type == "devpts" and not self._has_group_of(mount):
            options = [option for option in mount.options if not option.startswith("gid=")]
            return attrs.evolve(mount, options=options)
        kind, source = _SHOWS.get(mount.type, ("", ""))
        if not kind or kind in self.namespaces or "user" in self.joined:
            return mount
        if kind in self.joined:
            if mount not in self.spec.mounts:
                return None
            field = f"mounts[{self.spec.mounts.index(mount)}].type"
            problem = f"shows the {kind} namespace, which is joined and belongs to another user namespace"
            raise SpecError(field, mount.type, problem, "join that user namespace as well, or leave the mount out")
        if not os.path.isdir(source):
            return None
        attributes = sorted(mount.parse_options().set)
        return Mount(destination=mount.destination, type="bind", source=source, options=("rbind", *attributes))

    def _has_group_of(self, mount: Mount) -> bool:
        """Whether the group that the terminals are to belong to exists inside."""
        gids = [int(option[4:]) for option in mount.options if option.startswith("gid=") and option[4:].isdigit()]
        return not gids or (self.ids is not None and self.groups and ids.mapped(gids, self.ids.gids) == tuple(gids))

    def _file_systems(self) -> Iterator[Operation]:
        for mount in self.mounts:
            if self.told and mount.type == "bind" and not mount.parse_options().propagation:
                mount = attrs.evolve(mount, options=(*mount.options, "rprivate"))
            if mount.type == "cgroup":
                v1 = bool(self.host.cgroups.v1)
                yield from filesystems.cgroup_mounts(mount, self.cgroups, v1=v1, nodev=self.nodev)
            elif (mapping := self._mapping(mount)) and mount in self.spec.mounts:
                yield from self._lent(mount, *mapping)
            elif mount.type == "bind" and (self.lends or (mount.receives and not self.rootless)):
                yield from self._lent(mount)
            else:
                yield from filesystems.mount(mount, nodev=self.nodev, rootless=self.confined)
            if self._is_dev(mount):
                yield from filesystems.standard_devices(self.spec, rootless=self.confined)
        for index, device in enumerate(self.spec.devices):
            if self.confined:
                rootfs.check_device(device, f"devices[{index}]")
            yield filesystems.device(device, rootless=self.confined)
        if self.nodev and any(map(self._is_dev, self.mounts)):
            yield operation("set_attributes", "/dev", 0, ("nodev",), (), "")

    def _mapping(self, mount: Mount) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]] | None:
        """The ids of an idmapped mount."""
        options = mount.parse_options()
        if not (options.idmap or options.ridmap or mount.uid_mappings):
            return None
        field = f"mounts[{self.spec.mounts.index(mount)}]"
        if mount.type != "bind":
            raise SpecError(f"{field}.type", mount.type, "cannot have its ids mapped", "map those of a bind mount")
        if mount.uid_mappings:
            return mount.uid_mappings, mount.gid_mappings
        if self.ids is None:
            problem = "maps ids, but neither the mount nor the container has mappings"
            raise SpecError(f"{field}.options", mount.options, problem, "give the mount uid_mappings and gid_mappings")
        return self.ids.uids, self.ids.gids

    def _lent(
        self, mount: Mount, uids: tuple[IdMapping, ...] = (), gids: tuple[IdMapping, ...] = ()
    ) -> Iterator[Operation]:
        """A bind mount that the caller takes hold of."""
        tree, rest = filesystems.tree(mount, nodev=self.nodev)
        # What a user namespace mounts is not for the host to have.
        peers = tree.propagation == "shared" and not self.confined
        tree = attrs.evolve(tree, uids=uids, gids=gids, map_all=mount.parse_options().ridmap, peers=peers)
        yield operation("attach", self._tree(tree), mount.destination)
        yield from rest

    def _tree(self, tree: Tree) -> int:
        """The launcher's descriptor of that tree."""
        self.trees.append(tree)
        number = _FIRST_DESCRIPTOR + len(self.joined) + len(self.trees) - 1
        if number >= MAX_DESCRIPTORS:
            problem = f"has more bind mounts than the {MAX_DESCRIPTORS - _FIRST_DESCRIPTOR} that can be handed over"
            raise SpecError("mounts", len(self.spec.mounts), problem, "bind a directory above them")
        return number

    @staticmethod
    def _is_dev(mount: Mount) -> bool:
        return mount.destination == "/dev" and mount.type == "tmpfs"

    def _create_hooks(self) -> Iterator[Operation]:
        """Before paths are hidden and the root is made read-only, which hooks of this kind are there to add to."""
        if self.hooks and (self.spec.hooks.prestart or self.spec.hooks.create_runtime):
            yield operation("sync", CREATE_HOOKS)
        if self.hooks:
            yield from self.hooks.inside("create_container")

    def _hidden_paths(self) -> Iterator[Operation]:
        spec = self.spec
        yield from filesystems.hidden_paths(spec)
        if spec.readonly and spec.rootfs is not None:
            yield operation("set_attributes", "/", 0, ("ro",), (), "")

    # --- the process itself

    def _profile(self) -> str:
        """The AppArmor profile to change to, "" for none."""
        wanted = self.spec.apparmor_profile
        if wanted is not None:
            return "" if wanted == "unconfined" else wanted
        # It is set through a procfs, and that of others' processes is not to be had in a user namespace.
        return self.host.apparmor_default if "pid" in self.namespaces or not self.confined else ""

    def _guarantees(self) -> Mapping[str, Any]:
        spec = self.spec
        caps = self.capabilities
        return FrozenDict(
            {
                "namespaces": sorted(self.namespaces),
                "joined": dict(self.joined),
                **ids.told(self.maps),
                "time_offsets": {clock: offset.to_dict() for clock, offset in spec.time_offsets.items()},
                "user": f"{self.user.uid}:{self.user.gid}",
                "rootless": self.rootless,
                "capabilities": sorted(caps.bounding),
                "no_new_privileges": spec.no_new_privileges is not False,
                "readonly_root": bool(spec.readonly) or (spec.rootfs is None and not spec.ephemeral),
                "seccomp": seccomp.origin(spec),
                "apparmor": self.profile or inherited_profile(self.host),
                "selinux": self.spec.selinux_label,
                "landlock": landlock_guarantee(spec.landlock),
                "devices": [str(rule) for rule in self.devices] or None,
                "cgroups": {f"{c.path}/{name}": value for c in self.cgroups for name, value in c.written().items()},
                "rlimits": {name: [limit.soft, limit.hard] for name, limit in spec.rlimits.items()},
            }
        )
