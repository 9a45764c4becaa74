"""Where in the tree of cgroups a container's are: what ``cgroups_path`` says, as a path below a hierarchy's root. Pure.

Sources: OCI runtime specification, config-linux, "Cgroups path"; systemd.slice(5) on names; runc's docs/systemd.md on
"slice:prefix:name".
"""

from __future__ import annotations

from execdrivers.errors import SpecError

__all__ = ["locate"]


def locate(path: str | None, id: str, parent: str) -> str:
    """The cgroup of container ``id``, without a leading slash.

    ``path`` is absolute, from the hierarchy's root; or relative, below ``parent``, where those without a path are; or
    "slice:prefix:name", which is the place of systemd's unit prefix-name.scope. Raises `SpecError`.
    """
    if path is None:
        return f"{parent}/{id}"
    if path.count(":") == 2 and "/" not in path:
        return _systemd(path)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        raise SpecError("cgroups_path", path, "is the root, which cannot be a container's", "name a cgroup below it")
    return "/".join(parts if path.startswith("/") else [parent, *parts])


def _systemd(path: str) -> str:
    slice, prefix, name = path.split(":")
    if not name:
        raise SpecError("cgroups_path", path, "names no unit", "write it as system.slice:execdrivers:NAME")
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return "/".join([*_slices(slice or "system.slice", path), unit])


def _slices(slice: str, path: str) -> list[str]:
    """a-b.slice lies in a.slice; -.slice is the root."""
    name = slice.removesuffix(".slice")
    if name == "-":
        return []
    parts = name.split("-")
    if name == slice or not all(parts):
        raise SpecError(
            "cgroups_path",
            path,
            f"has no slice of systemd's before the first colon ({slice!r})",
            "write it as a-b.slice",
        )
    return [f"{'-'.join(parts[: n + 1])}.slice" for n in range(len(parts))]
