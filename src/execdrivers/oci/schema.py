"""Which property of ``config.json`` is which field of a spec."""

from __future__ import annotations

from typing import Any

from execdrivers.spec import (
    BlockIO,
    Capabilities,
    CpuAffinity,
    Device,
    DeviceRule,
    Hook,
    Hooks,
    IdMapping,
    IoPriority,
    Mount,
    RdmaLimit,
    Scheduler,
    ThrottleDevice,
    TimeOffset,
    WeightDevice,
)
from execdrivers.spec._convert import Value
from execdrivers.spec.container import RESERVED_ANNOTATIONS, STOP_SIGNAL_ANNOTATION

#: What is written; any 1.x is read. Older runtimes refuse a later one, all ignore what they do not know.
OCI_VERSION = "1.0.2"

# A kind is str, int or bool; [kind] for an array; {str: kind} for an object with free keys; ENV; or a Schema.

#: ["NAME=value", …] in OCI, a mapping here.
ENV = "env"


class Schema:
    """An OCI object that is one of our classes: property → (attribute, kind)."""

    def __init__(self, cls: type[Value], **properties: tuple[str, Any]) -> None:
        self.cls = cls
        self.properties = properties

    def keys(self) -> dict[str, str]:
        """Attribute → property."""
        return {attribute: key for key, (attribute, _) in self.properties.items()}


_ID_MAPPING = Schema(IdMapping, containerID=("container_id", int), hostID=("host_id", int), size=("size", int))
_TIME_OFFSET = Schema(TimeOffset, secs=("secs", int), nanosecs=("nanosecs", int))
MOUNT = Schema(
    Mount,
    destination=("destination", str),
    type=("type", str),
    source=("source", str),
    options=("options", [str]),
    uidMappings=("uid_mappings", [_ID_MAPPING]),
    gidMappings=("gid_mappings", [_ID_MAPPING]),
)
_DEVICE = Schema(
    Device,
    path=("path", str),
    type=("type", str),
    major=("major", int),
    minor=("minor", int),
    fileMode=("file_mode", int),
    uid=("uid", int),
    gid=("gid", int),
)
_DEVICE_RULE = Schema(
    DeviceRule,
    allow=("allow", bool),
    type=("type", str),
    major=("major", int),
    minor=("minor", int),
    access=("access", str),
)
_SCHEDULER = Schema(
    Scheduler,
    policy=("policy", str),
    nice=("nice", int),
    priority=("priority", int),
    flags=("flags", [str]),
    runtime=("runtime", int),
    deadline=("deadline", int),
    period=("period", int),
)
_IO_PRIORITY = Schema(IoPriority, **{"class": ("io_class", str)}, priority=("priority", int))
_CPU_AFFINITY = Schema(CpuAffinity, initial=("initial", str), final=("final", str))
CAPABILITIES = Schema(
    Capabilities,
    **{name: (name, [str]) for name in ("bounding", "effective", "inheritable", "permitted", "ambient")},
)
_HOOK = Schema(Hook, path=("path", str), args=("args", [str]), env=("env", ENV), timeout=("timeout", int))
_HOOKS = Schema(
    Hooks,
    prestart=("prestart", [_HOOK]),
    createRuntime=("create_runtime", [_HOOK]),
    createContainer=("create_container", [_HOOK]),
    startContainer=("start_container", [_HOOK]),
    poststart=("poststart", [_HOOK]),
    poststop=("poststop", [_HOOK]),
)
_WEIGHT = Schema(
    WeightDevice,
    major=("major", int),
    minor=("minor", int),
    weight=("weight", int),
    leafWeight=("leaf_weight", int),
)
_THROTTLE = Schema(ThrottleDevice, major=("major", int), minor=("minor", int), rate=("rate", int))
_BLOCK_IO = Schema(
    BlockIO,
    weight=("weight", int),
    leafWeight=("leaf_weight", int),
    weightDevice=("weight_device", [_WEIGHT]),
    throttleReadBpsDevice=("throttle_read_bps_device", [_THROTTLE]),
    throttleWriteBpsDevice=("throttle_write_bps_device", [_THROTTLE]),
    throttleReadIOPSDevice=("throttle_read_iops_device", [_THROTTLE]),
    throttleWriteIOPSDevice=("throttle_write_iops_device", [_THROTTLE]),
)
_RDMA = Schema(RdmaLimit, hcaHandles=("hca_handles", int), hcaObjects=("hca_objects", int))

