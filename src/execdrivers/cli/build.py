"""From the options of ``run`` and ``explain`` to a `ContainerSpec`."""

from __future__ import annotations

import json
import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from execdrivers.cli import mounts
from execdrivers.cli.environment import environment
from execdrivers.cli.flags import NAMESPACES
from execdrivers.cli.parsing import Parser, UsageError, parse_bool, read_text
from execdrivers.cli.sharing import namespaces_of
from execdrivers.errors import SpecError, UnsupportedFeature

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec, Device

__all__ = ["Request"]

#: Spec field → the option that sets it, where `Parser.flag_of` cannot know.
_FLAGS = {
    "args": "COMMAND",
    "env": "-e/--env/--env-file",
    "rootfs": "--rootfs",
    "ephemeral": "--ephemeral",
    "ephemeral_size": "--ephemeral",
    "additional_gids": "--group-add",
    "rlimits": "--ulimit",
    "capabilities.add": "--cap-add",
    "capabilities.drop": "--cap-drop",
    "resources.pids": "--pids-limit",
    "resources.block_io": "--blkio-weight",
    "sysctls": "--sysctl",
    "annotations": "--annotation",
    "driver_options": "--driver-opt",
    "network": "--network",
    "devices": "--device",
    "no_new_privileges": "--security-opt",
    "seccomp": "--security-opt",
    "apparmor_profile": "--security-opt",
    "selinux_label": "--security-opt",
    "landlock": "--security-opt",
    **{f'namespaces["{kind}"]': f"--{option}" for kind, option in NAMESPACES.items()},
    'namespaces["network"]': "--network",
}


