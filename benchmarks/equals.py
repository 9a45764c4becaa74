"""What our drivers make, told to other tools: as LXC's configuration, as runc's bundle, and as a filter for bwrap."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from execdrivers import ContainerSpec, defaults, seccomp
from execdrivers.driver import Step
from execdrivers.registry import default_registry

__all__ = ["bundle", "default_filter", "lxc_configuration", "lxc_filter"]

#: Of the driver's configuration: what makes room for its launcher, and what is each container's own.
_LEFT_OUT = (
    *("lxc.init.cmd", "lxc.hook.version", "lxc.autodev", "lxc.pty.max", "lxc.monitor.signal"),
    *("lxc.rootfs.path", "lxc.uts.name", "lxc.cgroup.dir"),
)
#: And for what LXC makes itself, in the driver's stead.
_MADE = (" dev tmpfs ", " sys sysfs ")
_MAKING = ["lxc.autodev = 1", "lxc.pty.max = 1024", "lxc.mount.auto = sys:ro", "lxc.no_new_privs = 1"]


def lxc_configuration(spec: ContainerSpec, filter_file: str = "") -> list[str]:
    """The lines for a spec: those of driver lxc, and LXC's own keys for what otherwise our launcher does."""
    steps = default_registry().get("lxc").plan(spec, "same").steps
    lines = [step.args["line"] for step in steps if step.op == "config"]
    lines = [line for line in lines if not line.startswith(_LEFT_OUT) and not any(part in line for part in _MADE)]
    lines += [*_MAKING, *map(_of_launcher, steps)]
    if filter_file:
        lines.append(f"lxc.seccomp.profile = {filter_file}")
    return [line for line in lines if line]


def _of_launcher(step: Step) -> str:
    """The line for an operation of the launcher; "" where LXC does as much unasked, or nothing is there."""
    path = str(step.args.get("destination", ""))
    if step.op == "bounding":
        names = (name.removeprefix("CAP_").lower() for name in step.args["capabilities"])
        return f"lxc.cap.keep = {' '.join(names)}"
    if step.op == "readonly" and os.path.exists(path):
        return f"lxc.mount.entry = {path[1:]} {path[1:]} none bind,ro,nosuid,nodev,noexec,relative 0 0"
    if step.op == "mask" and os.path.isdir(path):
        return f"lxc.mount.entry = tmpfs {path[1:]} tmpfs ro,nosuid,nodev,noexec 0 0"
    if step.op == "mask" and os.path.exists(path):
        return f"lxc.mount.entry = /dev/null {path[1:]} none bind 0 0"
    return ""


def default_filter() -> bytes:
    """The default filter of system calls: struct sock_filter, one after the other."""
    compiled = seccomp.compile(ContainerSpec(["true"]), defaults.CAPABILITIES)
    assert compiled is not None
    return compiled.program


def lxc_filter(spec: ContainerSpec) -> str:
    """The filter of system calls for a spec, in LXC's format: of this machine's own architecture."""
    filter: Mapping[str, Any] = bundle(spec)["linux"]["seccomp"]
    assert filter["defaultAction"] == "SCMP_ACT_ERRNO"
    return "\n".join(["2", "allowlist errno 1", "[all]", *_rules(filter["syscalls"]), ""])


_ACTIONS = {"SCMP_ACT_ALLOW": "allow", "SCMP_ACT_ERRNO": "errno {errno}"}


def _rules(rules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for rule in rules:
        action = _ACTIONS[rule["action"]].format(errno=rule.get("errnoRet", 1))
        conditions = [_condition(condition) for condition in rule.get("args") or ()]
        for name in rule["names"]:
            yield " ".join([name, action, *conditions])


def _condition(condition: Mapping[str, Any]) -> str:
    index, value, op = condition["index"], condition["value"], condition["op"]
    if op == "SCMP_CMP_MASKED_EQ":  # of OCI's two values the first is the mask
        return f"[{index},{condition.get('valueTwo', 0)},{op},{value}]"
    return f"[{index},{value},{op}]"


def bundle(spec: ContainerSpec) -> dict[str, Any]:
    """The ``config.json`` for a spec: that of driver oci, with the command itself in the place of our launcher."""
    steps = default_registry().get("oci").plan(spec, "same").steps
    [config] = [json.loads(json.dumps(step.args)) for step in steps if step.op == "config.json"]
    [command] = [step.args for step in steps if step.op == "exec"]
    config["process"] |= {"args": list(command["args"]), "env": list(command["env"])}
    return dict(config)
