"""Which ids of the host a container's are: the mappings of its user namespace, where it has one.

Looks at /etc/subuid and /etc/subgid, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import subids
from execdrivers.errors import SpecError
from execdrivers.launcher.ids import map_ids, map_ids_by_tool
from execdrivers.spec import IdMapping

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec
    from execdrivers.users import User
    from execdrivers_native.host import Host

__all__ = ["IdMaps", "choose", "fit", "mapped", "several_problem", "told"]

#: Ids that a container has when nobody says how many: those that a distribution's packages and users take.
_SIZE = 65536
_OWNERS = ("execdrivers", "root")


@attrs.frozen
class IdMaps:
    """The mappings, and who writes them: the launcher itself (one id each), "caller", or the "tools" of uidmap."""

    uids: tuple[IdMapping, ...]
    gids: tuple[IdMapping, ...]
    writer: str

    @property
    def groups(self) -> bool:
        """Whether setgroups(2) works inside."""
        return self.writer == "caller" or (self.writer == "tools" and _size(self.gids) > 1)

    @classmethod
    def of(cls, guarantees: Mapping[str, Any]) -> IdMaps:
        """Inverse of `told`, also from JSON."""
        sides = [tuple(map(IdMapping.from_dict, guarantees[f"{kind}_mappings"])) for kind in ("uid", "gid")]
        return cls(sides[0], sides[1], guarantees["mapped_by"])

    def own(self, uid: int, gid: int) -> bool:
        """Whether these ids of the host's are the container's."""
        return uid in _hosts(self.uids) and gid in _hosts(self.gids)

    def root(self, user: User, host: Host) -> tuple[int, int] | None:
        """The uid and gid that set up the container; None: those that the caller's own are mapped to."""
        if not host.privileged and self.own(host.uid, host.gid):
            return None
        return (0 if 0 in _inside(self.uids) else user.uid, 0 if 0 in _inside(self.gids) else user.gid)

    def write(self, pid: int) -> None:
        """Give them to that process's user namespace. Raises `LaunchError`."""
        if self.writer == "caller":
            map_ids(pid, self.uids, self.gids)
            return
        for kind, mappings in (("gid", self.gids), ("uid", self.uids)):
            map_ids_by_tool(subids.tool(kind) or f"new{kind}map", pid, mappings)


def choose(spec: ContainerSpec, user: User, host: Host) -> IdMaps | None:
    """The mappings of the container's own user namespace; None: it has none. Raises `SpecError`."""
    wanted = spec.namespaces.get("user")
    given = bool(spec.uid_mappings or spec.gid_mappings)
    if (wanted or "").startswith("/"):
        return None
    if host.privileged and wanted != "private" and not given:
        return None
    return _given(spec, host) if given else _of_root() if host.privileged else _of_user(spec, user, host)


def told(maps: IdMaps | None) -> dict[str, Any]:
    """As a container's guarantees have it."""
    if maps is None:
        return {"uid_mappings": [], "gid_mappings": [], "mapped_by": None}
    sides = {"uid_mappings": maps.uids, "gid_mappings": maps.gids}
    return {
        **{name: [mapping.to_dict() for mapping in mappings] for name, mappings in sides.items()},
        "mapped_by": maps.writer,
    }


def fit(spec: ContainerSpec, user: User, maps: IdMaps | None, host: Host) -> tuple[User, bool]:
    """The user with those of the groups that exist inside, and whether groups can be set. Raises `SpecError`.

    No mappings: they are not known, and the kernel will say what they lack.
    """
    if maps is None:
        return user, True
    _check_user(spec, user, maps.uids, maps.gids)
    if spec.additional_gids and not maps.groups:
        problem = "cannot be set: a user namespace of one id denies setgroups(2)"
        reason, remedy = several_problem(host) or ("", "map more than one gid")
        raise SpecError("additional_gids", list(spec.additional_gids), problem, f"{reason}; {remedy}".strip("; "))
    return attrs.evolve(user, groups=mapped(user.groups, maps.gids)), maps.groups


def _check_user(spec: ContainerSpec, user: User, uids: Sequence[IdMapping], gids: Sequence[IdMapping]) -> None:
    """Raise `SpecError` for a user whom the mappings do not have."""
    for kind, number, mappings in (("uid", user.uid, uids), ("gid", user.gid, gids)):
        if number not in _inside(mappings):
            problem = f"means {kind} {number}, which the container's user namespace does not have"
            raise SpecError("user", spec.user, problem, f"add it to {kind}_mappings, or choose another user")
    for index, gid in enumerate(spec.additional_gids or ()):
        if gid not in _inside(gids):
            problem = "is a gid that the container's user namespace does not have"
            raise SpecError(f"additional_gids[{index}]", gid, problem, "add it to gid_mappings, or leave it out")


def mapped(groups: Iterable[int], gids: Sequence[IdMapping]) -> tuple[int, ...]:
    """Those groups that the mappings have."""
    inside = _inside(gids)
    return tuple(group for group in groups if group in inside)