class Request:
    """What the options of ``run`` or ``explain`` ask for."""

    def __init__(self, parser: Parser, options: Namespace, command: Sequence[str]) -> None:
        self._parser = parser
        self._given: dict[str, Any] = vars(options)
        self._command = command
        self._origins = dict(_FLAGS)

    @contextmanager
    def naming_options(self) -> Iterator[None]:
        """Errors that name a field of the spec get the option that set it as well."""
        try:
            yield
        except (SpecError, UnsupportedFeature) as error:
            _name_option(error, self._option_of(error.field))
            if not error.remedy and not isinstance(error, UnsupportedFeature):
                error.remedy = {"seccomp": _SECCOMP, "landlock": _LANDLOCK}.get(error.field.partition(".")[0], "")
            raise

    def spec(self) -> ContainerSpec:
        """Raises `SpecError` and `UsageError`."""
        from execdrivers.spec import ContainerSpec

        bundle = self._given.get("bundle")
        for option in ("rootfs", "bundle"):  # an empty path would be that of the working directory
            if self._given.get(option) == "":
                raise UsageError(f"--{option}: '' names no directory", remedy=f"--{option} /path/of/a/directory")
        with self.naming_options():
            if bundle is None:
                spec = ContainerSpec(**self._fields())
            else:
                base = ContainerSpec.from_bundle(bundle)
                spec = base.replace(**self._over(base, self._fields()))
            groups = self._given.get("group_add")
            return spec.replace(additional_gids=_groups(spec, groups)) if groups else spec

    def limits(self) -> dict[str, Any]:
        """Only the limits that are asked for, as fields of `Resources`."""
        given = self._given
        prefix = "spec.resources."
        limits = {dest.removeprefix(prefix): value for dest, value in given.items() if dest.startswith(prefix)}
        if "pids_limit" in given:
            limits["pids"] = given["pids_limit"] or -1  # docker's 0 is no limit as well
        if given.get("blkio_weight"):  # docker's 0 is to leave it
            limits["block_io"] = {"weight": given["blkio_weight"]}
        return limits

    def _fields(self) -> dict[str, Any]:
        """Only what is asked for, as fields of `ContainerSpec`."""
        given = self._given
        fields: dict[str, Any] = {}
        if "privileged" in given:
            from execdrivers.cli.privileged import privileged

            fields = privileged()
        fields.setdefault("resources", {}).update(self.limits())
        for dest, value in given.items():
            if dest.startswith("spec.") and not dest.startswith("spec.resources."):
                fields[dest.removeprefix("spec.")] = value
        if self._command:
            fields["args"] = list(self._command)
        elif "bundle" not in given:
            raise UsageError("no command given", remedy=f"{self._parser.prog} --rootfs DIR -- sh -c 'echo hello'")
        self._fill_simple(fields)
        self._fill_capabilities(fields)
        for option in given.get("security_opt", ()):
            _apply_security(fields, option)
        self._fill_namespaces(fields)
        self._fill_mounts(fields)
        self._fill_devices(fields)
        return {name: value for name, value in fields.items() if value != {}}

    def _fill_simple(self, fields: dict[str, Any]) -> None:
        given = self._given
        if "rootfs" in given:
            fields["rootfs"] = os.path.abspath(given["rootfs"])
        if "ephemeral" in given:
            fields["ephemeral"] = True
            if given["ephemeral"] is not True:
                fields["ephemeral_size"] = given["ephemeral"]
        fields["env"] = environment(given.get("env_file", ()), given.get("env", ()))
        fields["rlimits"] = _pairs("--ulimit", given.get("ulimit", ()), "nofile=1024:2048")
        fields["sysctls"] = _pairs("--sysctl", given.get("sysctl", ()), "net.ipv4.ip_forward=1")
        fields["annotations"] = _pairs("--annotation", given.get("annotation", ()), "name=value")
        fields["driver_options"] = _driver_options(given.get("driver_opt", ()))

    def _fill_capabilities(self, fields: dict[str, Any]) -> None:
        add, drop = (self._given.get(name, []) for name in ("cap_add", "cap_drop"))
        if not add and not drop:
            return
        if "bundle" in self._given:
            raise UsageError(
                "--cap-add and --cap-drop do not go with --bundle, whose config.json lists the capabilities exactly",
                remedy="change process.capabilities in config.json",
            )
        preset = fields.get("capabilities", {}).get("add", [])
        fields["capabilities"] = {"add": [*preset, *add], "drop": drop}

    def _fill_namespaces(self, fields: dict[str, Any]) -> None:
        namespaces: dict[str, str] = {}
        for dest, mode in self._given.items():
            if dest.startswith("namespace."):
                kind = dest.removeprefix("namespace.")
                self._fill_namespace(namespaces, f"--{NAMESPACES[kind]}", kind, mode)
        network = self._given.get("network")
        if network in ("none", "host"):
            fields["network"] = network
        elif network is not None:
            self._fill_namespace(namespaces, "--network", "network", network)
        fields["namespaces"] = namespaces

    def _fill_namespace(self, namespaces: dict[str, str], option: str, kind: str, mode: str) -> None:
        first = "none" if kind == "network" else "private"
        if mode.startswith("ns:"):
            namespaces[kind] = mode.removeprefix("ns:")
        elif mode.startswith("container:"):
            shared = namespaces_of(option, kind, mode.removeprefix("container:"), self._given.get("root"))
            user = shared.pop("user", None) if kind != "user" else None
            namespaces.update(shared)
            if user:
                namespaces.setdefault("user", user)
        elif mode in ("private", "host") and kind != "network":
            namespaces[kind] = mode
        else:
            remedy = f"{option} {first}, host, ns:PATH or container:NAME to join one"
            raise UsageError(f"{option}: {mode!r} is not supported", remedy=remedy)

    def _fill_mounts(self, fields: dict[str, Any]) -> None:
        given = self._given
        asked: list[tuple[str, dict[str, Any]]] = []
        readers: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
            "volume": ("-v", mounts.volume),
            "mount": ("--mount", mounts.mount),
            "tmpfs": ("--tmpfs", mounts.tmpfs),
        }
        for dest, (flag, read) in readers.items():
            asked += [(f"{flag} {text}", read(text)) for text in given.get(dest, ())]
        if "shm_size" in given:
            asked.append(("--shm-size", mounts.shm(given["shm_size"])))
        places = {mount["destination"] for _, mount in asked}
        asked += [("--privileged", mount) for mount in fields.get("mounts", ()) if mount["destination"] not in places]
        # As docker: what is mounted on comes before what is mounted below it.
        asked.sort(key=lambda pair: len([part for part in pair[1]["destination"].split("/") if part]))
        if asked:
            fields["mounts"] = [mount for _, mount in asked]
            self._origins |= {f"mounts[{i}]": text for i, (text, _) in enumerate(asked)}

    def _fill_devices(self, fields: dict[str, Any]) -> None:
        devices: list[Device] = []
        for text in self._given.get("device", ()):
            try:
                devices += mounts.devices(text)
            except SpecError as error:
                _name_option(error, f"--device {text}")
                raise
        places = {device.path for device in devices}
        devices += [device for device in fields.get("devices", ()) if device.path not in places]
        if devices:
            fields["devices"] = devices

    def _over(self, base: ContainerSpec, fields: dict[str, Any]) -> dict[str, Any]:
        """``fields`` laid over a bundle's: mappings, mounts, devices and limits are merged, the rest is replaced."""
        import attrs

        result = dict(fields)
        for name in ("env", "rlimits", "sysctls", "annotations", "namespaces", "driver_options"):
            if name in fields:
                result[name] = {**getattr(base, name), **fields[name]}
        if "network" in fields:
            kinds = result.get("namespaces", base.namespaces)
            result["namespaces"] = {kind: mode for kind, mode in kinds.items() if kind != "network"}
        if "mounts" in fields:
            places = {mount["destination"] for mount in fields["mounts"]}
            kept = [mount for mount in base.mounts if mount.destination not in places]
            result["mounts"] = [*kept, *fields["mounts"]]
            texts = [self._origins.pop(f"mounts[{i}]") for i in range(len(fields["mounts"]))]
            self._origins |= {f"mounts[{len(kept) + i}]": text for i, text in enumerate(texts)}
        if "devices" in fields:
            places = {device.path for device in fields["devices"]}
            result["devices"] = [*(d for d in base.devices if d.path not in places), *fields["devices"]]
        if "resources" in fields:
            try:
                result["resources"] = attrs.evolve(base.resources, **fields["resources"])
            except SpecError as error:
                raise error.within("resources") from None
        return result

    def _option_of(self, field: str) -> str:
        """The option behind ``mounts[1].destination`` or ``resources.memory``, or an empty string."""
        while field:
            option = self._origins.get(field) or self._parser.flag_of(f"spec.{field}")
            if option:
                return option
            field = re.sub(r"(^|\.)[^.\[]*$|\[[^\]]*\]$", "", field)
        return ""


