"""From ``config.json`` to a spec: every value checked for its type, every error with a JSON pointer."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from execdrivers.errors import SpecError
from execdrivers.oci.schema import (
    ENV,
    EXTENSIONS,
    MOUNT,
    OCI_VERSION,
    POINTERS,
    RESOURCES,
    SPEC,
    UNSUPPORTED,
    ZERO_IS_UNSET,
    Schema,
)
from execdrivers.spec import BlockIO, Capabilities, ContainerSpec, DeviceRule, Mount, Resources, Rlimit
from execdrivers.spec._convert import MAX_JSON, Value, load_json
from execdrivers.spec._kernel import NAMESPACES
from execdrivers.spec.container import RESERVED_ANNOTATIONS, STOP_SIGNAL_ANNOTATION
from execdrivers.spec.process import rlimit_name

__all__ = ["from_bundle", "from_oci"]


def from_bundle(directory: str | os.PathLike[str]) -> ContainerSpec:
    """The spec of an OCI bundle: a directory that holds a ``config.json``."""
    path = os.path.join(directory, "config.json")
    remedy = "name a directory made by a tool such as 'runc spec' or 'umoci unpack'"
    try:
        # Not blocking, since opening a FIFO would wait for its writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SpecError("config.json", path, "is not a regular file", remedy)
            data = file.read(MAX_JSON + 1)
    except OSError as error:
        raise SpecError("config.json", path, f"cannot be read: {error.strerror}", remedy) from None
    return from_oci(load_json(data, "config.json"), directory)


def from_oci(config: Mapping[str, Any], bundle: str | os.PathLike[str] | None = None) -> ContainerSpec:
    """The spec that a parsed ``config.json`` says; relative paths in it are relative to ``bundle``.

    What it leaves out is not filled in from our defaults but means what OCI says: no namespace, no capability, no
    masked path. Raises `SpecError` whose field is a JSON pointer.
    """
    _check_version(config)
    for pointer in UNSUPPORTED:
        value = _find(config, pointer)
        if value and value != -1:
            raise SpecError(pointer, value, "is not supported", "remove it from the configuration")
    _find(config, "/process", dict, required=True)
    _find(config, "/root", dict, required=True)
    base = None if bundle is None else os.path.abspath(bundle)
    fields: dict[str, Any] = {
        "default_env": False,
        "default_mounts": False,
        "namespaces": _read_namespaces(config),
        "rlimits": _read_rlimits(config),
        "resources": _read_resources(config),
        "user": _read_user(config),
        "additional_gids": tuple(_find(config, "/process/user/additionalGids", [int]) or ()),
        # Absent means off.
        "readonly": False,
        "no_new_privileges": False,
        "apparmor_profile": "unconfined",
        "seccomp": "unconfined",
        "capabilities": Capabilities(bounding=(), effective=(), inheritable=(), permitted=(), ambient=()),
        "masked_paths": (),
        "readonly_paths": (),
        **_read_annotations(config),
    }
    for field, (pointer, kind) in SPEC.items():
        value = _mounts(config, base) if field == "mounts" else _find(config, pointer, kind)
        # An empty string is how a Go program leaves one out.
        if value is not None and value != "":
            fields[field] = value
    size = _find(config, "/process/consoleSize", {str: int})
    if size and fields.get("tty"):
        fields["console_size"] = (size.get("height"), size.get("width"))
    for field in ("args", "cwd", "rootfs"):
        if field not in fields:
            raise SpecError(POINTERS[field], None, "is missing", "OCI requires it")
    fields["rootfs"] = _beside(fields["rootfs"], base, POINTERS["rootfs"])
    with _pointed():
        return ContainerSpec(**fields)


def _check_version(config: Any) -> None:
    if not isinstance(config, Mapping):
        raise SpecError("config.json", config, "is not an object", "write an object, as 'runc spec' does")
    version = _find(config, "/ociVersion", str, required=True)
    match = re.fullmatch(r"(\d{1,9})\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?", version, re.ASCII)
    if match is None:
        raise SpecError("/ociVersion", version, "is not a version", f"write it as {OCI_VERSION}")
    if int(match[1]) != 1:
        raise SpecError("/ociVersion", version, "is not supported", "use a configuration of version 1.x")


def _find(config: Mapping[str, Any], pointer: str, kind: Any = object, required: bool = False) -> Any:
    """The property's value, read as ``kind``; None when it, or what should hold it, is absent or null."""
    holder: Any = config
    parts = pointer.split("/")[1:]
    for depth, part in enumerate(parts):
        _expect(holder, dict, "/" + "/".join(parts[:depth]))
        holder = holder.get(part)
        if holder is None:
            if required:
                raise SpecError(pointer, None, "is missing", "OCI requires it")
            return None
    return _read(kind, holder, pointer)


