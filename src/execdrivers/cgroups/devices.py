"""Rules of device access: what they come to, and how cgroup v1 writes it. Pure.

A rule is about devices of a type and numbers, and some of r (open to read), w (open to write), m (make a node); for
each of these the last rule that speaks of it decides, and what none speaks of is denied.

Sources: Linux Documentation/admin-guide/cgroup-v1/devices.rst and security/device_cgroup.c; the OCI runtime
specification, config-linux, "Allowed Device list" and "Default Devices".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from execdrivers.errors import SpecError

if TYPE_CHECKING:
    from execdrivers.spec import Device, DeviceRule, Mount

__all__ = ["ALLOW_ALL", "Rule", "given", "needed", "nodes", "rules", "transition", "v1_files"]


class Rule(NamedTuple):
    """A rule; as text it is "allow c 1:3 rwm". ``type`` is "b" or "c", or "a" for both; a number of None is any."""

    allow: bool
    type: str
    major: int | None
    minor: int | None
    access: frozenset[str]

    def __str__(self) -> str:
        return f"{'allow' if self.allow else 'deny'} {_line(self[1:4], self.access)}"

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Inverse of ``str``."""
        verb, _, line = text.partition(" ")
        type, numbers, access = line.split()
        major, minor = (None if number == "*" else int(number) for number in numbers.split(":"))
        return cls(verb == "allow", type, major, minor, frozenset(access))

    @property
    def is_all(self) -> bool:
        """Whether no rule before it counts."""
        return self[1:] == ("a", None, None, _ALL)


_ALL = frozenset("rwm")
ALLOW_ALL = Rule(True, "a", None, None, _ALL)


def _allow(type: str, major: int | None, minor: int | None, access: str) -> Rule:
    return Rule(True, type, major, minor, frozenset(access))


