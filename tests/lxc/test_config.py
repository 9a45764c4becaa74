"""The rendered configuration: complete, nothing injected, nothing cut off; checked by what LXC itself reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, assume, example, given, settings

from execdrivers import ContainerSpec, Engine, Mount, SpecError
from execdrivers.spec import Resources
from execdrivers_lxc import config, locks, probe
from execdrivers_lxc.config import Config
from execdrivers_lxc.syntax import line

pytestmark = pytest.mark.needs("lxc-start", "root")

DOCS = Path(__file__).parents[2] / "docs/lxc.md"


@pytest.fixture(scope="module")
def host() -> probe.Host:
    """This host's facts."""
    return probe.look()


def render(spec: ContainerSpec, host: probe.Host, **more: Any) -> Config:
    return config.render(spec, "box", host, **more)


def keys(spec: ContainerSpec, host: probe.Host) -> dict[str, str]:
    return dict(render(spec, host).lines)


# --- what is written --------------------------------------------------------------------------------------------


def test_a_plan_is_stable_and_runs_nothing(rootfs: Path, host: probe.Host) -> None:
    spec = ContainerSpec(["true"], rootfs=str(rootfs), hostname="here", sysctls={"net.ipv4.ip_forward": 1})
    plan = render(spec, host).plan("lxc-start")
    assert plan == render(spec, host).plan("lxc-start")
    text = str(plan)
    assert "config line='lxc.uts.name = here'" in text
    assert "run args=[lxc-start, -q, -F, -n, box, -P, DIRECTORY/lxc" in text
    assert text.endswith('TERM=xterm"]') or "exec " in text.splitlines()[-1]
    json.dumps(plan.to_dict())


