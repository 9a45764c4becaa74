"""ContainerSpec: what it takes, what it refuses and how it says so, JSON and back."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from execdrivers import defaults
from execdrivers.errors import SpecError
from execdrivers.spec import (
    BlockIO,
    Capabilities,
    ContainerSpec,
    Device,
    FrozenDict,
    Hooks,
    IdMapping,
    Mount,
    Resources,
    Rlimit,
)
from execdrivers.spec.keywords import SpecFields

from .strategies import BLOCK_IO, FIELDS, RESOURCES, junk, specs, spoil


def names(cls: Any) -> set[str]:
    return {item.name for item in attrs.fields(cls)}


class TestWhole:
    def test_strategies_draw_every_field(self) -> None:
        assert set(FIELDS) | {"args"} == names(ContainerSpec)
        assert set(RESOURCES) == names(Resources)
        assert set(BLOCK_IO) == names(BlockIO)

    def test_keywords_are_the_fields(self) -> None:
        assert set(SpecFields.__annotations__) == names(ContainerSpec) - {"args"} | names(Resources) - {"devices"}

    @given(specs())
    def test_json_round_trip(self, spec: ContainerSpec) -> None:
        again = ContainerSpec.from_json(spec.to_json())
        assert again == spec
        assert hash(again) == hash(spec)
        assert again.to_dict() == spec.to_dict()

    @given(specs())
    def test_pickles_copies_and_replaces(self, spec: ContainerSpec) -> None:
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert copy.deepcopy(spec) == spec
        assert spec.replace() == spec
        assert spec.replace(args=["other"]) != spec
        assert repr(spec).startswith("ContainerSpec(args=")

    def test_nothing_given_is_nothing_written(self) -> None:
        assert ContainerSpec(["true"]).to_dict() == {"args": ["true"]}
        assert ContainerSpec(["true"], env=None, mounts=None, resources=None) == ContainerSpec(["true"])  # type: ignore[arg-type]

    def test_is_immutable(self) -> None:
        spec = ContainerSpec(["true"], env={"A": "1"})
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            spec.cwd = "/"  # type: ignore[misc]
        assert isinstance(spec.env, FrozenDict)
        env = cast("dict[str, str]", spec.env)
        changes: list[Callable[[], object]] = [
            lambda: env.update(A="2"),
            lambda: env.__setitem__("A", "2"),
            lambda: env.pop("A"),
            lambda: env.__ior__({"A": "2"}),
        ]
        for change in changes:
            with pytest.raises(TypeError, match="cannot be changed"):
                change()

    def test_build_moves_limits_into_resources(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        spec = ContainerSpec.build(["true"], rootfs=Path("root"), memory="64M", cpus=1.5, resources={"pids": 9})
        assert spec.rootfs == os.path.join(tmp_path, "root")
        assert spec.resources == Resources(memory=2**26, cpus=1.5, pids=9)
        with pytest.raises(SpecError, match=r"memroy: .* did you mean 'memory'\?"):
            ContainerSpec.build(["true"], memroy="64M")  # type: ignore[call-arg]

    def test_importing_imports_little(self) -> None:
        # Some releases of attrs import much on some releases of Python: that is not ours to judge.
        program = "import attrs, sys; before = {*sys.modules}; import execdrivers.spec; print(*{*sys.modules} - before)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert not set(done.stdout.split()) & {
            "json",
            "difflib",
            "ctypes",
            "subprocess",
            "asyncio",
            "pluggy",
            "execdrivers.oci",
        }


@given(st.sampled_from([*FIELDS, "args", *RESOURCES]), junk)
def test_junk_is_taken_or_refused_but_never_crashes(field: str, value: Any) -> None:
    refused = None
    try:
        spec = ContainerSpec.build(**{"args": ["true"], field: value})
    except SpecError as error:
        refused = error
    else:
        assert ContainerSpec.from_json(spec.to_json()) == spec
    assert refused is None or refused.field.startswith((field, "resources", "ephemeral_size", "memory_swap"))


@given(specs(), st.data())
def test_spoilt_json_is_taken_or_refused_but_never_crashes(spec: ContainerSpec, data: st.DataObject) -> None:
    fields = json.loads(spec.to_json())
    note(spoil(data.draw, fields))
    with contextlib.suppress(SpecError):
        again = ContainerSpec.from_dict(fields)
        assert ContainerSpec.from_json(again.to_json()) == again


class TestConversion:
    def test_plain_data_becomes_values(self) -> None:
        spec = ContainerSpec(
            [b"sh", Path("/x")],
            env=["A=1", "B=", "A=2=3"],
            user=1000,
            umask="022",
            rlimits={"nofile": "10:20", "RLIMIT_CORE": 0, "stack": [1, "unlimited"], "cpu": {"soft": 1, "hard": 2}},
            capabilities={"add": ["net_admin"], "drop": ["CAP_MKNOD"]},
            namespaces={"mnt": "private", "net": "/run/netns/x"},
            mounts=[{"destination": "//data/./x/", "type": "none", "source": "/srv", "options": ["rbind"]}],
            stop_signal="int",
            ephemeral=True,
            ephemeral_size="64M",
            sysctls={"net/ipv4/conf/eth0.1/forwarding": 1},
            masked_paths=["/proc//kcore/"],
        )
        assert spec.args == ("sh", "/x")
        assert spec.env == {"A": "2=3", "B": ""}
        assert spec.user == "1000"
        assert spec.umask == 0o22
        assert spec.rlimits == {
            "RLIMIT_NOFILE": Rlimit(10, 20),
            "RLIMIT_CORE": Rlimit(0, 0),
            "RLIMIT_STACK": Rlimit(1, -1),
            "RLIMIT_CPU": Rlimit(1, 2),
        }
        assert spec.capabilities == Capabilities(add=["CAP_NET_ADMIN"], drop=["CAP_MKNOD"])
        assert spec.namespaces == {"mount": "private", "network": "/run/netns/x"}
        assert spec.mounts == (Mount("/data/x", "bind", "/srv", ["rbind"]),)
        assert spec.stop_signal == "SIGINT"
        assert spec.ephemeral_size == 2**26
        assert spec.sysctls == {"net.ipv4.conf.eth0/1.forwarding": "1"}
        assert spec.masked_paths == ("/proc/kcore",)

    def test_unlimited_rlimit_in_all_its_forms(self) -> None:
        forms: list[Any] = ["unlimited", -1, 2**64 - 1, "infinity", "18446744073709551615"]
        assert {Rlimit(form, form) for form in forms} == {Rlimit(-1, -1)}

    def test_device_from_host(self) -> None:
        device = Device.from_host("/dev/null", access="wr")
        assert (device.path, device.type, device.major, device.minor, device.access) == ("/dev/null", "c", 1, 3, "rw")
        for source in ("/etc/passwd", "/nonexistent"):
            with pytest.raises(SpecError, match="source"):
                Device.from_host(source)

    def test_bytes_that_are_no_utf8_survive(self) -> None:
        spec = ContainerSpec([os.fsdecode(b"\xff\xfe"), "ü"])
        assert os.fsencode(ContainerSpec.from_json(spec.to_json()).args[0]) == b"\xff\xfe"


class TestCapabilities:
    def test_default_mask(self) -> None:
        sets = Capabilities().resolve()
        assert f"{defaults.capability_mask(sets.effective):016x}" == "00000000a80425fb"
        assert sets.bounding == sets.permitted == sets.effective
        assert sets.inheritable == sets.ambient == ()

    def test_numbers(self) -> None:
        assert list(defaults.ALL_CAPABILITIES.values()) == list(range(41))
        assert defaults.ALL_CAPABILITIES["CAP_SYS_ADMIN"] == 21
        assert defaults.ALL_CAPABILITIES["CAP_CHECKPOINT_RESTORE"] == 40

    def test_all(self) -> None:
        assert Capabilities(drop=["ALL"]).resolve().effective == ()
        assert Capabilities(drop=["all"], add=["kill"]).resolve().effective == ("CAP_KILL",)
        everything = set(defaults.ALL_CAPABILITIES)
        assert set(Capabilities(add=["ALL"], drop=["CAP_BPF"]).resolve().bounding) == everything - {"CAP_BPF"}

    def test_ambient_is_what_the_kernel_can_hold(self) -> None:
        sets = Capabilities(permitted=["KILL", "CHOWN"], inheritable=["KILL"], ambient=["KILL", "CHOWN"]).resolve()
        assert sets.ambient == ("CAP_KILL",)
        assert sets.bounding == ()


class TestMountOptions:
    def test_sorted_by_what_they_do(self) -> None:
        options = Mount(
            "/t",
            "tmpfs",
            options=["ro", "rw", "nosuid", "noatime", "strictatime", "rnodev", "defaults", "size=64m", "rslave"],
        ).parse_options()
        assert options.set == {"nosuid", "strictatime"}
        assert options.clear == {"ro"}
        assert options.recursive_set == {"nodev"}
        assert options.propagation == "rslave"
        assert options.data == ("size=64m",)
        assert not options.recursive_bind

    def test_of_binds(self) -> None:
        options = Mount("/t", "bind", "/s", ["rbind", "rro", "idmap"]).parse_options()
        assert options.recursive_bind
        assert options.recursive_set == {"ro"}
        assert options.idmap
        assert options.data == ()

    def test_a_bind_option_makes_a_bind(self) -> None:
        assert Mount("/t", "none", "/s", ["bind"]).type == Mount("/t", "", "/s", ["rbind"]).type == "bind"
        assert Mount("/t", "cgroup2").type == "cgroup"


DEEP: Any = {}
for _ in range(100):
    DEEP = {"a": DEEP}

#: Field of the error, arguments of ContainerSpec.build, and a word of the message.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("args", {"args": []}, "is empty"),
    ("args", {"args": [""]}, "names no command"),
    ("args", {"args": "ls -l"}, "shlex.split"),
    ("args", {"args": {"a": 1}}, "is not a list"),
    ("args", {"args": 5}, "is not a list"),
    ("args[1]", {"args": ["a", "b\0c"]}, "NUL"),
    ("args[0]", {"args": [5]}, "is not a string"),
    ("args[0]", {"args": ["\ud800"]}, "surrogate"),
    ('env["A"]', {"env": {"A": "\0"}}, "NUL"),
    ('env["A=B"]', {"env": {"A=B": ""}}, "contains '='"),
    ('env[""]', {"env": {"": "x"}}, "is an empty name"),
    ('env["A"]', {"env": {"A": 1}}, "use '1'"),
    ("env[0]", {"env": ["A"]}, "write 'A='"),
    ("env[0]", {"env": ["=x"]}, "is an empty name"),
    ("env", {"env": "A=1"}, "is not a list"),
    ("env", {"env": {1: "x"}}, "is not a string"),
    ("cwd", {"cwd": "tmp"}, "is not an absolute path"),
    ("cwd", {"cwd": "/a\0"}, "NUL"),
    ("rootfs", {"rootfs": ""}, "is not an absolute path"),
    ("user", {"user": ""}, "is empty"),
    ("user", {"user": -1}, "is not a user"),
    ("user", {"user": "a:b:c"}, "more than one"),
    ("user", {"user": "a\nb"}, "control character"),
    ("user", {"user": "4294967295"}, "too large"),
    ("user", {"user": True}, "is not a string"),
    ("additional_gids[0]", {"additional_gids": [-1]}, "is negative"),
    ("umask", {"umask": 0o1000}, "is too large"),
    ("umask", {"umask": "9"}, "octal"),
    ("tty", {"tty": 1}, "is not a boolean"),
    ("console_size", {"console_size": (24, 80)}, "tty=True"),
    ("console_size", {"console_size": (0, 80), "tty": True}, "terminal size"),
    ('rlimits["nofiles"]', {"rlimits": {"nofiles": 1}}, "did you mean 'RLIMIT_NOFILE'"),
    ('rlimits["nofile"].soft', {"rlimits": {"nofile": "5:2"}}, "above the hard limit"),
    ('rlimits["nofile"].soft', {"rlimits": {"nofile": -5}}, "not a possible limit"),
    ('rlimits["RLIMIT_NOFILE"]', {"rlimits": {"nofile": 1, "RLIMIT_NOFILE": 2}}, "given twice"),
    ("capabilities.add[0]", {"capabilities": {"add": ["SYS_ADMNI"]}}, "did you mean 'CAP_SYS_ADMIN'"),
    ("capabilities.add", {"capabilities": {"add": ["KILL"], "drop": ["KILL"]}}, "both added and dropped"),
    ("capabilities.add", {"capabilities": {"add": ["KILL"], "bounding": []}}, "exact sets"),
    ("capabilities.effective", {"capabilities": {"effective": ["KILL"]}}, "not in permitted"),
    ("capabilities.bounding[0]", {"capabilities": {"bounding": ["ALL"]}}, "not one capability"),
    ("capabilities.droop", {"capabilities": {"droop": []}}, "did you mean 'drop'"),
    ("capabilities", {"capabilities": ["KILL"]}, "neither a Capabilities"),
    ("seccomp", {"seccomp": "unconfine"}, "'unconfined'"),
    ("seccomp.defaultAction", {"seccomp": {"defaultAction": "SCMP_ACT_ALOW"}}, "did you mean 'SCMP_ACT_ALLOW'"),
    (
        "seccomp.syscalls[0].names",
        {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_LOG"}]}},
        "list of system calls",
    ),
    ("oom_score_adj", {"oom_score_adj": 1001}, "is too large"),
    ("scheduler.policy", {"scheduler": {"policy": "FIFA"}}, "did you mean 'SCHED_FIFO'"),
    ("scheduler.priority", {"scheduler": {"policy": "RR"}}, "is too small"),
    ("scheduler.policy", {"scheduler": {}}, "is missing"),
    ("io_priority.priority", {"io_priority": {"io_class": "be", "priority": 8}}, "is too large"),
    ("personality", {"personality": "BSD"}, "is unknown"),
    ("ephemeral_size", {"ephemeral_size": "1M"}, "ephemeral=True"),
    ("hostname", {"hostname": "a\x1b[2J"}, "control character"),
    ("hostname", {"hostname": "a" * 65}, "at most 64"),
    ("hostname", {"hostname": "a" * 64}, "63"),
    ("hostname", {"hostname": "a..b"}, "label"),
    ("domainname", {"domainname": "a b"}, "is not a host name"),
    ("hostname", {"hostname": "a", "namespaces": {"uts": "host"}}, "host's uts namespace"),
    ("mounts[0].destination", {"mounts": [{"destination": "x", "type": "tmpfs"}]}, "is not an absolute path"),
    ("mounts[0].destination", {"mounts": [{"destination": "/a/../b", "type": "tmpfs"}]}, "use '/b'"),
    ("mounts[0].destination", {"mounts": [{"destination": "//", "type": "tmpfs"}]}, "rootfs="),
    ("mounts[0].destination", {"mounts": [{"type": "tmpfs"}]}, "is missing"),
    ("mounts[1].destination", {"mounts": [Mount("/a", "tmpfs"), Mount("/a/", "tmpfs")]}, "already by item 0"),
    ("mounts[0].type", {"mounts": [{"destination": "/a", "type": "tmpf"}]}, "did you mean 'tmpfs'"),
    ("mounts[0].type", {"mounts": [{"destination": "/a"}]}, "is missing"),
    ("mounts[0].source", {"mounts": [{"destination": "/a", "type": "bind"}]}, "is missing"),
    ("mounts[0].source", {"mounts": [{"destination": "/a", "type": "bind", "source": "b"}]}, "not an absolute"),
    (
        "mounts[0].options",
        {"mounts": [{"destination": "/a", "type": "bind", "source": "/b", "options": ["nosiud"]}]},
        "did you mean 'nosuid'",
    ),
    ("mounts[0].options[0]", {"mounts": [{"destination": "/a", "type": "tmpfs", "options": ["ro,size=1"]}]}, "comma"),
    ("mounts[0].options", {"mounts": [{"destination": "/a", "type": "overlay"}]}, "lowerdir"),
    ('namespaces["pod"]', {"namespaces": {"pod": "private"}}, "did you mean 'pid'"),
    ('namespaces["pid"]', {"namespaces": {"pid": "none"}}, "absolute path"),
    ('namespaces["mnt"]', {"namespaces": {"mount": "host", "mnt": "host"}}, "given twice"),
    ("network", {"network": "host", "namespaces": {"network": "private"}}, "contradicts"),
    ("network", {"network": "bridge"}, "is unknown"),
    ("uid_mappings[1].container_id", {"uid_mappings": [IdMapping(0, 1, 9), IdMapping(5, 99, 1)]}, "overlaps"),
    ("uid_mappings[1].host_id", {"uid_mappings": [IdMapping(0, 1, 9), IdMapping(50, 5, 1)]}, "overlaps"),
    ("uid_mappings[0].size", {"uid_mappings": [{"container_id": 0, "host_id": 0, "size": 0}]}, "is too small"),
    ("uid_mappings", {"uid_mappings": [IdMapping(0, 1, 9)], "namespaces": {"user": "host"}}, "host's user"),
    ('time_offsets["realtime"]', {"time_offsets": {"realtime": {}}}, "time_namespaces"),
    ("devices[0].type", {"devices": [{"path": "/dev/x", "type": "x"}]}, "is unknown"),
    ("devices[0].minor", {"devices": [{"path": "/dev/x", "minor": 2**20}]}, "is too large"),
    ("devices[0].access", {"devices": [{"path": "/dev/x", "access": "rx"}]}, "device access"),
    ('sysctls["kernel.hostname"]', {"sysctls": {"kernel.hostname": "x"}}, "use hostname="),
    ('sysctls["kernel.core_pattern"]', {"sysctls": {"kernel.core_pattern": "x"}}, "the whole host"),
    ('sysctls["net.ipv4.x"]', {"sysctls": {"net.ipv4.x": 1}, "network": "host"}, "private network"),
    ('sysctls["kernel.sem"]', {"sysctls": {"kernel.sem": 1}, "namespaces": {"ipc": "host"}}, "private ipc"),
    ('sysctls["net/../kernel/core_pattern"]', {"sysctls": {"net/../kernel/core_pattern": 1}}, "name of a sysctl"),
    ('sysctls["net.//.kernel.x"]', {"sysctls": {"net.//.kernel.x": 1}}, "name of a sysctl"),
    ("cgroups_path", {"cgroups_path": "/a/../../b"}, "'..'"),
    ("masked_paths[0]", {"masked_paths": ["proc"]}, "is not an absolute path"),
    ("hooks.prestart[0].path", {"hooks": {"prestart": [{"path": "x"}]}}, "is not an absolute path"),
    ("hooks.prestart[0].timeout", {"hooks": {"prestart": [{"path": "/x", "timeout": 0}]}}, "is too small"),
    ('annotations["org.execdrivers.init"]', {"annotations": {"org.execdrivers.init": "true"}}, "reserved"),
    ("stop_signal", {"stop_signal": "TERN"}, "did you mean 'SIGTERM'"),
    ("driver_options", {"driver_options": DEEP}, "nested deeper"),
    ('driver_options["x"]["y"]', {"driver_options": {"x": {"y": float("nan")}}}, "no JSON number"),
    ('driver_options["x"]', {"driver_options": {"x": 1}}, "is not a mapping"),
    ("memory", {"memory": "4k"}, "is too small"),
    ("memory", {"memory": -5}, "not a possible number"),
    ("memory", {"memory": 10**30}, "not a possible number"),
    ("memory", {"memory": "64X"}, "is not a size"),
    ("memory_swap", {"memory": "64M", "memory_swap": "32M"}, "is below memory"),
    ("memory_swap", {"memory_swap": "32M"}, "set memory as well"),
    ("memory_reservation", {"memory": "64M", "memory_reservation": "65M"}, "is above memory"),
    ("cpus", {"cpus": 0}, "not a possible"),
    ("cpus", {"cpus": float("nan")}, "not a number"),
    ("cpus", {"cpus": 1e9}, "not a possible"),
    ("cpus", {"cpus": 1, "cpu_quota": 5000}, "the same as cpu_quota"),
    ("cpu_shares", {"cpu_shares": 1}, "is too small"),
    ("cpuset_cpus", {"cpuset_cpus": "0-"}, "is not a list of numbers"),
    ("pids", {"pids": 0}, "is too small"),
    ("pids", {"pids": True}, "is not an integer"),
    ('hugepage_limits["2M"]', {"hugepage_limits": {"2M": 1}}, "size of huge pages"),
    ('unified["../memory.max"]', {"unified": {"../memory.max": "1"}}, "cgroup v2"),
    ("block_io.weight", {"block_io": {"weight": 5}}, "is too small"),
    ("resources.cpu_shares", {"resources": {"cpu_shares": 1}}, "is too small"),
    ("resources.devices[0].allow", {"resources": {"devices": [{"type": "c"}]}}, "is missing"),
]


@pytest.mark.parametrize(("field", "given", "word"), REFUSED, ids=[f"{case[0]}-{case[2]}" for case in REFUSED])
def test_refused_with_field_and_remedy(field: str, given: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError) as caught:
        ContainerSpec.build(**{"args": ["true"], **given})
    if field != "driver_options":
        assert caught.value.field == field
    assert caught.value.field.startswith(field)
    assert word in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_joined_namespaces_may_take_sysctls_and_names() -> None:
    ContainerSpec(["x"], namespaces={"network": "/n", "uts": "/u"}, sysctls={"net.ipv4.x": 1}, hostname="h")


class TestJson:
    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ('{"args": ["true"], ', "line 1, column 20"),
            ('{"args":\n ["tr', "line 2"),
            ("", "line 1, column 1"),
            ("[" * 100000, "nested too deeply"),
            ('{"args": ["x"], "driver_options": ' + '{"a":' * 200 + "1" + "}" * 201, "nested too deeply"),
            ("[]", "is not a mapping"),
            ("null", "is not a mapping"),
            ('{"args": "true"}', "shlex"),
            ('{"arg": ["true"]}', "did you mean 'args'"),
            ("{}", "is missing"),
            ('{"args": ["a\\u0000"]}', "NUL"),
            ('{"args": ["a"], "umask": ' + "9" * 5000 + "}", "is not usable|is too large"),
            (b'{"args": ["\xff"]}', "is not UTF-8 at byte 11"),
            (" " * (16 * 2**20 + 1), "is too large"),
        ],
    )
    def test_bad(self, text: str | bytes, word: str) -> None:
        with pytest.raises(SpecError, match=word):
            ContainerSpec.from_json(text)

    def test_byte_order_mark_and_duplicate_keys(self) -> None:
        assert ContainerSpec.from_json(b'\xef\xbb\xbf{"args": ["a"], "args": ["b"]}').args == ("b",)

    def test_ten_megabytes_of_environment_are_for_the_kernel_to_refuse(self) -> None:
        spec = ContainerSpec(["true"], env={"A": "x" * 10**7})
        assert ContainerSpec.from_json(spec.to_json()) == spec

    def test_is_plain_json(self) -> None:
        spec = ContainerSpec(["x"], hooks=Hooks(poststop=[{"path": "/x"}]), resources={"pids": 5})
        assert json.loads(spec.to_json()) == {
            "args": ["x"],
            "hooks": {"poststop": [{"path": "/x"}]},
            "resources": {"pids": 5},
        }


class TestDefaults:
    def test_mounts_are_replaced_in_place(self) -> None:
        own = Mount("/dev/shm", "tmpfs", options=["size=1m"])
        extra = Mount("/data", "tmpfs")
        merged = defaults.mounts(ContainerSpec(["x"], mounts=[extra, own]))
        assert [mount.destination for mount in merged] == [
            *(mount.destination for mount in defaults.MOUNTS),
            "/data",
        ]
        assert own in merged
        assert defaults.mounts(ContainerSpec(["x"], mounts=[extra], default_mounts=False)) == (extra,)

    def test_environment(self) -> None:
        spec = ContainerSpec(["x"], env={"HOME": "/mine"}, tty=True)
        assert defaults.environment(spec, "/root", "box") == {
            "HOME": "/mine",
            "PATH": defaults.PATH,
            "HOSTNAME": "box",
            "TERM": "xterm",
        }
        assert defaults.environment(ContainerSpec(["x"], env={"A": "1"}, default_env=False), "/", "box") == {"A": "1"}


def test_what_is_built_again_is_the_same_spec() -> None:
    """Plain arguments alone decide what comes of them."""
    fields: dict[str, Any] = {"rootfs": "/r", "hostname": "web", "memory": "64M", "init": True, "cpus": 1.5}
    once = ContainerSpec.build(["true", "x"], **fields)
    assert ContainerSpec.build(("true", "x"), **fields) is once
    assert once == ContainerSpec(["true", "x"], rootfs="/r", hostname="web", init=True, resources=once.resources)


def test_what_only_looks_the_same_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in ("a", "b"):  # what a relative path is depends on where one is
        (tmp_path / directory).mkdir()
        monkeypatch.chdir(tmp_path / directory)
        assert ContainerSpec.build(["true"], rootfs="r").rootfs == str(tmp_path / directory / "r")
    assert ContainerSpec.build(["true"], init=True).init is True
    with pytest.raises(SpecError, match="init"):  # 1 == True, and their hashes are the same
        ContainerSpec.build(["true"], init=1)  # type: ignore[typeddict-item]
    env = {"A": "1"}
    before = ContainerSpec.build(["true"], env=env)
    env["A"] = "2"
    assert ContainerSpec.build(["true"], env=env).env == {"A": "2"} and before.env == {"A": "1"}

    class Own(ContainerSpec):
        pass

    assert type(Own.build(["true"])) is Own and type(ContainerSpec.build(["true"])) is ContainerSpec


def test_a_spec_that_was_hashed_is_pickled_without_its_hash() -> None:
    """Which is another in another program."""
    spec = ContainerSpec.build(["true"], env={"A": "1"})
    hash(spec)
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec and not hasattr(again, "_hash") and hash(again) == hash(spec)
