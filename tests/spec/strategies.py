"""Specs for hypothesis: every field of every class is drawn, within what the classes accept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from execdrivers.spec import (
    BlockIO,
    Capabilities,
    ContainerSpec,
    CpuAffinity,
    Device,
    DeviceRule,
    Hook,
    Hooks,
    IdMapping,
    IoPriority,
    Landlock,
    Mount,
    RdmaLimit,
    Resources,
    Rlimit,
    Scheduler,
    ThrottleDevice,
    TimeOffset,
    WeightDevice,
)
from execdrivers.spec._kernel import CAPABILITIES, NAMESPACES, RLIMITS

#: Anything but NUL; bytes that are no UTF-8 come as lone low surrogates.
texts = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), st.just("\udcff")), max_size=8
)
words = st.text("abcxyzABC019_", min_size=1, max_size=8)
paths = st.lists(st.one_of(words, st.just("ü"), st.just("..x")), min_size=1, max_size=4).map(
    lambda p: "/" + "/".join(p)
)
ids = st.integers(0, 2**32 - 2)
sizes = st.integers(2**20, 2**63 - 1)
flags = st.booleans()
env = st.dictionaries(words, texts, max_size=3)
caps = st.lists(st.sampled_from([*CAPABILITIES]), max_size=5)
json_data = st.recursive(
    st.none() | flags | st.integers() | texts | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=6,
)

#: What people pass by mistake.
junk = (
    json_data
    | st.floats()
    | st.binary(max_size=4)
    | st.just(object())
    | st.lists(st.integers() | texts, max_size=3)
    | st.dictionaries(words | st.integers(), json_data, max_size=3)
    | st.sampled_from(["9" * 5000, "-1", "/", "..", "ALL", "\ud800", b"\xff", range(3), {"a": 1}.keys(), int, 10**400])
)


def spoil(draw: Callable[[Any], Any], data: Any) -> str:
    """Replace something inside JSON data by something else; returns where, as a JSON pointer."""
    pointer = ""
    while True:
        key = draw(st.sampled_from(sorted(data) if isinstance(data, dict) else range(len(data))))
        pointer += f"/{key}"
        if not isinstance(data[key], (dict, list)) or not data[key] or draw(flags):
            break
        data = data[key]
    data[key] = draw(st.sampled_from([None, True, -7, 1.5, "x", "", [], {}, [[]], {"a": {}}, "\0"]))
    return pointer


def optional(cls: Any, required: dict[str, Any], **fields: Any) -> st.SearchStrategy[Any]:
    """Instances with the required fields and any choice of the others."""
    return st.fixed_dictionaries(required, optional=fields).map(lambda given: cls(**given))


@st.composite
def _rlimit(draw: st.DrawFn) -> Rlimit:
    hard = draw(st.integers(-1, 2**64 - 2))
    return Rlimit(draw(st.integers(0, hard) if hard != -1 else st.integers(-1, 2**64 - 2)), hard)


@st.composite
def _capabilities(draw: st.DrawFn) -> Capabilities:
    if draw(flags):
        add = draw(caps)
        return Capabilities(add=add, drop=["ALL"] if draw(flags) else [c for c in draw(caps) if c not in add])
    permitted = draw(caps)
    effective = draw(st.none() | st.lists(st.sampled_from(permitted), max_size=3)) if permitted else None
    return Capabilities(
        permitted=permitted,
        effective=effective,
        bounding=draw(st.none() | caps),
        inheritable=draw(st.none() | caps),
        ambient=draw(st.none() | caps),
    )


@st.composite
def _id_mappings(draw: st.DrawFn) -> tuple[IdMapping, ...]:
    inside, outside, result = 0, 1000, []
    for size in draw(st.lists(st.integers(1, 65536), max_size=3)):
        result.append(IdMapping(inside, outside, size))
        inside, outside = inside + size, outside + size + draw(st.integers(0, 9))
    return tuple(result)


_OPTIONS = st.lists(
    st.sampled_from(["ro", "rw", "nosuid", "nodev", "noexec", "noatime", "strictatime", "rro", "rprivate", "shared"]),
    max_size=4,
)


@st.composite
def _mount(draw: st.DrawFn) -> Mount:
    kind = draw(st.sampled_from(["bind", "tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "overlay"]))
    options = draw(_OPTIONS)
    if kind == "bind":
        options += draw(st.sampled_from([[], ["rbind"], ["bind"], ["idmap"]]))
    if kind == "tmpfs":
        options += draw(st.sampled_from([[], ["size=64m", "mode=755"], ["tmpcopyup"]]))
    if kind == "overlay":
        options.append("lowerdir=/a:/b")
    mapped = draw(_id_mappings()) if kind == "bind" else ()
    source = draw(paths if kind == "bind" else st.none() | words)
    return Mount(draw(paths), kind, source, options, uid_mappings=mapped, gid_mappings=mapped)


_numbers = {"major": st.integers(0, 4095), "minor": st.integers(0, 2**20 - 1)}
_access = st.sampled_from(["r", "rw", "rwm", "m"])
_weights = st.integers(10, 1000)
_throttles = st.lists(st.builds(ThrottleDevice, **_numbers, rate=st.integers(0, 2**63 - 1)), max_size=2)
_device_rules = optional(
    DeviceRule,
    {"allow": flags},
    type=st.sampled_from("abc"),
    major=st.integers(0, 255),
    minor=st.integers(0, 255),
    access=_access,
)
_hooks = st.lists(
    optional(Hook, {"path": paths}, args=st.lists(texts, max_size=2), env=env, timeout=st.integers(1, 600)), max_size=2
)
_cpus = st.sampled_from(["0", "0-2,4", "7"])

BLOCK_IO = {
    "weight": _weights,
    "leaf_weight": _weights,
    "weight_device": st.lists(optional(WeightDevice, _numbers, weight=_weights, leaf_weight=_weights), max_size=2),
    "throttle_read_bps_device": _throttles,
    "throttle_write_bps_device": _throttles,
    "throttle_read_iops_device": _throttles,
    "throttle_write_iops_device": _throttles,
}

RESOURCES: dict[str, st.SearchStrategy[Any]] = {
    "memory": sizes,
    "memory_swap": sizes | st.just(-1),
    "memory_reservation": sizes,
    "memory_swappiness": st.integers(0, 100),
    "oom_kill_disable": flags,
    "cpus": st.floats(0.01, 64),
    "cpu_quota": st.integers(1000, 10**6) | st.just(-1),
    "cpu_period": st.integers(1000, 10**6),
    "cpu_shares": st.integers(2, 262144),
    "cpu_burst": st.integers(0, 1000),
    "cpu_idle": flags,
    "cpu_rt_runtime": st.integers(0, 10**6),
    "cpu_rt_period": st.integers(1, 10**6),
    "cpuset_cpus": _cpus,
    "cpuset_mems": _cpus,
    "pids": st.integers(1, 4096) | st.just(-1),
    "block_io": optional(BlockIO, {}, **BLOCK_IO),
    "hugepage_limits": st.dictionaries(st.sampled_from(["2MB", "1GB"]), sizes),
    "rdma": st.dictionaries(words, optional(RdmaLimit, {}, hca_handles=ids, hca_objects=ids), max_size=2),
    "network_class_id": ids,
    "network_priorities": st.dictionaries(words, ids, max_size=2),
    "unified": st.dictionaries(st.sampled_from(["memory.high", "hugetlb.2MB.max"]), texts),
    "devices": st.lists(_device_rules, max_size=3),
}


def _resources(given: dict[str, Any]) -> Resources:
    if "cpus" in given:
        given.pop("cpu_quota", None)
        given.pop("cpu_period", None)
    if "memory" in given:
        for name in ("memory_swap", "memory_reservation"):
            if given.get(name, -1) != -1:
                smaller, larger = sorted((given["memory"], given[name]))
                given[name] = larger if name == "memory_swap" else smaller
    elif given.get("memory_swap", -1) != -1:
        del given["memory_swap"]
    return Resources(**given)


#: Every field of ContainerSpec but args.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "env": env,
    "default_env": flags,
    "cwd": paths,
    "user": st.sampled_from(["0", "1000", "1000:1000", "0:5"]),
    "additional_gids": st.lists(ids, max_size=3),
    "umask": st.integers(0, 0o777),
    "tty": flags,
    "console_size": st.tuples(st.integers(1, 65535), st.integers(1, 65535)),
    "rlimits": st.dictionaries(st.sampled_from(RLIMITS), _rlimit(), max_size=3),
    "capabilities": _capabilities(),
    "no_new_privileges": flags,
    "apparmor_profile": words | st.just("unconfined"),
    "selinux_label": words,
    "seccomp": st.just("unconfined")
    | st.just(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "syscalls": [
                {
                    "names": ["read"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 2**64 - 1, "op": "SCMP_CMP_EQ"}],
                }
            ],
        }
    ),
    "landlock": optional(
        Landlock,
        {"scopes": st.just(["signal"])},
        **dict.fromkeys(("read", "write", "execute"), st.lists(paths | st.just("/"), max_size=2)),
        **dict.fromkeys(("bind", "connect"), st.lists(st.integers(0, 65535), max_size=2)),
    ),
    "oom_score_adj": st.integers(-1000, 1000),
    "scheduler": st.builds(Scheduler, st.just("batch"), nice=st.integers(-20, 19), flags=st.just(["RESET_ON_FORK"]))
    | st.builds(Scheduler, st.just("SCHED_FIFO"), priority=st.integers(1, 99))
    | st.builds(Scheduler, st.just("DEADLINE"), runtime=ids, deadline=ids, period=ids),
    "io_priority": st.builds(IoPriority, st.sampled_from(["be", "rt", "IOPRIO_CLASS_IDLE"]), st.integers(0, 7)),
    "cpu_affinity": optional(CpuAffinity, {}, initial=_cpus, final=_cpus),
    "personality": st.sampled_from(["LINUX", "LINUX32"]),
    "rootfs": paths,
    "readonly": flags,
    "rootfs_propagation": st.sampled_from(["private", "rslave", "shared"]),
    "ephemeral": flags,
    "ephemeral_size": st.integers(4096, 2**40),
    "default_mounts": flags,
    "mounts": st.lists(_mount(), max_size=3, unique_by=lambda mount: mount.destination),
    "devices": st.lists(
        st.builds(
            Device,
            paths,
            st.sampled_from("cbp"),
            **_numbers,
            file_mode=st.none() | st.integers(0, 0o7777),
            uid=st.none() | ids,
            gid=st.none() | ids,
            access=_access,
        ),
        max_size=2,
        unique_by=lambda device: device.path,
    ),
    "masked_paths": st.lists(paths, max_size=2),
    "readonly_paths": st.lists(paths, max_size=2),
    "hostname": words,
    "domainname": words,
    "namespaces": st.dictionaries(
        st.sampled_from(NAMESPACES), st.sampled_from(["private", "host", "/proc/1/ns/x"]), max_size=4
    ),
    "network": st.sampled_from(["none", "host"]),
    "uid_mappings": _id_mappings(),
    "gid_mappings": _id_mappings(),
    "time_offsets": st.dictionaries(
        st.sampled_from(["monotonic", "boottime"]),
        st.builds(TimeOffset, st.integers(-(2**40), 2**40), st.integers(0, 10**9 - 1)),
    ),
    "sysctls": st.dictionaries(st.sampled_from(["net.ipv4.ip_forward", "kernel.sem", "fs.mqueue.msg_max"]), words),
    "resources": st.fixed_dictionaries({}, optional=RESOURCES).map(_resources),
    "cgroups_path": paths | st.just("system.slice:runc:x"),
    "hooks": st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop"], _hooks
        ),
    ).map(lambda given: Hooks(**given)),
    "annotations": st.dictionaries(words, texts, max_size=2),
    "init": flags,
    "stop_signal": st.sampled_from(["TERM", "SIGRTMIN+3", 9, "kill"]),
    "driver_options": st.dictionaries(words, st.dictionaries(texts, json_data, max_size=2), max_size=2),
}


def _spec(given: dict[str, Any]) -> ContainerSpec:
    """Drop what contradicts something else that was drawn."""
    kinds = dict(given.get("namespaces", {}))
    if "network" in given:
        kinds.pop("network", None)
    for kind, fields in {
        "uts": ("hostname", "domainname"),
        "user": ("uid_mappings", "gid_mappings"),
        "time": ("time_offsets",),
        "ipc": ("sysctls",),
        "network": ("sysctls",),
    }.items():
        if any(given.get(field) for field in fields) and kinds.get(kind) == "host":
            del kinds[kind]
    if given.get("sysctls") and given.get("network") == "host":
        del given["network"]
    if "namespaces" in given:
        given["namespaces"] = kinds
    if "landlock" in given:
        given.pop("no_new_privileges", None)
    if not given.get("tty"):
        given.pop("console_size", None)
    if not given.get("ephemeral"):
        given.pop("ephemeral_size", None)
    return ContainerSpec(**given)


def specs(**required: st.SearchStrategy[Any]) -> st.SearchStrategy[ContainerSpec]:
    """Any spec; ``required`` are the fields that it has in any case."""
    args = st.tuples(words, texts) | st.tuples(words)
    optional = {name: strategy for name, strategy in FIELDS.items() if name not in required}
    return st.fixed_dictionaries({"args": args, **required}, optional=optional).map(_spec)
