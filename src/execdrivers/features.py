"""The closed list of features, and which of them a spec asks for.

A driver declares features in its `Probe`; the engine refuses a spec that asks for one the driver has not. A field left
unset asks for nothing, nor does one that only loosens: whatever a driver does, it is not less than that. The
exception is ``namespace.host.*``, since a program may need what it shares with the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec, Landlock, Resources

__all__ = ["FEATURES", "required"]

_KINDS = {
    "pid": "process ids",
    "mount": "mounts",
    "uts": "host and domain name",
    "ipc": "System V IPC and POSIX message queues",
    "network": "network interfaces, addresses, ports",
    "cgroup": "the view of the cgroup tree",
    "user": "user and group ids",
    "time": "monotonic and boot clocks",
}

#: Feature → what it is.
FEATURES: Mapping[str, str] = {
    # The filesystem
    "rootfs": "run in a given root directory",
    "rootfs.host": "without a root directory: run in the host's root, read-only",
    "rootfs.readonly": "mount the root read-only",
    "rootfs.ephemeral": "keep changes to the root in memory and drop them at the exit",
    "rootfs.propagation": "set the mount propagation of the root",
    "mount.bind": "bind a file or directory of the host",
    "mount.tmpfs": "mount a filesystem in memory",
    "mount.proc": "mount procfs",
    "mount.sysfs": "mount sysfs",
    "mount.devpts": "mount an own devpts",
    "mount.mqueue": "mount POSIX message queues",
    "mount.cgroup": "mount the cgroup filesystem, version as on the host",
    "mount.overlay": "mount an overlay of directories",
    "mount.propagation": "set the propagation of a mount",
    "mount.recursive": "bind with the mounts below, or set attributes of all of them",
    "mount.idmap": "map user and group ids of a mount",
    "mount.tmpcopyup": "fill a tmpfs with what it covers",
    "mount.replace-defaults": "mount nothing but what the spec lists",
    "devices": "make device nodes beyond the standard ones",
    "masked-paths": "hide given paths",
    "readonly-paths": "make given paths read-only",
    # Namespaces
    **{f"namespace.{kind}": f"an own {kind} namespace: {what}" for kind, what in _KINDS.items()},
    **{f"namespace.host.{kind}": f"the host's {kind} namespace: {what}" for kind, what in _KINDS.items()},
    "namespace.join": "join an existing namespace by its path",
    "user-mappings": "map ids of the user namespace",
    "time-offsets": "set the clocks of the time namespace",
    "hostname": "set the host name",
    "domainname": "set the NIS domain name",
    "network.none": "an own network with loopback only",
    "network.host": "the host's network",
    "sysctl": "set kernel parameters of the container's namespaces",
    # The process
    "user": "run as a given user and group",
    "groups": "set supplementary groups",
    "other-users": "users and groups beside the command's own exist, to be changed to and to own files",
    "cwd": "set the working directory",
    "umask": "set the file mode creation mask",
    "tty": "give the process a terminal",
    "rlimits": "set resource limits of setrlimit(2)",
    "capabilities": "set the capabilities",
    "no-new-privileges": "no gain of privileges by execve(2)",
    "apparmor": "confine with an AppArmor profile",
    "selinux": "run with an SELinux label",
    "seccomp": "filter system calls",
    "landlock": "restrict files by Landlock",
    "landlock.ports": "restrict TCP ports by Landlock",
    "landlock.scopes": "keep abstract sockets and signals to the container's own processes, by Landlock",
    "seccomp.notify": "hand the listener of a filter to the calling program",
    "oom-score-adj": "adjust the score of the out-of-memory killer",
    "scheduler": "set the scheduling policy",
    "io-priority": "set the I/O priority",
    "cpu-affinity": "pin executed commands to processors",
    "personality": "set the execution domain of personality(2)",
    # Limits by cgroups
    "cgroup.memory": "limit memory",
    "cgroup.swap": "limit memory and swap together",
    "cgroup.memory-reservation": "the memory that is taken back to under pressure",
    "cgroup.memory-swappiness": "how eagerly to swap",
    "cgroup.oom-kill-disable": "stop the processes instead of killing one when memory runs out",
    "cgroup.cpu": "limit processor time",
    "cgroup.cpu-shares": "share processor time by weight",
    "cgroup.cpu-burst": "save processor time for bursts",
    "cgroup.cpu-idle": "run only when processors are idle",
    "cgroup.cpu-realtime": "grant real-time processor time",
    "cgroup.cpuset": "pin to processors and memory nodes",
    "cgroup.pids": "limit the number of processes and threads",
    "cgroup.block-io": "weigh and throttle block I/O",
    "cgroup.hugetlb": "limit huge pages",
    "cgroup.rdma": "limit RDMA resources",
    "cgroup.net-cls": "tag packets with a class id",
    "cgroup.net-prio": "set packet priorities by interface",
    "cgroup.unified": "write given files of cgroup v2",
    "cgroup.devices": "restrict access to devices by rules",
    "cgroup.path": "put the container below a given cgroup",
    # The life of the container
    "hooks": "run commands at points of the container's life",
    "annotations": "take notice of annotations",
    "init": "a small reaper as pid 1",
    "stop-signal": "stop with another signal than SIGTERM",
    # Operations
    "exec": "run further commands in the container",
    "pause": "freeze and thaw",
    "update": "change limits of a running container",
    "stats": "report use of resources",
    "pids": "list the container's processes",
    "events": "tell of memory that runs out or short while the container runs",
    "detach": "outlive the program that made it, its output and exit kept",
    "recover": "take hold of a container again after a crash of the program that made it",
    "signal": "send signals to the first process",
    "kill-all": "every process dies with the container",
}

_Features = Iterator[tuple[str, str]]


def _namespaces(kinds: Mapping[str, str]) -> _Features:
    for kind, value in kinds.items():
        feature = {"private": f"namespace.{kind}", "host": f"namespace.host.{kind}"}.get(value, "namespace.join")
        yield feature, f'namespaces["{kind}"]'


def _mounts(mounts: Any) -> _Features:
    for index, mount in enumerate(mounts):
        field = f"mounts[{index}]"
        yield f"mount.{mount.type}", f"{field}.type"
        options = mount.parse_options()
        for feature, asked in (
            ("propagation", options.propagation),
            ("recursive", options.recursive_bind or options.recursive_set or options.recursive_clear),
            ("idmap", options.idmap or options.ridmap),
            ("tmpcopyup", options.tmpcopyup),
        ):
            if asked:
                yield f"mount.{feature}", f"{field}.options"
        if mount.uid_mappings:
            yield "mount.idmap", f"{field}.uid_mappings"


def _devices(devices: Any) -> _Features:
    for index, device in enumerate(devices):
        yield "devices", f"devices[{index}]"
        if set(device.access) != set("rwm"):
            yield "cgroup.devices", f"devices[{index}].access"


def _device_rules(rules: Any) -> _Features:
    from execdrivers.spec.resources import DENY_ALL

    # Deny-all is what every driver's containers have anyway: the standard devices and those of the spec.
    if rules and rules != DENY_ALL:
        yield "cgroup.devices", "resources.devices"


def _landlock(rules: Landlock) -> _Features:
    for field, _ in rules.given():
        feature = {"bind": "landlock.ports", "connect": "landlock.ports", "scopes": "landlock.scopes"}.get(field)
        yield feature or "landlock", f"landlock.{field}"


def _seccomp(profile: Any) -> _Features:
    if profile == "unconfined":
        return
    yield "seccomp", "seccomp"
    rules = profile.get("syscalls") or ()
    if not profile.get("listenerPath") and any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in rules):
        yield "seccomp.notify", "seccomp"


def _resources(resources: Resources) -> _Features:
    for field, value in resources.given():
        yield from _asked(_RESOURCES[field], f"resources.{field}", value)


def _asked(rule: _Rule, field: str, value: Any) -> _Features:
    if callable(rule):
        yield from rule(value)
    elif isinstance(rule, str):
        yield rule, field
    elif rule is not None and value != rule[1]:
        yield rule[0], field


#: What a field that is not at its default asks for: a feature; a feature unless it has the value that only loosens;
#: what a function finds in it; nothing.
_Rule = str | tuple[str, Any] | Callable[[Any], _Features] | None

_RESOURCES: dict[str, _Rule] = {
    "memory": ("cgroup.memory", -1),
    "memory_swap": "cgroup.swap",
    "memory_reservation": ("cgroup.memory-reservation", -1),
    "memory_swappiness": "cgroup.memory-swappiness",
    "oom_kill_disable": ("cgroup.oom-kill-disable", False),
    "cpus": "cgroup.cpu",
    "cpu_quota": ("cgroup.cpu", -1),
    "cpu_period": "cgroup.cpu",
    "cpu_shares": "cgroup.cpu-shares",
    "cpu_burst": "cgroup.cpu-burst",
    "cpu_idle": ("cgroup.cpu-idle", False),
    "cpu_rt_runtime": "cgroup.cpu-realtime",
    "cpu_rt_period": "cgroup.cpu-realtime",
    "cpuset_cpus": "cgroup.cpuset",
    "cpuset_mems": "cgroup.cpuset",
    "pids": ("cgroup.pids", -1),
    "block_io": "cgroup.block-io",
    "hugepage_limits": "cgroup.hugetlb",
    "rdma": "cgroup.rdma",
    "network_class_id": "cgroup.net-cls",
    "network_priorities": "cgroup.net-prio",
    "unified": "cgroup.unified",
    "devices": _device_rules,
}

_SPEC: dict[str, _Rule] = {
    "args": None,
    "env": None,
    "default_env": None,
    "cwd": "cwd",
    "user": "user",
    "additional_gids": "groups",
    "umask": "umask",
    "tty": "tty",
    "console_size": "tty",
    "rlimits": "rlimits",
    "capabilities": "capabilities",
    "no_new_privileges": ("no-new-privileges", False),
    "apparmor_profile": ("apparmor", "unconfined"),
    "selinux_label": "selinux",
    "seccomp": _seccomp,
    "landlock": _landlock,
    "oom_score_adj": "oom-score-adj",
    "scheduler": "scheduler",
    "io_priority": "io-priority",
    "cpu_affinity": "cpu-affinity",
    "personality": "personality",
    "rootfs": "rootfs",
    "readonly": ("rootfs.readonly", False),
    "rootfs_propagation": "rootfs.propagation",
    "ephemeral": "rootfs.ephemeral",
    "ephemeral_size": "rootfs.ephemeral",
    "default_mounts": "mount.replace-defaults",
    "mounts": _mounts,
    "devices": _devices,
    "masked_paths": ("masked-paths", ()),
    "readonly_paths": ("readonly-paths", ()),
    "hostname": "hostname",
    "domainname": "domainname",
    "namespaces": _namespaces,
    "network": lambda value: iter(((f"network.{value}", "network"),)),
    "uid_mappings": "user-mappings",
    "gid_mappings": "user-mappings",
    "time_offsets": "time-offsets",
    "sysctls": "sysctl",
    "resources": _resources,
    "cgroups_path": "cgroup.path",
    "hooks": "hooks",
    "annotations": None,
    "init": "init",
    # The engine sends it, whatever the driver.
    "stop_signal": None,
    # The engine compares their names with the chosen driver's.
    "driver_options": None,
}


@lru_cache(maxsize=16)
def required(spec: ContainerSpec) -> Mapping[str, str]:
    """The features a driver needs for the spec, each with the first field that asks for it."""
    result: dict[str, str] = {}
    if spec.rootfs is None:
        result["rootfs.host"] = "rootfs"
    for field, value in spec.given():
        for feature, where in _asked(_SPEC[field], field, value):
            result.setdefault(feature, where)
    return result