def _read(kind: Any, data: Any, pointer: str) -> Any:
    if kind is object:
        return data
    if kind is ENV:
        kind = [str]
    if isinstance(kind, Schema):
        return _read_object(kind, data, pointer)
    _expect(data, kind if isinstance(kind, type) else type(kind), pointer)
    if isinstance(kind, list):
        return [_read(kind[0], item, f"{pointer}/{index}") for index, item in enumerate(data)]
    if isinstance(kind, dict):
        return {key: _read(kind[str], item, f"{pointer}/{_escape(key)}") for key, item in data.items()}
    return data


def _read_object(schema: Schema, data: Any, pointer: str) -> Value:
    _expect(data, dict, pointer)
    fields: dict[str, Any] = {}
    for key, (attribute, kind) in schema.properties.items():
        value = data.get(key)
        if value is None or (schema.cls is not Mount and value == ""):
            continue
        if schema.cls is DeviceRule and value == -1:
            continue  # an older way to say: all numbers
        if schema.cls is BlockIO and value == 0:
            continue
        fields[attribute] = _read(kind, value, f"{pointer}/{key}")
    with _pointed(pointer, schema.keys()):
        return schema.cls.from_dict(fields)


_NAMES = {str: "a string", int: "an integer", bool: "a boolean", list: "an array", dict: "an object"}


def _expect(data: Any, expected: type, pointer: str) -> None:
    kind = Mapping if expected is dict else expected
    if not isinstance(data, kind) or (expected is int and isinstance(data, bool)):
        raise SpecError(pointer, data, f"is not {_NAMES[expected]}")


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


@contextmanager
def _pointed(pointer: str = "", keys: Mapping[str, str] | None = None) -> Iterator[None]:
    """Give errors of our classes the JSON pointer of what is wrong."""
    try:
        yield
    except SpecError as error:
        raise SpecError(_pointer(error.field, pointer, keys), error.value, error.problem, error.remedy) from None


def _pointer(field: str, pointer: str, keys: Mapping[str, str] | None) -> str:
    steps = re.findall(r'\["(.*?)"\]|\[(\d+)\]|(\w+)', field, re.DOTALL)
    names = [_escape(key or index or name) for key, index, name in steps]
    if keys is not None:
        return "/".join([pointer, *(keys.get(name, name) for name in names)])
    # The longest known prefix is the property; what follows is inside it.
    for length in (2, 1):
        known = POINTERS.get(".".join(names[:length]))
        if known and len(names) >= length:
            return "/".join([known, *names[length:]])
    return field


def _beside(path: str, base: str | None, pointer: str) -> str:
    if not path.startswith("/") and base is None:
        raise SpecError(pointer, path, "is relative", "give the bundle's directory as well")
    return os.path.join(base or "/", path)


def _mounts(config: Mapping[str, Any], base: str | None) -> list[Mount]:
    mounts = []
    for index, data in enumerate(_find(config, "/mounts", [dict]) or ()):
        pointer = f"/mounts/{index}"
        options = _read([str], data.get("options") or [], f"{pointer}/options")
        source = data.get("source")
        if data.get("type") == "bind" or "bind" in options or "rbind" in options:
            source = _beside(_read(str, source or "", f"{pointer}/source"), base, f"{pointer}/source")
        mount: Mount = _read(MOUNT, {**data, "source": source}, pointer)
        mounts.append(mount)
    return mounts