def several_problem(host: Host) -> tuple[str, str] | None:
    """Why an ordinary user's container cannot have several ids, and what would fix it; None: it can."""
    name = subids.user_name(host.uid)
    if name == str(host.uid):
        return f"uid {name} has no account, and newuidmap(1) serves none without", f"useradd --uid {name} NAME"
    for kind in ("uid", "gid"):
        ranges = subids.granted(kind, host.uid)
        if not ranges and subids.tool(kind):
            reason = f"/etc/sub{kind} grants user {name} no subordinate ids"
            return reason, f"as root: usermod --add-sub{kind}s 100000-165535 {name}"
        if problem := subids.tool_problem(kind, ranges):
            return problem
    return None


def _of_root() -> IdMaps:
    """For containers that root starts: what is granted to "execdrivers" or root, else what nobody has."""
    sides = {}
    for kind in ("uid", "gid"):
        ranges = next(filter(None, (subids.granted(kind, owner) for owner in _OWNERS)), None)
        sides[kind] = _laid_out((), ranges or (subids.free_range(_SIZE),), _SIZE)
    return IdMaps(sides["uid"], sides["gid"], "caller")


def _of_user(spec: ContainerSpec, user: User, host: Host) -> IdMaps:
    """For an ordinary user's: in a rootfs root is the caller, in the host's root the caller is the caller."""
    asked = spec.rootfs is not None or spec.user is not None or spec.additional_gids or "user" in spec.namespaces
    if not asked or several_problem(host):
        return IdMaps((IdMapping(user.uid, host.uid, 1),), (IdMapping(user.gid, host.gid, 1),), "launcher")
    sides = []
    for kind, own in (("uid", host.uid), ("gid", host.gid)):
        inside = 0 if spec.rootfs is not None else own
        sides.append(_laid_out((IdMapping(inside, own, 1),), subids.granted(kind, host.uid), _SIZE))
    return IdMaps(sides[0], sides[1], "tools")


def _laid_out(first: tuple[IdMapping, ...], ranges: Iterable[subids.Range], limit: int) -> tuple[IdMapping, ...]:
    """The ranges, ``limit`` ids at the most, one after the other from 0 on, around what ``first`` has."""
    result = list(first)
    taken = first[0].container_id if first else limit
    inside = 0
    for start, size in ranges:
        while size > 0 and inside < limit:
            if inside == taken:
                inside += 1
            count = min(size, limit - inside, *([taken - inside] if inside < taken else []))
            if count:
                result.append(IdMapping(inside, start, count))
            inside, start, size = inside + count, start + count, size - count
    return tuple(result)


def _given(spec: ContainerSpec, host: Host) -> IdMaps:
    for field in ("uid_mappings", "gid_mappings"):
        if not getattr(spec, field):
            raise SpecError(field, (), "is missing", "a user namespace needs both uid_mappings and gid_mappings")
    if host.privileged:
        return IdMaps(spec.uid_mappings, spec.gid_mappings, "caller")
    single = all(_is_own(side, own) for side, own in ((spec.uid_mappings, host.uid), (spec.gid_mappings, host.gid)))
    if not single:
        _check_granted("uid", spec.uid_mappings, host.uid, host)
        _check_granted("gid", spec.gid_mappings, host.gid, host)
    return IdMaps(spec.uid_mappings, spec.gid_mappings, "launcher" if single else "tools")


def _check_granted(kind: str, mappings: Sequence[IdMapping], own: int, host: Host) -> None:
    if subids.tool(kind) is None:
        problem = f"takes new{kind}map, which is not installed: without privilege one id alone can be mapped, {own}"
        raise SpecError(f"{kind}_mappings", [m.to_dict() for m in mappings], problem, "install uidmap (shadow-utils)")
    ranges = subids.granted(kind, host.uid)
    for index, mapping in enumerate(mappings):
        end = mapping.host_id + mapping.size
        own_id = (mapping.host_id, mapping.size) == (own, 1)
        if not own_id and not any(r.start <= mapping.host_id and end <= r.end for r in ranges):
            name = subids.user_name(host.uid)
            problem = f"is the first of {mapping.size} ids that /etc/sub{kind} does not grant user {name}"
            remedy = f"as root: usermod --add-sub{kind}s {mapping.host_id}-{end - 1} {name}"
            raise SpecError(f"{kind}_mappings[{index}].host_id", mapping.host_id, problem, remedy)


def _is_own(mappings: Sequence[IdMapping], own: int) -> bool:
    return len(mappings) == 1 and (mappings[0].host_id, mappings[0].size) == (own, 1)


class _Ids:
    """A set of ids, as ranges."""

    def __init__(self, ranges: Sequence[range]) -> None:
        self._ranges = ranges

    def __contains__(self, number: int) -> bool:
        return any(number in numbers for numbers in self._ranges)


def _inside(mappings: Sequence[IdMapping]) -> _Ids:
    return _Ids([range(m.container_id, m.container_id + m.size) for m in mappings])


def _hosts(mappings: Sequence[IdMapping]) -> _Ids:
    return _Ids([range(m.host_id, m.host_id + m.size) for m in mappings])


def _size(mappings: Sequence[IdMapping]) -> int:
    return sum(mapping.size for mapping in mappings)
