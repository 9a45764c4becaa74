"""config.json both ways, and whether a real runtime takes it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from execdrivers import defaults
from execdrivers.errors import SpecError
from execdrivers.features import required
from execdrivers.spec import Capabilities, ContainerSpec, Device, DeviceRule, Mount, Rlimit

from .strategies import paths, specs, spoil

MINIMAL: dict[str, Any] = {
    "ociVersion": "1.0.2-dev",
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
    "root": {"path": "rootfs"},
}


@given(specs(rootfs=paths))
def test_round_trip(spec: ContainerSpec) -> None:
    config = spec.to_oci()
    text = json.dumps(config)
    again = ContainerSpec.from_oci(json.loads(text))
    assert again.to_oci() == config
    # What OCI says is a spec of its own: it goes to JSON and back as well.
    assert ContainerSpec.from_json(again.to_json()) == again


@given(specs(rootfs=paths), st.data())
def test_any_wrong_type_is_refused_by_pointer_or_ignored(spec: ContainerSpec, data: st.DataObject) -> None:
    config: Any = json.loads(json.dumps(spec.to_oci()))
    note(spoil(data.draw, config))
    refused = None
    try:
        ContainerSpec.from_oci(config)
    except SpecError as error:
        refused = error
    assert refused is None or refused.field.startswith("/"), refused


class TestToOci:
    def test_fills_in_defaults(self) -> None:
        config = ContainerSpec(["sh"], rootfs="/nonexistent").to_oci()
        assert config["ociVersion"] == "1.0.2"
        assert config["root"] == {"path": "/nonexistent", "readonly": False}
        process = config["process"]
        assert process["user"] == {"uid": 0, "gid": 0}
        assert process["cwd"] == "/"
        assert process["noNewPrivileges"] is True
        assert set(process["capabilities"]["bounding"]) == set(defaults.CAPABILITIES)
        assert process["capabilities"]["ambient"] == []
        assert f"PATH={defaults.PATH}" in process["env"]
        linux = config["linux"]
        assert [item["type"] for item in linux["namespaces"]] == ["pid", "mount", "uts", "ipc", "network", "cgroup"]
        assert linux["maskedPaths"] == list(defaults.MASKED_PATHS)
        assert linux["readonlyPaths"] == list(defaults.READONLY_PATHS)
        assert linux["resources"]["devices"] == [{"allow": False, "type": "a", "access": "rwm"}]
        assert [item["destination"] for item in config["mounts"]] == [item.destination for item in defaults.MOUNTS]

    def test_says_what_is_given(self) -> None:
        spec = ContainerSpec.build(
            ["sh"],
            rootfs="/r",
            user="5:6",
            additional_gids=[7],
            umask=0o22,
            tty=True,
            console_size=(24, 80),
            rlimits={"nofile": "5:unlimited"},
            network="host",
            memory="64M",
            cpus=1.5,
            cpu_idle=True,
            hugepage_limits={"2MB": 5},
            network_priorities={"eth0": 3},
            devices=[Device("/dev/fuse", "c", 10, 229, access="rw")],
            stop_signal="INT",
            ephemeral=True,
            driver_options={"lxc": {"x": [1]}},
            hooks={"poststop": [{"path": "/x", "env": {"A": "1"}, "timeout": 5}]},
        )
        config = spec.to_oci()
        assert config["process"]["user"] == {"uid": 5, "gid": 6, "umask": 0o22, "additionalGids": [7]}
        assert config["process"]["consoleSize"] == {"height": 24, "width": 80}
        assert config["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 2**64 - 1, "soft": 5}]
        assert "network" not in [item["type"] for item in config["linux"]["namespaces"]]
        assert config["linux"]["resources"]["memory"] == {"limit": 2**26}
        assert config["linux"]["resources"]["cpu"] == {"quota": 150000, "period": 100000, "idle": 1}
        assert config["linux"]["resources"]["hugepageLimits"] == [{"pageSize": "2MB", "limit": 5}]
        assert config["linux"]["resources"]["network"] == {"priorities": [{"name": "eth0", "priority": 3}]}
        assert config["linux"]["resources"]["devices"][1] == {
            "allow": True,
            "type": "c",
            "major": 10,
            "minor": 229,
            "access": "rw",
        }
        assert config["hooks"] == {"poststop": [{"path": "/x", "env": ["A=1"], "timeout": 5}]}
        assert config["annotations"] == {
            "org.opencontainers.image.stopSignal": "SIGINT",
            "org.execdrivers.ephemeral": "true",
            "org.execdrivers.driver_options": '{"lxc": {"x": [1]}}',
        }
        again = ContainerSpec.from_oci(config)
        assert again.ephemeral
        assert again.stop_signal == "SIGINT"
        assert again.driver_options == spec.driver_options

    def test_looks_up_names(self, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/passwd").write_text("alice:x:5:6::/home/alice:\n")
        (tmp_path / "etc/group").write_text("audio:x:29:alice\n")
        process = ContainerSpec(["sh"], rootfs=str(tmp_path), user="alice").to_oci()["process"]
        assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [29]}
        assert "HOME=/home/alice" in process["env"]

    def test_needs_a_rootfs(self) -> None:
        with pytest.raises(SpecError, match="rootfs"):
            ContainerSpec(["sh"]).to_oci()


class TestFromOci:
    def test_absent_means_absent(self) -> None:
        spec = ContainerSpec.from_oci(MINIMAL, "/bundle")
        assert spec.rootfs == "/bundle/rootfs"
        assert set(spec.namespaces.values()) == {"host"}
        assert len(spec.namespaces) == 8
        assert spec.capabilities == Capabilities(bounding=(), effective=(), inheritable=(), permitted=(), ambient=())
        assert spec.masked_paths == spec.readonly_paths == ()
        assert spec.no_new_privileges is spec.readonly is spec.default_mounts is spec.default_env is False
        assert spec.seccomp == spec.apparmor_profile == "unconfined"
        assert spec.env == {}
        asked = required(spec)
        assert {feature for feature in asked if not feature.startswith("namespace.host.")} == {
            "rootfs",
            "cwd",
            "user",
            "groups",
            "capabilities",
            "mount.replace-defaults",
        }

    def test_unknown_properties_and_other_platforms_are_ignored(self) -> None:
        config = copy.deepcopy(MINIMAL)
        config |= {"windows": {"layerFolders": 5}, "solaris": 1, "vm": [], "zos": {}, "x-own": {"deep": [1]}}
        config["process"] |= {"commandLine": 5, "future": True}
        config["linux"] = {"future": {}, "resources": {"future": 1, "memory": {"future": 2}}, "intelRdt": {}}
        assert ContainerSpec.from_oci(config, "/bundle") == ContainerSpec.from_oci(MINIMAL, "/bundle")

    def test_zero_and_minus_one_as_go_programs_write_them(self) -> None:
        config = copy.deepcopy(MINIMAL)
        config["linux"] = {
            "resources": {
                "memory": {"limit": 0, "swap": 0, "kernel": 0, "swappiness": 0},
                "cpu": {"shares": 0, "quota": 0, "period": 0},
                "pids": {"limit": 0},
                "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 5, "minor": -1}],
            }
        }
        resources = ContainerSpec.from_oci(config, "/bundle").resources
        assert (resources.memory, resources.memory_swappiness, resources.cpu_shares, resources.pids) == (
            None,
            0,
            None,
            None,
        )
        assert resources.devices == (DeviceRule(False), DeviceRule(True, "c", 5))

    def test_relative_paths_are_the_bundles(self) -> None:
        config = MINIMAL | {"mounts": [{"destination": "/d", "source": "data", "options": ["rbind", "ro"]}]}
        assert ContainerSpec.from_oci(config, "/b").mounts == (Mount("/d", "bind", "/b/data", ["rbind", "ro"]),)
        with pytest.raises(SpecError, match="/mounts/0/source"):
            ContainerSpec.from_oci(config | {"root": {"path": "/r"}})

    @pytest.mark.parametrize(
        ("pointer", "value", "field"),
        [
            ("/ociVersion", None, "/ociVersion"),
            ("/ociVersion", "0.9.0", "/ociVersion"),
            ("/ociVersion", "2.0.0", "/ociVersion"),
            ("/ociVersion", 1, "/ociVersion"),
            ("/process", None, "/process"),
            ("/process", [], "/process"),
            ("/process/args", None, "/process/args"),
            ("/process/args", [], "/process/args"),
            ("/process/args", "sh", "/process/args"),
            ("/process/args", ["sh", 5], "/process/args/1"),
            ("/process/args", ["a\0"], "/process/args/0"),
            ("/process/env", ["A=1", "B"], "/process/env/1"),
            ("/process/cwd", "tmp", "/process/cwd"),
            ("/process/cwd", "", "/process/cwd"),
            ("/process/terminal", "yes", "/process/terminal"),
            ("/process/user/uid", "root", "/process/user/uid"),
            ("/process/user/uid", -1, "/process/user/uid"),
            ("/process/user/additionalGids", [0, -1], "/process/user/additionalGids/1"),
            ("/process/capabilities", ["CAP_KILL"], "/process/capabilities"),
            ("/process/capabilities", {"bounding": ["CAP_KIL"]}, "/process/capabilities/bounding/0"),
            ("/process/rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}], "/process/rlimits/0/type"),
            ("/process/rlimits", [{"type": "RLIMIT_CPU", "soft": 1}], "/process/rlimits/0/hard"),
            ("/process/rlimits", [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}], "/process/rlimits/0/soft"),
            ("/process/scheduler", {"policy": "SCHED_X"}, "/process/scheduler/policy"),
            ("/process/ioPriority", {"class": "X"}, "/process/ioPriority/class"),
            ("/root", None, "/root"),
            ("/root/path", "", "/root/path"),
            ("/hostname", "a\nb", "/hostname"),
            ("/mounts", {}, "/mounts"),
            ("/mounts", [5], "/mounts/0"),
            ("/mounts", [{"destination": "a", "type": "proc"}], "/mounts/0/destination"),
            ("/mounts", [{"destination": "/a", "type": "ext4"}], "/mounts/0/type"),
            ("/mounts", [{"destination": "/a", "type": "proc"}] * 2, "/mounts/1/destination"),
            ("/mounts", [{"destination": "/a", "type": "proc", "options": ["a", 1]}], "/mounts/0/options/1"),
            ("/hooks", {"poststop": [{"path": "x"}]}, "/hooks/poststop/0/path"),
            ("/hooks", {"createRuntime": [{"path": "/x", "timeout": -1}]}, "/hooks/createRuntime/0/timeout"),
            ("/annotations", {"a/b": 1}, "/annotations/a~1b"),
            ("/annotations", {"org.execdrivers.init": "yes"}, "/annotations/org.execdrivers.init"),
            ("/annotations", {"org.execdrivers.x": "1"}, "/annotations/org.execdrivers.x"),
            (
                "/annotations",
                {"org.opencontainers.image.stopSignal": "X"},
                "/annotations/org.opencontainers.image.stopSignal",
            ),
            ("/linux", [], "/linux"),
            ("/linux/namespaces", [{"type": "pod"}], "/linux/namespaces/0/type"),
            ("/linux/namespaces", [{"type": "pid"}, {"type": "pid"}], "/linux/namespaces/1/type"),
            ("/linux/namespaces", [{"type": "pid", "path": "x"}], "/linux/namespaces/0/path"),
            ("/linux/uidMappings", [{"containerID": 0, "hostID": 0}], "/linux/uidMappings/0/size"),
            ("/linux/devices", [{"path": "/dev/x", "type": "x"}], "/linux/devices/0/type"),
            ("/linux/sysctl", {"kernel.core_pattern": "x"}, "/linux/sysctl/kernel.core_pattern"),
            ("/linux/sysctl", {"net.ipv4.ip_forward": "1"}, "/linux/sysctl/net.ipv4.ip_forward"),
            ("/linux/seccomp", {"defaultAction": "X"}, "/linux/seccomp/defaultAction"),
            ("/linux/intelRdt", {"closID": "x"}, "/linux/intelRdt"),
            ("/linux/netDevices", {"eth0": {}}, "/linux/netDevices"),
            ("/linux/memoryPolicy", {"mode": "MPOL_BIND"}, "/linux/memoryPolicy"),
            ("/linux/mountLabel", "x", "/linux/mountLabel"),
            ("/linux/personality", {"domain": "BSD"}, "/linux/personality/domain"),
            ("/linux/resources/memory/limit", "64M", "/linux/resources/memory/limit"),
            ("/linux/resources/memory/limit", 5, "/linux/resources/memory/limit"),
            ("/linux/resources/memory/kernel", 5000000, "/linux/resources/memory/kernel"),
            ("/linux/resources/cpu/shares", 1, "/linux/resources/cpu/shares"),
            ("/linux/resources/cpu/idle", 2, "/linux/resources/cpu/idle"),
            ("/linux/resources/cpu/cpus", "x", "/linux/resources/cpu/cpus"),
            ("/linux/resources/pids", {"limit": "5"}, "/linux/resources/pids/limit"),
            (
                "/linux/resources/blockIO",
                {"weightDevice": [{"major": 1}]},
                "/linux/resources/blockIO/weightDevice/0/minor",
            ),
            ("/linux/resources/unified", {"a/b": "c"}, "/linux/resources/unified/a~1b"),
            ("/linux/resources/devices", [{"access": "rwm"}], "/linux/resources/devices/0/allow"),
            (
                "/linux/resources/hugepageLimits",
                [{"pageSize": "2MB", "limit": "x"}],
                "/linux/resources/hugepageLimits/0/limit",
            ),
        ],
    )
    def test_refused_by_pointer(self, pointer: str, value: Any, field: str) -> None:
        config = copy.deepcopy(MINIMAL)
        *holders, name = pointer.split("/")[1:]
        holder = config
        for part in holders:
            holder = holder.setdefault(part, {})
        holder[name] = value
        with pytest.raises(SpecError) as caught:
            ContainerSpec.from_oci(config, "/bundle")
        assert caught.value.field == field


class TestBundle:
    @pytest.mark.parametrize(
        ("make", "word"),
        [
            (lambda path: None, "No such file"),
            (lambda path: path.mkdir(), "Is a directory|not a regular file"),
            (lambda path: os.mkfifo(path), "not a regular file"),
            (lambda path: path.write_text('{"ociVersion": "1.0.0",\n "proc'), "line 2, column 2"),
            (lambda path: path.write_bytes(b'"\xff"'), "not UTF-8"),
            (lambda path: path.write_text("[]"), "not an object"),
            (lambda path: path.write_text('{"a":' * 1000 + "1" + "}" * 1000), "nested too deeply"),
            (lambda path: path.write_text("[" * 10**6), "nested too deeply"),
            (lambda path: path.write_bytes(b" " * 10**8), "too large"),
        ],
    )
    def test_unusable(self, tmp_path: Path, make: Callable[[Path], object], word: str) -> None:
        make(tmp_path / "config.json")
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(SpecError, match=word) as caught:
            ContainerSpec.from_bundle(tmp_path)
        assert caught.value.field == "config.json"
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.needs("runc")
    def test_of_runc_spec(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        subprocess.run(["runc", "spec", "--bundle", str(tmp_path)], check=True)
        monkeypatch.chdir(tmp_path.parent)
        spec = ContainerSpec.from_bundle(tmp_path.name)
        assert spec.rootfs == str(tmp_path / "rootfs")
        assert spec.rlimits == {"RLIMIT_NOFILE": Rlimit(1024, 1024)}
        assert spec.readonly
        assert spec.resources.devices == (DeviceRule(False),)


@pytest.mark.needs("root", "runc", "busybox")
class TestRealRuntime:
    def run(self, tmp_path: Path, spec: ContainerSpec) -> str:
        (tmp_path / "config.json").write_text(json.dumps(spec.to_oci()))
        name = f"execdrivers-test-{uuid.uuid4().hex}"
        runc = ["runc", "--root", str(tmp_path / "state")]
        try:
            done = subprocess.run(
                [*runc, "run", "--bundle", str(tmp_path), name],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=60,
            )
        finally:
            subprocess.run([*runc, "delete", "--force", name], check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_defaults(self, tmp_path: Path, own_rootfs: Path) -> None:
        script = (
            "echo $$; grep -E 'Cap(Eff|Inh|Amb)|NoNewPrivs' /proc/self/status; ls /dev; id -u; cat /proc/interrupts"
        )
        out = self.run(tmp_path, ContainerSpec(["sh", "-c", script], rootfs=str(own_rootfs)))
        assert out.startswith("1\n")
        assert "CapEff:\t00000000a80425fb" in out
        assert "CapInh:\t0000000000000000" in out
        assert "NoNewPrivs:\t1" in out
        assert "urandom" in out
        assert out.endswith("\n0\n")

    def test_given(self, tmp_path: Path, own_rootfs: Path) -> None:
        spec = ContainerSpec.build(
            [
                "sh",
                "-c",
                "id -u; id -g; hostname; echo $A; umask; ulimit -n; cat /proc/self/oom_score_adj; pwd",
            ],
            rootfs=str(own_rootfs),
            user="5:6",
            env={"A": "hello"},
            hostname="box",
            umask=0o27,
            rlimits={"nofile": 64},
            oom_score_adj=100,
            cwd="/data",
            mounts=[{"destination": "/data", "type": "tmpfs", "options": ["size=1m"]}],
            memory="64M",
            pids=32,
            cpu_shares=512,
            sysctls={"net.ipv4.ip_default_ttl": 65},
            stop_signal="INT",
            capabilities={"drop": ["ALL"]},
        )
        assert self.run(tmp_path, spec).split() == ["5", "6", "box", "hello", "0027", "64", "100", "/data"]

    def test_readonly(self, tmp_path: Path, own_rootfs: Path) -> None:
        spec = ContainerSpec(["sh", "-c", "touch /x 2>&1 || true"], rootfs=str(own_rootfs), readonly=True)
        assert "Read-only file system" in self.run(tmp_path, spec)
