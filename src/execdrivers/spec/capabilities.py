"""Capabilities: relative to the default list, or the five exact sets of capabilities(7)."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from execdrivers.errors import SpecError
from execdrivers.spec._convert import Value, each, fail, field, nearest, optional, text
from execdrivers.spec._kernel import CAPABILITIES

__all__ = ["Capabilities", "CapabilitySets"]

_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def _name(value: str) -> str:
    result = text(value).upper()
    if result == "ALL":
        return result
    result = result if result.startswith("CAP_") else f"CAP_{result}"
    if result not in CAPABILITIES:
        fail(value, "is not a capability", nearest(result, CAPABILITIES) if value else "give a name, as CAP_SYS_PTRACE")
    return result


def _exact(value: str) -> str:
    result = _name(value)
    if result == "ALL":
        fail(value, "is not one capability", "ALL is for add and drop; list the names here")
    return result


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names), key=lambda name: CAPABILITIES.get(name, -1)))


def _names(value: Iterable[str]) -> tuple[str, ...]:
    return _ordered(each(_name, value))


def _exact_names(value: Iterable[str]) -> tuple[str, ...]:
    return _ordered(each(_exact, value))


@attrs.frozen(eq=False, repr=False)
class CapabilitySets(Value):
    """The five sets that the process is given, each in the kernel's order."""

    bounding: tuple[str, ...] = field(default=(), converter=_exact_names)
    effective: tuple[str, ...] = field(default=(), converter=_exact_names)
    inheritable: tuple[str, ...] = field(default=(), converter=_exact_names)
    permitted: tuple[str, ...] = field(default=(), converter=_exact_names)
    ambient: tuple[str, ...] = field(default=(), converter=_exact_names)


@attrs.frozen(eq=False, repr=False)
class Capabilities(Value):
    """Which capabilities the process has.

    Either ``add`` and ``drop``, relative to `execdrivers.defaults.CAPABILITIES`, as docker's ``--cap-add`` and
    ``--cap-drop``: ``ALL`` is every one, and the other list then makes the exceptions. Or exact sets as OCI has them,
    where a set not given is empty. Names are taken with and without ``CAP_``, in either case.
    """

    add: tuple[str, ...] = field(default=(), converter=_names)
    drop: tuple[str, ...] = field(default=(), converter=_names)
    bounding: tuple[str, ...] | None = field(default=None, converter=optional(_exact_names))
    effective: tuple[str, ...] | None = field(default=None, converter=optional(_exact_names))
    inheritable: tuple[str, ...] | None = field(default=None, converter=optional(_exact_names))
    permitted: tuple[str, ...] | None = field(default=None, converter=optional(_exact_names))
    ambient: tuple[str, ...] | None = field(default=None, converter=optional(_exact_names))

    @property
    def exact(self) -> bool:
        """Whether the sets are given as such."""
        return any(getattr(self, name) is not None for name in _SETS)

    def _check(self) -> None:
        both = set(self.add) & set(self.drop)
        if both:
            raise SpecError("add", sorted(both)[0], "is both added and dropped", "keep it in one of the two")
        if not self.exact:
            return
        if self.add or self.drop:
            field = "add" if self.add else "drop"
            raise SpecError(field, self.add or self.drop, "cannot go with exact sets", "use one of the two ways")
        beyond = _ordered(set(self.effective or ()) - set(self.permitted or ()))
        if beyond:
            raise SpecError("effective", beyond[0], "is not in permitted, so the kernel refuses it", "add it there too")

    def resolve(self, *, root: bool = True) -> CapabilitySets:
        """The five sets. An ambient capability that is not inheritable and permitted is left out: the kernel cannot
        hold it, and OCI has runtimes warn, not fail.

        Not ``root``: those relative to the default are in the bounding set alone, as Docker has it. execve(2) would
        take the others away, and until then they would pass by the permissions of the very file it executes.
        """
        if self.exact:
            usable = set(self.inheritable or ()) & set(self.permitted or ())
            return CapabilitySets(
                self.bounding or (),
                self.effective or (),
                self.inheritable or (),
                self.permitted or (),
                _ordered(usable & set(self.ambient or ())),
            )
        from execdrivers.defaults import CAPABILITIES as default

        base = CAPABILITIES if "ALL" in self.add else () if "ALL" in self.drop else default
        result = _ordered((set(base) | set(self.add)) - set(self.drop) - {"ALL"})
        return CapabilitySets(result, result, (), result) if root else CapabilitySets(result)
