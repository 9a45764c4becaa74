"""What the LXC driver needs to know of the host, and whether it can run there. Changes nothing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import attrs

from execdrivers import cgroups, kernel, seccomp
from execdrivers.cgroups import Layout
from execdrivers.driver import Probe, Problem
from execdrivers.launcher import ToolError, call, landlock_features
from execdrivers_lxc.tools import environment

__all__ = ["TOOLS", "Host", "look", "probe"]

#: Tool → the features that need it; "" needs no naming: nothing goes without.
TOOLS = {
    "lxc-start": "",
    "lxc-attach": "exec",
    "lxc-freeze": "pause",
    "lxc-unfreeze": "pause",
    "lxc-cgroup": "update",
}
#: lxc.cgroup.dir.container came with it.
_MINIMUM = (4, 0, 2)
#: Seconds that a tool may take to tell its version.
_SOON = 5.0
_INSTALL = "apt-get install lxc"
_REINSTALL = "reinstall it: apt-get install --reinstall lxc"

#: What the driver enforces wherever it runs.
_ALWAYS = frozenset(
    """
    rootfs rootfs.readonly rootfs.ephemeral
    mount.bind mount.tmpfs mount.proc mount.sysfs mount.devpts mount.mqueue mount.cgroup mount.overlay mount.recursive
    mount.replace-defaults devices masked-paths readonly-paths
    namespace.pid namespace.mount namespace.uts namespace.ipc namespace.network namespace.cgroup
    namespace.host.pid namespace.host.uts namespace.host.ipc namespace.host.network namespace.host.cgroup
    namespace.host.user namespace.host.time
    hostname domainname network.none network.host sysctl
    user groups other-users cwd umask tty rlimits capabilities no-new-privileges oom-score-adj
    init pids stats events recover detach signal kill-all
    """.split()
)
#: Known to LXC, and why it is not enough.
_NEVER = {
    "rootfs.host": Problem("LXC cannot make the host's own root read-only with all that is mounted below it"),
    "mount.propagation": Problem("LXC makes every mount of a container shared at the end"),
    "apparmor": Problem("LXC confines the first process before it has made the container's /dev"),
    "cgroup.devices": Problem(
        "a later rule of LXC's on v1 cannot take back a part of what an earlier one allows",
        'write rules that need not: driver_options={"lxc": {"lxc.cgroup.devices.deny": …}}',
    ),
    "namespace.join": Problem("LXC joins namespaces of containers and pids, not by path"),
}


@attrs.frozen
class Host:
    """Facts of the host and of the calling process; ``tools`` has the paths of those that are there."""

    tools: Mapping[str, str]
    version: tuple[int, ...]
    problems: tuple[Problem, ...]
    bounding: int
    cgroups: Layout

    @property
    def cgroup(self) -> str:
        """Where LXC's tools are to be started, "" for anywhere.

        LXC makes its cgroups below that of the init process, which has them in the root, or systemd's place; or, told
        so (``lxc.cgroup.relative``), below that of the tool. On v2 alone a tool can be born in the root.
        """
        return "" if self.cgroups.v1 else self.cgroups.v2

    @property
    def version_text(self) -> str:
        """As LXC writes it; "" when not known."""
        return ".".join(map(str, self.version))


def look() -> Host:
    """The facts now."""
    tools = {name: path for name in TOOLS if (path := shutil.which(name))}
    problems: list[Problem] = []
    version = _version(tools["lxc-start"], problems) if "lxc-start" in tools else ()
    if "lxc-start" not in tools:
        problems.append(Problem("the program lxc-start is not there", _INSTALL))
    layout = cgroups.look()
    effective, bounding = _capabilities()
    problems.extend(_host_problems(effective, layout))
    return Host(
        tools=tools,
        version=version,
        problems=tuple(problems),
        bounding=bounding,
        cgroups=layout,
    )


def _version(path: str, problems: list[Problem]) -> tuple[int, ...]:
    """The version of LXC; what is wrong with it, or with its telling, goes to ``problems``."""
    try:
        text = call((path, "--version"), _SOON, env=environment())
    except ToolError as error:
        problems.append(Problem(f"{path} --version: {error}", _REINSTALL))
        return ()
    found = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?\S*", text)
    if found is None:
        problems.append(Problem(f"{path} --version says {text[:80]!r}", _REINSTALL))
        return ()
    version = tuple(int(number or 0) for number in found.groups())
    if version < _MINIMUM:
        needed = ".".join(map(str, _MINIMUM))
        problems.append(Problem(f"LXC is {text}", f"install LXC {needed} or later"))
    return version


def _capabilities() -> tuple[int, int]:
    status = kernel.status()
    return int(status["CapEff"], 16), int(status["CapBnd"], 16)


def _host_problems(effective: int, layout: Layout) -> Iterator[Problem]:
    if os.geteuid() != 0 or not effective >> 21 & 1:  # CAP_SYS_ADMIN
        yield Problem("without privilege this driver cannot use LXC", "run as root")
        return
    if layout.v1:
        with open("/proc/1/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            homes = {line.rstrip("\n").split(":", 2)[2] for line in file} - {"/", "/init.scope"}
        if homes:
            reason = f"the init process is in the cgroup {min(homes)}, below which LXC would make its own"
            yield Problem(reason, "run where it is in the root cgroup, or on cgroup v2 alone")
    yield from cgroups.problems(layout)


def probe(host: Host) -> Probe:
    """The driver's answer on this host."""
    features = set(_ALWAYS)
    missing = dict(_NEVER)

    def decide(feature: str, problem: Problem | None) -> None:
        if problem is None:
            features.add(feature)
        else:
            missing[feature] = problem

    for feature in sorted(set(TOOLS.values()) - {""}):
        lacking = [tool for tool, needed_for in TOOLS.items() if needed_for == feature and tool not in host.tools]
        decide(feature, Problem(f"the program {lacking[0]} is not there", _INSTALL) if lacking else None)
    for feature, problem in {**cgroups.features(host.cgroups, cgroups.COMMON), **landlock_features()}.items():
        decide(feature, problem)
    for feature in ("seccomp", "seccomp.notify"):
        decide(feature, seccomp.problem())
    return Probe(
        available=not host.problems,
        version=host.version_text,
        features=frozenset(features),
        missing=missing,
        problems=host.problems,
        facts=Facts(host),
    )


class Facts(Mapping[str, Any]):
    """Facts for people. What lxc-checkconfig says takes it a tenth of a second, so it is asked when looked at."""

    def __init__(self, host: Host) -> None:
        self._known = {"cgroups": host.cgroups.kind, "tools": sorted(host.tools)}

    @cached_property
    def _verdicts(self) -> dict[str, str]:
        path = shutil.which("lxc-checkconfig")
        if path is None:
            return {}
        try:
            text = re.sub(r"\x1b\[[\d;]*m", "", call((path,), _SOON, env=environment()))
        except ToolError as error:
            return {"lxc-checkconfig": str(error)}
        return dict(re.findall(r"^([^:\n]+): (enabled|missing|required)\b", text, re.MULTILINE))

    def __getitem__(self, key: str) -> Any:
        return self._verdicts if key == "checkconfig" else self._known[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._known, "checkconfig"))

    def __len__(self) -> int:
        return len(self._known) + 1

    def __eq__(self, other: object) -> bool:
        # The verdicts are those on the kernel: the same on one host.
        return isinstance(other, Facts) and self._known == other._known

    __hash__ = None  # type: ignore[assignment]
