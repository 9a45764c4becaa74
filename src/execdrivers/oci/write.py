"""From a spec to ``config.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import attrs

from execdrivers import defaults, seccomp, users
from execdrivers.errors import SpecError
from execdrivers.oci.schema import CAPABILITIES, ENV, EXTENSIONS, OCI_VERSION, RESOURCES, SPEC, Schema
from execdrivers.spec import Capabilities, ContainerSpec, DeviceRule, Hooks, Mount, Resources, Rlimit
from execdrivers.spec._convert import plain
from execdrivers.spec._kernel import NAMESPACES
from execdrivers.spec.container import RESERVED_ANNOTATIONS, STOP_SIGNAL_ANNOTATION
from execdrivers.spec.resources import DENY_ALL

__all__ = ["to_oci"]

#: RLIM_INFINITY as OCI has it.
_INFINITY = 2**64 - 1


def to_oci(spec: ContainerSpec) -> dict[str, Any]:
    """A complete ``config.json`` for the spec: unset fields are filled in from `execdrivers.defaults`."""
    if spec.rootfs is None:
        raise SpecError("rootfs", None, "is not given, and config.json needs one", "name the root directory")
    user = _user(spec)
    capabilities = _exact(spec.capabilities or Capabilities(), root=user.uid == 0)
    filled = spec.replace(
        env=defaults.environment(spec, user.home, spec.hostname or ""),
        cwd=spec.cwd or "/",
        capabilities=capabilities,
        no_new_privileges=spec.no_new_privileges is not False,
        readonly=bool(spec.readonly),
        mounts=tuple(map(_bound, defaults.mounts(spec))),
        masked_paths=defaults.MASKED_PATHS if spec.masked_paths is None else spec.masked_paths,
        readonly_paths=defaults.READONLY_PATHS if spec.readonly_paths is None else spec.readonly_paths,
        resources=_filled_resources(spec),
        apparmor_profile=None if spec.apparmor_profile == "unconfined" else spec.apparmor_profile,
        seccomp=_profile(spec, capabilities.bounding or ()),
    )
    config: dict[str, Any] = {"ociVersion": OCI_VERSION}
    _put(config, "/process/terminal", spec.tty)
    _put(config, "/process/user", {"uid": user.uid, "gid": user.gid})
    if user.groups:
        _put(config, "/process/user/additionalGids", list(user.groups))
    if spec.console_size:
        rows, columns = spec.console_size
        _put(config, "/process/consoleSize", {"height": rows, "width": columns})
    for source, table in ((filled, SPEC), (filled.resources, RESOURCES)):
        for field, (pointer, kind) in table.items():
            value = getattr(source, field)
            if value is not None and value != () and value != {} and value != Hooks():
                _put(config, pointer, _write(kind, value))
    if spec.rlimits:
        _put(config, "/process/rlimits", [_rlimit(name, limit) for name, limit in spec.rlimits.items()])
    _put(config, "/linux/namespaces", _namespaces(spec))
    limits = spec.resources
    if limits.cpu_idle is not None:
        _put(config, "/linux/resources/cpu/idle", int(limits.cpu_idle))
    if limits.hugepage_limits:
        pages = [{"pageSize": size, "limit": limit} for size, limit in limits.hugepage_limits.items()]
        _put(config, "/linux/resources/hugepageLimits", pages)
    if limits.network_priorities:
        priorities = [{"name": name, "priority": number} for name, number in limits.network_priorities.items()]
        _put(config, "/linux/resources/network/priorities", priorities)
    annotations = dict(spec.annotations)
    if spec.stop_signal:
        annotations[STOP_SIGNAL_ANNOTATION] = spec.stop_signal
    for field, value in spec.given():
        if field in EXTENSIONS:
            annotations[f"{RESERVED_ANNOTATIONS}{field}"] = json.dumps(plain(value), sort_keys=True)
    if annotations:
        config["annotations"] = annotations
    return config


def _put(config: dict[str, Any], pointer: str, value: Any) -> None:
    *holders, name = pointer.split("/")[1:]
    for holder in holders:
        config = config.setdefault(holder, {})
    config[name] = value


def _write(kind: Any, value: Any) -> Any:
    if isinstance(kind, Schema):
        result = {}
        for key, (attribute, inner) in kind.properties.items():
            item = getattr(value, attribute)
            if item is not None and (item != () or kind is CAPABILITIES) and item != {}:
                result[key] = _write(inner, item)
        return result
    if kind is ENV:
        return [f"{name}={content}" for name, content in value.items()]
    if isinstance(kind, list):
        return [_write(kind[0], item) for item in value]
    if isinstance(kind, dict):
        return {key: _write(kind[str], item) for key, item in value.items()}
    return plain(value)


def _user(spec: ContainerSpec) -> users.User:
    uid, colon, gid = (spec.user or "0").partition(":")
    numbers = users.parse_id(uid), users.parse_id(gid) if colon else 0
    complete = colon and spec.additional_gids is not None and not spec.default_env
    if numbers[0] is not None and numbers[1] is not None and (complete or not os.path.isdir(spec.rootfs or "/")):
        return users.User(uid=numbers[0], gid=numbers[1], groups=spec.additional_gids or ())
    return users.resolve(spec.user, spec.rootfs, spec.additional_gids)


def _bound(mount: Mount) -> Mount:
    """A runtime goes by the option, whatever the type says."""
    if mount.type != "bind" or {"bind", "rbind"} & set(mount.options):
        return mount
    return attrs.evolve(mount, options=("bind", *mount.options))


def _exact(capabilities: Capabilities, *, root: bool) -> Capabilities:
    # Exact sets are written as they are: what the kernel cannot hold of them is for the runtime to say.
    source = capabilities if capabilities.exact else capabilities.resolve(root=root)
    return Capabilities(**{name: getattr(source, name) or () for name in CAPABILITIES.properties})


def _profile(spec: ContainerSpec, capabilities: Iterable[str]) -> dict[str, Any] | None:
    """The default profile, or the spec's, as it is for these capabilities on this host."""
    if spec.seccomp == "unconfined":
        return None
    if spec.seccomp is None or isinstance(spec.seccomp, str):
        return seccomp.default(frozenset(capabilities))
    return seccomp.resolve(spec.seccomp, frozenset(capabilities))


def _filled_resources(spec: ContainerSpec) -> Resources:
    limits = spec.resources
    rules = limits.devices
    if rules is None:
        nodes = [device for device in spec.devices if device.type != "p"]
        own = [DeviceRule(True, item.type, item.major, item.minor, item.access) for item in nodes]
        rules = (*DENY_ALL, *own)
    return attrs.evolve(limits, cpus=None, cpu_quota=limits.quota, cpu_period=limits.period, devices=rules)


def _rlimit(name: str, limit: Rlimit) -> dict[str, Any]:
    soft, hard = (_INFINITY if value == -1 else value for value in (limit.soft, limit.hard))
    return {"type": name, "hard": hard, "soft": soft}


def _namespaces(spec: ContainerSpec) -> list[dict[str, str]]:
    wanted = dict.fromkeys(defaults.NAMESPACES, "private")
    if spec.network == "host":
        wanted["network"] = "host"
    if spec.uid_mappings or spec.gid_mappings:
        wanted["user"] = "private"
    if spec.time_offsets:
        wanted["time"] = "private"
    wanted.update(spec.namespaces)
    result = []
    for kind in NAMESPACES:
        value = wanted.get(kind, "host")
        if value != "host":
            result.append({"type": kind} if value == "private" else {"type": kind, "path": value})
    return result