def _name_option(error: SpecError | UnsupportedFeature, option: str) -> None:
    if option:
        error.message += f" (given by {option})"


def _groups(spec: ContainerSpec, added: Sequence[str]) -> list[int]:
    """Those that the user has anyway, and the ``added``, which may be names of the container's /etc/group."""
    from execdrivers.users import resolve

    groups = list(resolve(spec.user, spec.rootfs, spec.additional_gids).groups)
    for name in added:
        try:
            gid = resolve(f"0:{name}", spec.rootfs).gid
        except SpecError:
            raise UsageError(f"--group-add: the container knows no group {name!r}", remedy="give its number") from None
        if gid not in groups:
            groups.append(gid)
    return groups


def _pairs(option: str, texts: Iterable[str], example: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option}: {text!r} is not NAME=VALUE", remedy=f"{option} {example}")
        pairs[name] = value
    return pairs


def _driver_options(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for name, text in _pairs("--driver-opt", texts, "oci.runtime=crun").items():
        driver, dot, key = name.partition(".")
        if not dot or not driver or not key:
            raise UsageError(f"--driver-opt: {name!r} is not DRIVER.KEY", remedy="--driver-opt oci.runtime=crun")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        options.setdefault(driver, {})[key] = value
    return options


def _apply_security(fields: dict[str, Any], text: str) -> None:
    # Docker also takes the older NAME:VALUE.
    name, value = (*re.split("[=:]", text, maxsplit=1), "")[:2]
    if name == "no-new-privileges":
        fields["no_new_privileges"] = parse_bool("--security-opt no-new-privileges", value) if value else True
    elif name == "seccomp" and value:
        fields["seccomp"] = value if value == "unconfined" else _seccomp(value)
    elif name == "apparmor" and value:
        fields["apparmor_profile"] = value
    elif name == "landlock" and value:
        fields["landlock"] = _json_file("landlock", value, _LANDLOCK)
    elif name == "systempaths" and value == "unconfined":
        fields["masked_paths"] = fields["readonly_paths"] = []
    elif name == "label" and (value == "disable" or value.count(":") >= 3):
        fields["selinux_label"] = None if value == "disable" else value
    elif name == "label":
        raise UsageError(
            f"--security-opt {text}: parts of a label are not supported",
            remedy="--security-opt label=user:role:type:level, or label=disable",
        )
    else:
        raise UsageError(
            f"--security-opt: {text!r} is not supported",
            remedy="no-new-privileges, seccomp=unconfined|FILE, apparmor=PROFILE, landlock=FILE, "
            "systempaths=unconfined, label=LABEL",
        )


_SECCOMP = "a JSON file with the OCI specification's linux.seccomp, or docker's profile"
_LANDLOCK = 'a JSON file such as {"read": ["/"], "execute": ["/usr", "/lib"], "write": ["/tmp"]}'


def _json_file(name: str, path: str, remedy: str) -> Mapping[str, Any]:
    option = f"--security-opt {name}"
    text = read_text(option, path, remedy)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{option}: {path} is not JSON: {error}", remedy=remedy) from None
    if not isinstance(data, dict):
        raise UsageError(f"{option}: {path} holds no JSON object", remedy=remedy)
    return data


def _seccomp(path: str) -> Mapping[str, Any]:
    profile = _json_file("seccomp", path, _SECCOMP)
    rules = profile.get("syscalls")
    if not isinstance(rules, list):
        rules = []  # refused as a field of the spec
    asks = any(isinstance(rule, dict) and rule.get("action") == "SCMP_ACT_NOTIFY" for rule in rules)
    if asks and not profile.get("listenerPath"):
        raise UsageError(
            f"--security-opt seccomp: {path} says SCMP_ACT_NOTIFY, and there is nobody to ask",
            remedy="name the socket of an agent by listenerPath",
        )
    return profile
