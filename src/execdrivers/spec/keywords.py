"""The keywords of `ContainerSpec.build` and `execdrivers.run`, with the types that they take, for type checkers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from execdrivers.spec.capabilities import Capabilities
from execdrivers.spec.filesystem import Device, Mount
from execdrivers.spec.hooks import Hooks
from execdrivers.spec.landlock import Landlock
from execdrivers.spec.linux import IdMapping, TimeOffset
from execdrivers.spec.process import CpuAffinity, IoPriority, Rlimit, Scheduler
from execdrivers.spec.resources import BlockIO, RdmaLimit, Resources

__all__ = ["SpecFields"]

_Data = Mapping[str, Any]


class SpecFields(TypedDict, total=False):
    """Every field of `ContainerSpec` but ``args``, and those of `Resources` but ``devices``. None: not given."""

    env: Mapping[str, str] | Iterable[str] | None
    default_env: bool
    cwd: str | os.PathLike[str] | None
    user: str | int | None
    additional_gids: Iterable[int] | None
    umask: int | str | None
    tty: bool
    console_size: tuple[int, int] | None
    rlimits: Mapping[str, Rlimit | int | str | Sequence[int] | _Data] | None
    capabilities: Capabilities | _Data | None
    no_new_privileges: bool | None
    apparmor_profile: str | None
    selinux_label: str | None
    seccomp: str | _Data | None
    landlock: Landlock | _Data | None
    oom_score_adj: int | None
    scheduler: Scheduler | _Data | None
    io_priority: IoPriority | _Data | None
    cpu_affinity: CpuAffinity | _Data | None
    personality: str | None
    rootfs: str | os.PathLike[str] | None
    readonly: bool | None
    rootfs_propagation: str | None
    ephemeral: bool
    ephemeral_size: int | str | None
    default_mounts: bool
    mounts: Iterable[Mount | _Data] | None
    devices: Iterable[Device | _Data] | None
    masked_paths: Iterable[str] | None
    readonly_paths: Iterable[str] | None
    hostname: str | None
    domainname: str | None
    namespaces: Mapping[str, str] | None
    network: str | None
    uid_mappings: Iterable[IdMapping | _Data] | None
    gid_mappings: Iterable[IdMapping | _Data] | None
    time_offsets: Mapping[str, TimeOffset | _Data] | None
    sysctls: Mapping[str, str | int] | None
    resources: Resources | _Data | None
    cgroups_path: str | None
    hooks: Hooks | _Data | None
    annotations: Mapping[str, str] | None
    init: bool
    stop_signal: str | int | None
    driver_options: Mapping[str, _Data] | None

    memory: int | str | None
    memory_swap: int | str | None
    memory_reservation: int | str | None
    memory_swappiness: int | None
    oom_kill_disable: bool | None
    cpus: float | str | None
    cpu_quota: int | None
    cpu_period: int | None
    cpu_shares: int | None
    cpu_burst: int | None
    cpu_idle: bool | None
    cpu_rt_runtime: int | None
    cpu_rt_period: int | None
    cpuset_cpus: str | None
    cpuset_mems: str | None
    pids: int | None
    block_io: BlockIO | _Data | None
    hugepage_limits: Mapping[str, int | str] | None
    rdma: Mapping[str, RdmaLimit | _Data] | None
    network_class_id: int | None
    network_priorities: Mapping[str, int] | None
    unified: Mapping[str, str | int] | None
