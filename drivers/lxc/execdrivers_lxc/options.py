"""Raw configuration keys: ``driver_options={"lxc": {"lxc.key": value}}``.

They come after the rendered ones. Allowed are those that say something a spec has no word for; refused are those that
would undo what the spec or this driver sees to, and those that would do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from execdrivers.errors import SpecError

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec

__all__ = ["ALLOWED", "raw_keys"]

#: Keys that are taken, as a pattern → what for.
ALLOWED = {
    r"lxc\.cgroup2?\.(?!dir\b|relative$)[a-z_]+[\w.]*": "limits that `Resources` has no word for",
    r"lxc\.net\.[1-9]\d*\.\w[\w.]*": "interfaces besides loopback, unless the spec says what network there is",
    r"lxc\.sysctl\.\w[\w.-]*": "sysctls that the spec does not set, of the container's own namespaces",
    r"lxc\.prlimit\.[a-z]+": "limits that the spec does not set",
    r"lxc\.proc\.\w+": "files of the first process's directory in /proc",
    r"lxc\.hook\.(pre-start|pre-mount|mount|start-host|stop|post-stop)": "commands run outside the container",
    r"lxc\.(apparmor\.profile|apparmor\.allow_nesting|apparmor\.allow_incomplete|apparmor\.raw)": "confinement",
    r"lxc\.(selinux\.context|selinux\.context\.keyring|seccomp\.profile|seccomp\.allow_nesting)": "confinement",
    r"lxc\.keyring\.session": "a session keyring of its own",
    r"lxc\.time\.offset\.(boot|monotonic)": "the clocks of a time namespace",
    r"lxc\.sched\.core": "core scheduling",
    r"lxc\.arch": "the execution domain",
}

#: Refused key, as a pattern → the spec's word for it.
_FIELDS = {
    r"lxc\.(uts\.name|utsname)": "hostname",
    r"lxc\.rootfs\b.*": "rootfs, readonly or ephemeral",
    r"lxc\.mount\b.*": "mounts",
    r"lxc\.cap\..*": "capabilities",
    r"lxc\.no_new_privs": "no_new_privileges",
    r"lxc\.environment": "env",
    r"lxc\.init\..*|lxc\.execute\..*": "args, cwd, user",
    r"lxc\.namespace\..*": "namespaces",
    r"lxc\.net\..*": "network",
    r"lxc\.(console|tty|pty)\..*": "tty",
    r"lxc\.signal\..*": "stop_signal",
}
_ALLOWED = re.compile("|".join(f"(?:{pattern})" for pattern in ALLOWED), re.ASCII)


def raw_keys(spec: ContainerSpec, rendered: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """(key, value, field) of each raw line. Raises `SpecError` for what is refused."""
    taken = {key for key, _ in rendered}
    for key, value in spec.driver_options.get("lxc", {}).items():
        field = f'driver_options["lxc"]["{key}"]'
        if not _ALLOWED.fullmatch(key):
            raise SpecError(field, value, *_why_not(key))
        if key in taken and not key.startswith("lxc.hook.") and not key.startswith("lxc.apparmor."):
            raise SpecError(field, value, "is set by the spec", "set it in one of the two places")
        _check(spec, key, value, field)
        for item in value if isinstance(value, (list, tuple)) else (value,):
            yield key, _text(item, field), field


def _why_not(key: str) -> tuple[str, str]:
    if not key.startswith("lxc."):
        return "is not a key of LXC's configuration", "write it as lxc.…, see lxc.container.conf(5)"
    for pattern, name in _FIELDS.items():
        if re.fullmatch(pattern, key):
            return "would undo what the spec says", f"use the spec's own {name}"
    return "is refused: it would undo what the driver does, or do nothing", "docs/lxc.md lists the keys that are taken"


def _check(spec: ContainerSpec, key: str, value: Any, field: str) -> None:
    """What depends on the spec."""
    if key.startswith("lxc.net.") and (spec.network or spec.namespaces.get("network") == "host"):
        raise SpecError(field, value, "contradicts the spec's network", "leave network unset")
    if key.startswith("lxc.prlimit.") and f"RLIMIT_{key.rpartition('.')[2].upper()}" in spec.rlimits:
        raise SpecError(field, value, "is set by the spec", "set it in one of the two places")
    if key.startswith("lxc.sysctl."):
        try:
            spec.replace(sysctls={key.removeprefix("lxc.sysctl."): str(value)}, driver_options={})
        except SpecError as error:
            raise SpecError(field, value, error.problem, error.remedy) from None


def _text(value: Any, field: str) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, Mapping) or value is None or isinstance(value, float):
        raise SpecError(field, value, "is not a value of LXC's configuration", "give a text, a number, or a list")
    raise SpecError(field, value, "is not a text or a number", "give a list of texts for a key that is repeated")