def test_explain_shows_config_argv_and_operations(rootfs: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "execdrivers",
        "explain",
        "--driver",
        "lxc",
        "--rootfs",
        str(rootfs),
        "--memory",
        "64M",
        "--",
        "true",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for part in ("lxc.rootfs.path = dir:", "67108864", "lxc-start", "channel", "no-new-privileges", "exec "):
        assert part in done.stdout


def test_namespaces_and_network(rootfs: Path, host: probe.Host) -> None:
    own = keys(ContainerSpec(["true"], rootfs=str(rootfs)), host)
    assert "lxc.namespace.clone" not in own
    assert own["lxc.net.0.type"] == "empty"
    shared = ContainerSpec(["true"], rootfs=str(rootfs), namespaces={"pid": "host", "uts": "host"}, network="host")
    lines = keys(shared, host)
    assert lines["lxc.namespace.clone"] == "mnt ipc cgroup"
    assert lines["lxc.net.0.type"] == "none"
    assert "lxc.uts.name" not in lines  # it would rename the host


def test_limits_follow_the_hosts_cgroup_version(rootfs: Path, host: probe.Host) -> None:
    spec = ContainerSpec(["true"], rootfs=str(rootfs), resources=Resources(memory="64M", pids=7, cpus=1.5))
    v1 = attrs.evolve(host.cgroups, v1={"memory": "/c/memory", "pids": "/c/pids", "cpu": "/c/cpu"}, v2="", swap=True)
    v2 = attrs.evolve(host.cgroups, v1={}, v2="/c", v2_controllers=frozenset({"memory", "pids", "cpu"}), swap=True)
    lines = keys(spec, attrs.evolve(host, cgroups=v1))
    assert lines["lxc.cgroup.memory.limit_in_bytes"] == lines["lxc.cgroup.memory.memsw.limit_in_bytes"] == "67108864"
    assert lines["lxc.cgroup.cpu.cfs_quota_us"] == "150000" and lines["lxc.cgroup.pids.max"] == "7"
    assert "/c/memory/" in lines["lxc.hook.stop"] and "memory.oom_control" in lines["lxc.hook.stop"]
    lines = keys(spec, attrs.evolve(host, cgroups=v2))
    assert lines["lxc.cgroup2.memory.max"] == "67108864" and lines["lxc.cgroup2.memory.swap.max"] == "0"
    assert lines["lxc.cgroup2.cpu.max"] == "150000 100000" and lines["lxc.cgroup2.pids.max"] == "7"
    assert "memory.events" in lines["lxc.hook.stop"]


@pytest.mark.parametrize(
    ("version", "pivots"), [((4, 0, 2), False), ((4, 0, 6), True), ((5, 0, 2), True), ((6, 0), True)]
)
def test_keys_follow_the_version(rootfs: Path, host: probe.Host, version: tuple[int, ...], pivots: bool) -> None:
    lines = keys(ContainerSpec(["true"], rootfs=str(rootfs)), attrs.evolve(host, version=version))
    assert ("lxc.cgroup.dir.monitor.pivot" in lines) is pivots


def test_documentation_maps_every_field_and_names_true_keys() -> None:
    text = DOCS.read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    assert list(rows) == [field.name for field in attrs.fields(ContainerSpec)]
    source = "".join(path.read_text() for path in Path(config.__file__).parent.glob("*.py"))
    source = re.sub(r"[\\()]", "", source)
    for key in re.findall(r"`(lxc\.[a-z.0-9]+)", " ".join(rows.values())):
        assert key.rstrip(".") in source, key


def test_documentation_lists_the_raw_keys() -> None:
    from execdrivers_lxc.options import ALLOWED

    text = DOCS.read_text()
    for key in ("lxc.cgroup.*", "lxc.net.N.*", "lxc.sysctl.*", "lxc.prlimit.*", "lxc.hook.*", "lxc.arch"):
        assert f"`{key}`" in text
    assert len(re.findall(r"^- `lxc\.", text, re.MULTILINE)) == len(ALLOWED)


# --- what LXC reads ---------------------------------------------------------------------------------------------

#: All but what no configuration file can hold; surrogates stand for bytes that are not UTF-8.
TEXTS = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), max_size=60)
NASTY = st.sampled_from(
    [" ", "  ", "\t", "#", "=", '"', "'", "\\", "\r", "\x0b", "a", "lxc.uts.name = evil", "\\040", "é", "$(", "%"]
)
VALUES = st.one_of(TEXTS, st.lists(NASTY.filter(lambda part: part != "\r"), max_size=8).map("".join))


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of containers."""
    directory = tmp_path_factory.mktemp("boxes")
    yield directory
    locks.remove(str(directory), "box")


def read_back(boxes: Path, lines: list[tuple[str, str]], *wanted: str) -> list[bytes]:
    """What lxc-info says that the keys are."""
    (boxes / "box").mkdir(exist_ok=True)
    (boxes / "box/config").write_bytes(b"".join(line(key, value) for key, value in lines))
    told = []
    for key in wanted:
        done = subprocess.run(["lxc-info", "-n", "box", "-P", boxes, "-c", key], capture_output=True)
        head = key.encode() + b" = "
        assert done.stdout.startswith(head), (done.stdout, done.stderr)
        told.append(done.stdout[len(head) : -1])
    return told


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
@example('"quoted"')
@example("'")
@example(" lxc.rootfs.path = /etc # ")
def test_a_value_is_read_as_written(boxes: Path, value: str) -> None:
    assume(value)  # an empty one unsets the key
    lines = [
        ("lxc.uts.name", "first"),
        ("lxc.environment", f"A={value}"),
        ("lxc.execute.cmd", value),
        ("lxc.tty.max", "3"),
    ]
    read = read_back(boxes, lines, "lxc.uts.name", "lxc.environment", "lxc.execute.cmd", "lxc.tty.max")
    assert read == [b"first", f"A={value}\n".encode(), value.encode(), b"3"]


@pytest.fixture(scope="module")
def host_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that holds one program, to be linked from others of odd names."""
    root = tmp_path_factory.mktemp("plain")
    shutil.copy(shutil.which("busybox") or "", root / "busybox")
    return root


NAMES = st.one_of(
    st.sampled_from(["a\n", "\rb"]),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.lists(NASTY, min_size=1, max_size=6).map("".join),
).filter(lambda name: name not in (".", "..") and "/" not in name and len(os.fsencode(name)) < 200)


