"""Which features a spec asks for."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given

from execdrivers import features
from execdrivers.features import FEATURES, required
from execdrivers.spec import ContainerSpec, DeviceRule, IdMapping, Mount, Resources

from .strategies import specs

#: Fields that ask nothing of a driver: every driver runs a command with its environment; the rest is the engine's.
ASK_NOTHING = {"args", "env", "default_env", "annotations", "stop_signal", "driver_options"}


def test_every_field_asks_for_a_feature_or_is_known_to_ask_for_nothing() -> None:
    spec_fields = {item.name for item in attrs.fields(ContainerSpec)}
    assert set(features._SPEC) == spec_fields
    assert {name for name, rule in features._SPEC.items() if rule is None} == ASK_NOTHING
    assert set(features._RESOURCES) == {item.name for item in attrs.fields(Resources)}
    assert None not in features._RESOURCES.values()


@given(specs())
def test_only_known_features_by_given_fields(spec: ContainerSpec) -> None:
    given_fields = {name for name, _ in spec.given()}
    for feature, field in required(spec).items():
        assert feature in FEATURES
        assert field.replace("[", ".").split(".")[0] in given_fields | {"rootfs"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"env": {"A": "1"}, "annotations": {"a": "b"}, "stop_signal": "INT"}, {}),
        ({"readonly": False, "no_new_privileges": False, "masked_paths": (), "readonly_paths": ()}, {}),
        ({"seccomp": "unconfined", "apparmor_profile": "unconfined"}, {}),
        ({"resources": {"memory": -1, "pids": -1, "oom_kill_disable": False, "devices": ()}}, {}),
        ({"resources": {"devices": [DeviceRule(False)]}}, {}),
        ({"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]}, {"devices": "devices[0]"}),
        (
            {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "access": "r"}]},
            {"devices": "devices[0]", "cgroup.devices": "devices[0].access"},
        ),
        ({"resources": {"devices": [DeviceRule(True)]}}, {"cgroup.devices": "resources.devices"}),
        ({"resources": {"memory": "64M"}}, {"cgroup.memory": "resources.memory"}),
        ({"resources": {"cpus": 1.5}}, {"cgroup.cpu": "resources.cpus"}),
        ({"no_new_privileges": True}, {"no-new-privileges": "no_new_privileges"}),
        ({"network": "none"}, {"network.none": "network"}),
        (
            {"namespaces": {"pid": "host", "uts": "private", "ipc": "/proc/1/ns/ipc"}},
            {
                "namespace.host.pid": 'namespaces["pid"]',
                "namespace.uts": 'namespaces["uts"]',
                "namespace.join": 'namespaces["ipc"]',
            },
        ),
        (
            {"mounts": [Mount("/a", "bind", "/b", ["rbind", "rprivate"])]},
            {
                "mount.bind": "mounts[0].type",
                "mount.recursive": "mounts[0].options",
                "mount.propagation": "mounts[0].options",
            },
        ),
        ({"default_mounts": False}, {"mount.replace-defaults": "default_mounts"}),
        ({"uid_mappings": [IdMapping(0, 1, 1)]}, {"user-mappings": "uid_mappings"}),
        ({"additional_gids": ()}, {"groups": "additional_gids"}),
        ({"capabilities": {}}, {"capabilities": "capabilities"}),
    ],
)
def test_asked(fields: dict[str, Any], expected: dict[str, str]) -> None:
    assert required(ContainerSpec(["true"], rootfs="/r", **fields)) == {"rootfs": "rootfs", **expected}


def test_without_a_rootfs() -> None:
    assert required(ContainerSpec(["true"])) == {"rootfs.host": "rootfs"}