def _read_namespaces(config: Mapping[str, Any]) -> dict[str, str]:
    result = dict.fromkeys(NAMESPACES, "host")
    seen = set()
    for index, item in enumerate(_find(config, "/linux/namespaces", [{str: object}]) or ()):
        pointer = f"/linux/namespaces/{index}"
        kind = _read(str, item.get("type"), f"{pointer}/type")
        path = _read(str, item.get("path") or "", f"{pointer}/path")
        if kind not in NAMESPACES:
            known = ", ".join(NAMESPACES)
            raise SpecError(f"{pointer}/type", kind, "is not a kind of namespace", f"use one of {known}")
        if kind in seen:
            raise SpecError(f"{pointer}/type", kind, "is given twice", "keep one of the two")
        if path and not path.startswith("/"):
            raise SpecError(f"{pointer}/path", path, "is not an absolute path", "give the namespace's file")
        seen.add(kind)
        result[kind] = path or "private"
    return result


def _read_rlimits(config: Mapping[str, Any]) -> dict[str, Rlimit]:
    result: dict[str, Rlimit] = {}
    for index, item in enumerate(_find(config, "/process/rlimits", [{str: object}]) or ()):
        pointer = f"/process/rlimits/{index}"
        name = _read(str, item.get("type"), f"{pointer}/type")
        limits = [_read(int, item.get(key), f"{pointer}/{key}") for key in ("soft", "hard")]
        if name in result:
            raise SpecError(f"{pointer}/type", name, "is given twice", "keep one of the two")
        with _pointed(f"{pointer}/type", {}):
            rlimit_name(name)
        with _pointed(pointer, {}):
            result[name] = Rlimit(*limits)
    return result


def _read_user(config: Mapping[str, Any]) -> str:
    user = _find(config, "/process/user", {str: object}) or {}
    uid, gid = (_read(int, user.get(key) or 0, f"/process/user/{key}") for key in ("uid", "gid"))
    for key, value in (("uid", uid), ("gid", gid)):
        if value < 0:
            raise SpecError(f"/process/user/{key}", value, "is negative", "use 0 or more")
    return f"{uid}:{gid}"


def _read_resources(config: Mapping[str, Any]) -> Resources:
    _find(config, "/linux/resources", dict)
    fields: dict[str, Any] = {"devices": ()}
    for field, (pointer, kind) in RESOURCES.items():
        value = _find(config, pointer, kind)
        if value is not None and value != "" and not (value == 0 and field in ZERO_IS_UNSET):
            fields[field] = value
    idle = _find(config, "/linux/resources/cpu/idle", int)
    if idle is not None:
        if idle not in (0, 1):
            raise SpecError("/linux/resources/cpu/idle", idle, "is neither 0 nor 1")
        fields["cpu_idle"] = bool(idle)
    for field, name, amount in (
        ("resources.hugepage_limits", "pageSize", "limit"),
        ("resources.network_priorities", "name", "priority"),
    ):
        pointer = POINTERS[field]
        fields[field.partition(".")[2]] = {
            _read(str, item.get(name), f"{pointer}/{index}/{name}"): _read(
                int, item.get(amount), f"{pointer}/{index}/{amount}"
            )
            for index, item in enumerate(_find(config, pointer, [{str: object}]) or ())
        }
    with _pointed():
        try:
            return Resources(**fields)
        except SpecError as error:
            raise error.within("resources") from None


def _read_annotations(config: Mapping[str, Any]) -> dict[str, Any]:
    annotations = _find(config, "/annotations", {str: str}) or {}
    fields: dict[str, Any] = {}
    for key in list(annotations):
        pointer = f"/annotations/{_escape(key)}"
        if key == STOP_SIGNAL_ANNOTATION:
            # Image tools write what an image does not say as an empty text.
            if given := annotations.pop(key):
                fields["stop_signal"] = given
        elif key.startswith(RESERVED_ANNOTATIONS):
            field = key.removeprefix(RESERVED_ANNOTATIONS)
            if field not in EXTENSIONS:
                raise SpecError(pointer, annotations[key], "is unknown", f"known are {', '.join(EXTENSIONS)}")
            fields[field] = load_json(annotations.pop(key), pointer)
    return {"annotations": annotations, **fields}