def make_root(top: Path, program: Path, name: str) -> Path:
    root = top / name
    for directory in ("proc", "dev", "mnt", "tmp"):
        (root / directory).mkdir(parents=True)
    os.link(program, root / "sh")
    return root


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
@example(name=" # lxc.uts.name = x ")
@example(name="'q\"")
@example(name="a:b,c\\040")
def test_odd_names_of_roots_and_mounts(engine: Engine, host_rootfs: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(dir=host_rootfs) as top:
        root = make_root(Path(top), host_rootfs / "busybox", name)
        source = Path(top) / "sources" / name
        source.mkdir(parents=True)
        (source / "found").touch()
        arguments = {"rootfs": root, "driver": "lxc", "capture_output": True, "text": True, "hostname": "true-name"}
        mounts = [Mount(f"/mnt/{name}", "bind", str(source))]
        command = ["/sh", "-c", 'cd "/mnt/$1" && echo * && hostname', "-", name]
        if set(name) & set("\n\r"):
            with pytest.raises(SpecError, match=r"has a (line break|carriage return)"):
                engine.run(command, mounts=mounts, **arguments)
            return
        done = engine.run(command, mounts=mounts, **arguments)
        assert done.stdout == "found\ntrue-name\n", done.stderr


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_no_line_gets_into_the_configuration(tmp_path: Path, rootfs: Path, host: probe.Host, end: str) -> None:
    evil = f"a{end}lxc.uts.name = evil"
    for directory in ("proc", "dev"):
        (tmp_path / evil / directory).mkdir(parents=True)

    def refused(field: str, **fields: Any) -> None:
        with pytest.raises(SpecError, match="LXC would end the line") as caught:
            render(ContainerSpec(["true"], **{"rootfs": str(rootfs), **fields}), host)
        assert caught.value.field == field

    refused("rootfs", rootfs=str(tmp_path / evil))
    refused('driver_options["lxc"]["lxc.hook.stop"]', driver_options={"lxc": {"lxc.hook.stop": evil}})
    if end == "\r":  # a line break can be escaped there
        refused("mounts[0].destination", mounts=[Mount("/mnt", "bind", str(tmp_path / evil))])
        refused("mounts[0].destination", mounts=[Mount(f"/{evil}", "tmpfs", "tmpfs")])


@pytest.mark.parametrize(
    "option", ["create=dir", "optional", "idmap=container", "relative", "remount", "lowerdir=/a\\,b"]
)
def test_options_that_are_lxcs_own_are_refused(rootfs: Path, host: probe.Host, option: str) -> None:
    options = (option,) if option.startswith("lowerdir") else (option, "lowerdir=/tmp")
    spec = ContainerSpec(["true"], rootfs=str(rootfs), mounts=[Mount("/mnt", "overlay", "overlay", options)])
    with pytest.raises(SpecError, match="take apart") as caught:
        render(spec, host)
    assert caught.value.field == "mounts[0].options"


def test_a_source_that_would_be_a_comment_is_refused(rootfs: Path, host: probe.Host) -> None:
    spec = ContainerSpec(["true"], rootfs=str(rootfs), mounts=[Mount("/tmp", "tmpfs", "#tmpfs")])
    with pytest.raises(SpecError, match="comment"):
        render(spec, host)


def test_an_entry_that_lxc_would_cut_off_is_refused(rootfs: Path, host: probe.Host, tmp_path: Path) -> None:
    spec = ContainerSpec(["true"], rootfs=str(rootfs), mounts=[Mount("/" + "d/" * 1000, "bind", str(tmp_path))])
    with pytest.raises(SpecError, match="longer than LXC reads"):
        render(ContainerSpec(["true"], rootfs=str(rootfs), mounts=[Mount("/" + "dd/" * 1400, "bind", "/tmp")]), host)
    render(spec, host)


def test_a_sysctl_with_a_slash_is_refused(rootfs: Path, host: probe.Host) -> None:
    spec = ContainerSpec(["true"], rootfs=str(rootfs), sysctls={"net/ipv4/conf/eth0.1/forwarding": 1})
    with pytest.raises(SpecError, match="LXC cannot express"):
        render(spec, host)


def test_values_of_sysctls(engine: Engine, rootfs: Path) -> None:
    sysctls = {"net.ipv4.ping_group_range": "0 \t 7", "kernel.msgmax": "4096"}
    command = ["cat", "/proc/sys/net/ipv4/ping_group_range", "/proc/sys/kernel/msgmax"]
    done = engine.run(command, rootfs=rootfs, driver="lxc", sysctls=sysctls, capture_output=True, text=True)
    assert done.stdout == "0\t7\n4096\n"


# --- places of mounts -------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that must stay empty."""
    directory = tmp_path / "outside"
    directory.mkdir()
    yield directory
    assert not list(directory.iterdir())


def test_links_are_followed_inside_the_root(engine: Engine, own_rootfs: Path, tmp_path: Path, secret: Path) -> None:
    (own_rootfs / "srv/link").symlink_to("/var")
    (own_rootfs / "srv/out").symlink_to(f"../../../../../..{secret}")
    (tmp_path / "file").write_text("bound")
    mounts = [Mount("/srv/link/made/file", "bind", f"{tmp_path}/file"), Mount("/srv/out/x", "bind", f"{tmp_path}/file")]
    done = engine.run(
        ["cat", "/var/made/file", f"{secret}/x"], rootfs=own_rootfs, driver="lxc", mounts=mounts, capture_output=True
    )
    assert done.stdout == b"boundbound"
    made = (own_rootfs / "var/made/file").stat()
    assert (made.st_size, oct(made.st_mode)) == (0, "0o100644")


@pytest.mark.parametrize("place", ["/proc/1/root/tmp/x", "/proc/self/cwd", "/proc/thread-self/root"])
def test_no_place_in_a_process_of_proc(rootfs: Path, host: probe.Host, place: str) -> None:
    spec = ContainerSpec(["true"], rootfs=str(rootfs), mounts=[Mount(place, "bind", "/tmp")])
    with pytest.raises(SpecError, match="leads through the proc at /proc"):
        render(spec, host)


def test_without_proc_and_dev_they_are_there_only_for_the_start(engine: Engine, own_rootfs: Path) -> None:
    arguments = {"rootfs": own_rootfs, "driver": "lxc", "default_mounts": False, "capture_output": True, "text": True}
    before = sorted(own_rootfs.rglob("*"))
    done = engine.run(["sh", "-c", "echo /proc/* /dev/*"], **arguments)
    assert done.stdout == "/proc/* /dev/*\n"
    assert sorted(own_rootfs.rglob("*")) == before


def test_nothing_is_made_in_what_is_bound_on_dev(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "mine").touch()
    mounts = [Mount("/dev", "bind", str(dev)), Mount("/dev/mine", "bind", "/etc/hostname", ("ro",))]
    done = engine.run(
        ["sh", "-c", "echo /dev/*"],
        rootfs=rootfs,
        driver="lxc",
        mounts=[Mount("/proc", "proc", "proc"), *mounts],
        default_mounts=False,
        masked_paths=[],
        capture_output=True,
    )
    assert done.stdout == b"/dev/mine\n"
    assert [path.name for path in dev.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["dev", "proc"])
def test_a_root_without_what_lxc_needs_is_refused(own_rootfs: Path, host: probe.Host, name: str) -> None:
    (own_rootfs / name).rmdir()
    with pytest.raises(SpecError, match=f"has no directory /{name}, which LXC needs"):
        render(ContainerSpec(["true"], rootfs=str(own_rootfs), default_mounts=False), host)


def test_default_masks_without_a_dev(engine: Engine, own_rootfs: Path) -> None:
    mounts = [Mount("/proc", "proc", "proc")]
    arguments = {"rootfs": own_rootfs, "driver": "lxc", "default_mounts": False, "capture_output": True, "text": True}
    (own_rootfs / "dev/secret").write_text("secret")
    done = engine.run(["sh", "-c", "cat /proc/keys; echo /dev/*"], mounts=mounts, **arguments)
    assert done.stdout == "/dev/secret\n"
    assert sorted(path.name for path in (own_rootfs / "dev").iterdir()) == ["secret"]