#: To make a node opens nothing; programs that unpack system images make many. As docker.
_MAKE_NODES = (_allow("b", None, None, "m"), _allow("c", None, None, "m"))
#: The standard devices, and the terminals of the container's own devpts.
_STANDARD = (
    *(_allow("c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)),
    *(_allow("c", 5, minor, "rwm") for minor in (0, 2)),
    _allow("c", 136, None, "rwm"),
)


def given(spec_rules: Iterable[DeviceRule]) -> tuple[Rule, ...]:
    """Those of a spec."""
    return tuple(Rule(r.allow, r.type, r.major, r.minor, frozenset(r.access)) for r in spec_rules)


def nodes(devices: Iterable[Device]) -> tuple[Rule, ...]:
    """What the nodes of a spec are given, and no more, whatever other rules say of any but the standard devices."""
    result: list[Rule] = []
    for device in devices:
        if device.type != "p":
            allowed = Rule(
                True, "b" if device.type == "b" else "c", device.major, device.minor, frozenset(device.access)
            )
            if denied := frozenset("rw") - allowed.access:
                result.append(allowed._replace(allow=False, access=denied))
            result.append(allowed)
    return tuple(result)


def rules(spec_rules: Sequence[DeviceRule] | None, of_nodes: Iterable[Rule]) -> tuple[Rule, ...]:
    """All the rules of a container, for its spec's ``resources.devices``.

    None, and to deny everything, which says the same, leave the standard devices and the nodes of the spec; rules
    always leave these. No rules at all are no restriction, but for the nodes.
    """
    from execdrivers.spec.resources import DENY_ALL

    denied = spec_rules is None or tuple(spec_rules) == DENY_ALL
    own = _MAKE_NODES if denied else given(spec_rules or ()) or (ALLOW_ALL,)
    return (*own, *of_nodes, *_STANDARD)


def needed(
    spec_rules: Sequence[DeviceRule] | None, mounts: Iterable[Mount], *, nodev: bool, told: bool = False
) -> bool:
    """Whether rules must be there unasked, since the attribute ``nodev`` of mounts is not all there is to say.

    It is not for a container that may remount, which so has no mounts with it; where /dev is a bind of the host's; and
    where the host's later mounts come in, by the propagation of a bind or of the root (``told``).
    """
    binds = (mount for mount in mounts if mount.type == "bind")
    opens = not nodev or told or any(mount.destination == "/dev" or mount.receives for mount in binds)
    return opens and spec_rules != ()


# --- the form of v1 -------------------------------------------------------------------------------------------------

#: Type, major, minor.
_Which = tuple[str, int | None, int | None]


def v1_files(all_rules: Sequence[Rule]) -> list[tuple[str, str]]:
    """What is written to a fresh cgroup of v1: one of "all" and "none", and the exceptions.

    Raises `SpecError` for what that cannot express: a part of what a rule before has said of the whole.
    """
    allow, exceptions = False, dict[_Which, frozenset[str]]()
    for rule in all_rules:
        if rule.is_all:
            allow, exceptions = rule.allow, {}
            continue
        for type in "bc" if rule.type == "a" else rule.type:
            _apply(exceptions, rule._replace(type=type), adds=rule.allow != allow)
    if not allow:
        _complete(exceptions)
    first, rest = ("devices.allow", "devices.deny") if allow else ("devices.deny", "devices.allow")
    return [(first, "a"), *((rest, _line(which, access)) for which, access in sorted(exceptions.items(), key=_order))]


def _apply(exceptions: dict[_Which, frozenset[str]], rule: Rule, *, adds: bool) -> None:
    which = rule[1:4]
    if adds:
        exceptions[which] = exceptions.get(which, frozenset()) | rule.access
        return
    for other, access in list(exceptions.items()):
        if access & rule.access and (common := _common(which, other)) is not None:
            if common != other:
                raise SpecError(
                    "resources.devices",
                    str(rule),
                    f"takes a part out of {_line(other, access)}, which the device lists of cgroup v1 cannot",
                    "name the other devices one by one, or use cgroup v2",
                )
            left = access - rule.access
            exceptions[other] = left
            if not left:
                del exceptions[other]


def _complete(exceptions: dict[_Which, frozenset[str]]) -> None:
    """One entry must allow all that a process asks for at once: give it what wider entries allow as well."""
    grown = True
    while grown:
        grown = False
        for (one, some), (other, more) in combinations(list(exceptions.items()), 2):
            common = _common(one, other)
            if common is not None and not some | more <= exceptions.get(common, frozenset()):
                exceptions[common] = exceptions.get(common, frozenset()) | some | more
                grown = True


def _common(one: _Which, other: _Which) -> _Which | None:
    """The devices that both are about."""
    if one[0] != other[0]:
        return None
    numbers: list[int | None] = []
    for a, b in zip(one[1:], other[1:], strict=True):
        if None not in (a, b) and a != b:
            return None
        numbers.append(b if a is None else a)
    return one[0], numbers[0], numbers[1]


def _line(which: _Which, access: Iterable[str]) -> str:
    type, *numbers = which
    return (
        f"{type} {':'.join('*' if n is None else str(n) for n in numbers)} {''.join(sorted(access, key='rwm'.index))}"
    )


def _order(item: tuple[_Which, frozenset[str]]) -> tuple[str, int, int]:
    (type, major, minor), _ = item
    return type, -1 if major is None else major, -1 if minor is None else minor


def transition(listed: str, files: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same, to be written to a cgroup whose ``devices.list`` says this, without denying meanwhile what stays."""
    entries = dict(_entries(listed.splitlines()))
    (first, _), *lines = files
    if first == "devices.allow" or "a" in {type for type, _, _ in entries}:
        return list(files)
    wanted = dict(_entries(line for _, line in lines))
    obsolete = ((which, access - wanted.get(which, frozenset())) for which, access in entries.items())
    return [*lines, *(("devices.deny", _line(which, access)) for which, access in obsolete if access)]


def _entries(lines: Iterable[str]) -> Iterator[tuple[_Which, frozenset[str]]]:
    for line in lines:
        rule = Rule.parse(f"allow {line}")
        yield rule[1:4], rule.access