#: Fields of the spec that are one property: field → (JSON pointer, kind).
SPEC: dict[str, tuple[str, Any]] = {
    "tty": ("/process/terminal", bool),
    "umask": ("/process/user/umask", int),
    "args": ("/process/args", [str]),
    "env": ("/process/env", ENV),
    "cwd": ("/process/cwd", str),
    "capabilities": ("/process/capabilities", CAPABILITIES),
    "no_new_privileges": ("/process/noNewPrivileges", bool),
    "apparmor_profile": ("/process/apparmorProfile", str),
    "selinux_label": ("/process/selinuxLabel", str),
    "oom_score_adj": ("/process/oomScoreAdj", int),
    "scheduler": ("/process/scheduler", _SCHEDULER),
    "io_priority": ("/process/ioPriority", _IO_PRIORITY),
    "cpu_affinity": ("/process/execCPUAffinity", _CPU_AFFINITY),
    "rootfs": ("/root/path", str),
    "readonly": ("/root/readonly", bool),
    "hostname": ("/hostname", str),
    "domainname": ("/domainname", str),
    "mounts": ("/mounts", [MOUNT]),
    "hooks": ("/hooks", _HOOKS),
    "uid_mappings": ("/linux/uidMappings", [_ID_MAPPING]),
    "gid_mappings": ("/linux/gidMappings", [_ID_MAPPING]),
    "time_offsets": ("/linux/timeOffsets", {str: _TIME_OFFSET}),
    "devices": ("/linux/devices", [_DEVICE]),
    "cgroups_path": ("/linux/cgroupsPath", str),
    "rootfs_propagation": ("/linux/rootfsPropagation", str),
    "seccomp": ("/linux/seccomp", dict),
    "sysctls": ("/linux/sysctl", {str: str}),
    "masked_paths": ("/linux/maskedPaths", [str]),
    "readonly_paths": ("/linux/readonlyPaths", [str]),
    "personality": ("/linux/personality/domain", str),
}

RESOURCES: dict[str, tuple[str, Any]] = {
    "devices": ("/linux/resources/devices", [_DEVICE_RULE]),
    "memory": ("/linux/resources/memory/limit", int),
    "memory_swap": ("/linux/resources/memory/swap", int),
    "memory_reservation": ("/linux/resources/memory/reservation", int),
    "memory_swappiness": ("/linux/resources/memory/swappiness", int),
    "oom_kill_disable": ("/linux/resources/memory/disableOOMKiller", bool),
    "cpu_shares": ("/linux/resources/cpu/shares", int),
    "cpu_quota": ("/linux/resources/cpu/quota", int),
    "cpu_period": ("/linux/resources/cpu/period", int),
    "cpu_burst": ("/linux/resources/cpu/burst", int),
    "cpu_rt_runtime": ("/linux/resources/cpu/realtimeRuntime", int),
    "cpu_rt_period": ("/linux/resources/cpu/realtimePeriod", int),
    "cpuset_cpus": ("/linux/resources/cpu/cpus", str),
    "cpuset_mems": ("/linux/resources/cpu/mems", str),
    "pids": ("/linux/resources/pids/limit", int),
    "block_io": ("/linux/resources/blockIO", _BLOCK_IO),
    "network_class_id": ("/linux/resources/network/classID", int),
    "rdma": ("/linux/resources/rdma", {str: _RDMA}),
    "unified": ("/linux/resources/unified", {str: str}),
}

#: Where a 0 says "not set": a Go program writes it so, and runc and crun read it so.
ZERO_IS_UNSET = {
    "memory",
    "memory_swap",
    "memory_reservation",
    "cpu_shares",
    "cpu_quota",
    "cpu_period",
    "cpu_rt_period",
    "pids",
}

#: Fields whose OCI form needs more than a table: where they are.
_SPECIAL = {
    "user": "/process/user",
    "additional_gids": "/process/user/additionalGids",
    "console_size": "/process/consoleSize",
    "rlimits": "/process/rlimits",
    "namespaces": "/linux/namespaces",
    "annotations": "/annotations",
    "stop_signal": f"/annotations/{STOP_SIGNAL_ANNOTATION}",
    "resources.hugepage_limits": "/linux/resources/hugepageLimits",
    "resources.network_priorities": "/linux/resources/network/priorities",
    "resources.cpu_idle": "/linux/resources/cpu/idle",
}

#: Known to the specification, without a field here.
UNSUPPORTED = (
    "/linux/intelRdt",
    "/linux/netDevices",
    "/linux/memoryPolicy",
    "/linux/mountLabel",
    "/linux/personality/flags",
    "/linux/resources/memory/kernel",
    "/linux/resources/memory/kernelTCP",
    "/linux/resources/memory/useHierarchy",
    "/linux/resources/memory/checkBeforeUpdate",
)

#: Fields OCI has no word for; each is an annotation with this name, in JSON.
EXTENSIONS = ("ephemeral", "ephemeral_size", "init", "landlock", "driver_options")

POINTERS = {
    **{field: pointer for field, (pointer, _) in SPEC.items()},
    **{f"resources.{field}": pointer for field, (pointer, _) in RESOURCES.items()},
    **_SPECIAL,
    **{field: f"/annotations/{RESERVED_ANNOTATIONS}{field}" for field in EXTENSIONS},
}
