"""Options of mounts on native: propagation, attributes, superblock flags, copies of what a tmpfs covers."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from execdrivers import DEVNULL, PIPE, ContainerSpec, Engine, LaunchError, SpecError
from execdrivers_native import compile, host

ROOT = attrs.evolve(host.look(), uid=0, gid=0, capabilities=(1 << 41) - 1, bounding=(1 << 41) - 1)
ORDINARY = attrs.evolve(ROOT, uid=1234, gid=1234, capabilities=0)

#: Default profiles of AppArmor and seccomp deny it.
MAY_MOUNT: dict[str, Any] = {"capabilities": {"add": ["SYS_ADMIN"]}, "apparmor_profile": "unconfined"}

needs_root = pytest.mark.needs("root", "busybox")


def tmpfs(*options: str) -> dict[str, Any]:
    return {"type": "tmpfs", "destination": "/data", "options": options}


def bind(source: Path | str, *options: str) -> dict[str, Any]:
    return {"type": "bind", "source": str(source), "destination": "/data", "options": options}


def plan(rootfs: Path | None, facts: host.Host = ROOT, **fields: Any) -> compile.NativePlan:
    return compile.compile(ContainerSpec.build(["true"], rootfs=rootfs, **fields), "box", facts)


def run(engine: Engine, rootfs: Path, script: str, **fields: Any) -> str:
    done = engine.run(
        ["sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True, timeout=60, **fields
    )
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout)


def options_at(mountinfo: str, place: str) -> tuple[set[str], set[str]]:
    """Those of the mount and those of its file system."""
    (line,) = (line for line in mountinfo.splitlines() if f" {place} " in line)
    return set(line.split()[5].split(",")), set(line.split()[-1].split(","))


# --- propagation


def test_what_is_private_costs_nothing(rootfs: Path, tmp_path: Path) -> None:
    """One step for all of the host's mounts; nothing that the caller would have to take hold of."""
    for fields in ({}, {"mounts": [bind(tmp_path)]}, {"rootfs_propagation": "rprivate"}):
        compiled = plan(rootfs, **fields)
        assert not compiled.trees
        assert [item.args for item in compiled.operations if item.name == "propagation"] == [("private",)]


@pytest.mark.parametrize(("option", "peers"), [("rslave", False), ("rshared", True)])
def test_the_caller_takes_hold_of_what_has_to_do_with_the_hosts_mounts(
    rootfs: Path, tmp_path: Path, option: str, peers: bool
) -> None:
    (tree,) = plan(rootfs, mounts=[bind(tmp_path, "rbind", option, "rro")]).trees
    assert (tree.propagation, tree.peers, tree.recursive) == (option[1:], peers, True)
    assert "ro" in tree.recursive_set


def test_without_privilege_all_are_slaves_until_they_are_made_private(tmp_path: Path, rootfs: Path) -> None:
    other = {**bind(tmp_path), "destination": "/srv"}
    compiled = plan(rootfs, ORDINARY, mounts=[bind(tmp_path, "rslave"), other])
    shown = [item.step() for item in compiled.operations]
    assert [step.args["propagation"] for step in shown if step.op == "propagation"] == ["slave"]
    found = {step.args.get("destination"): step.args.get("propagation") for step in shown if step.op == "bind"}
    assert (found["/data"], found["/srv"]) == ("slave", "private")
    assert any(step.op == "set-attributes" and step.args.get("propagation") == "private" for step in shown)


@pytest.mark.parametrize("fields", [{"rootfs": None}, {"ephemeral": True}])
def test_a_root_that_cannot_be_told_is_refused(rootfs: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"^rootfs_propagation: 'rslave' cannot be with"):
        plan(**{"rootfs": rootfs, "rootfs_propagation": "rslave", **fields})


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A mount of the host that tells others what is mounted in it."""
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "kit", place], check=True)
    try:
        subprocess.run(["mount", "--make-shared", place], check=True)
        (place / "late").mkdir()
        yield place
    finally:
        subprocess.run(["umount", "-R", "-l", place], check=True)


@needs_root
def test_a_shared_root_is_shared_with_what_is_made_inside(engine: Engine, own_rootfs: Path) -> None:
    """Another mount namespace in the container is told, as a container manager in it expects; the host is not."""
    script = (
        "mkfifo /tmp/ready /tmp/go; unshare -m --propagation shared sh -c "
        "'echo >/tmp/ready; read x </tmp/go; cat /srv/file' & read x </tmp/ready;"
        "mount -t tmpfs inside /srv; echo told >/srv/file; echo >/tmp/go; wait"
    )
    assert run(engine, own_rootfs, script, rootfs_propagation="rshared", **MAY_MOUNT) == "told\n"
    assert not os.path.ismount(own_rootfs / "srv")


@needs_root
def test_what_the_user_namespace_of_a_container_mounts_is_not_the_hosts(
    engine: Engine, own_rootfs: Path, shared: Path
) -> None:
    """It is told of the host's mounts, though: rshared is rslave towards the host then."""
    mapping = [{"container_id": 0, "host_id": 100_000, "size": 1000}]
    spec = ContainerSpec.build(
        ["sh", "-c", "mount -t tmpfs x /data/late && echo mounted; read x; ls /data/told"],
        rootfs=own_rootfs,
        mounts=[bind(shared, "rbind", "rshared")],
        namespaces={"user": "private"},
        uid_mappings=mapping,
        gid_mappings=mapping,
        **MAY_MOUNT,
    )
    (shared / "told").mkdir()
    for place in (own_rootfs, *own_rootfs.parents):
        place.chmod(place.stat().st_mode | 0o055)
    with engine.create(spec, driver="native", stdin=PIPE, stdout=PIPE) as container:
        container.start()
        assert container.stdout is not None
        assert container.stdout.readline() == b"mounted\n"
        assert not os.path.ismount(shared / "late")
        subprocess.run(["mount", "-t", "tmpfs", "kit", shared / "told"], check=True)
        (shared / "told/seen").mkdir()
        out, _ = container.communicate(b"\n")
        assert out == b"seen\n"


@needs_root
def test_without_privilege_mounts_of_the_host_appear(shared: Path, nobody: dict[str, Any]) -> None:
    program = (
        "import sys, execdrivers as x\n"
        "mounts = [{'type': 'bind', 'source': sys.argv[1], 'destination': '/tmp', 'options': [sys.argv[2]]}]\n"
        "spec = x.ContainerSpec(['sh', '-c', 'echo; read x; ls /tmp/late'], mounts=mounts)\n"
        "with x.Engine() as engine, engine.create(spec, driver='native', stdout=x.PIPE, stdin=x.PIPE) as container:\n"
        "    container.start(); container.stdout.readline(); print(flush=True); input()\n"
        "    print(container.communicate(b'\\n')[0].decode(), end='')\n"
    )
    for place in (shared, *shared.parents):
        place.chmod(place.stat().st_mode | 0o055)
    for option, expected in (("rslave", "seen\n"), ("rshared", "seen\n"), ("rprivate", "")):
        command = [sys.executable, "-c", program, str(shared), option]
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, **nobody) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            process.stdout.readline()
            subprocess.run(["mount", "-t", "tmpfs", "kit", shared / "late"], check=True)
            (shared / "late/seen").mkdir()
            out, _ = process.communicate("\n")
            subprocess.run(["umount", shared / "late"], check=True)
        assert out == expected, option


# --- attributes and flags


@needs_root
@pytest.mark.parametrize("option", ["sync", "dirsync", "lazytime"])
def test_superblock_flags(engine: Engine, rootfs: Path, option: str) -> None:
    out = run(engine, rootfs, "cat /proc/self/mountinfo", mounts=[tmpfs(option)])
    assert option in options_at(out, "/data")[1]


@needs_root
def test_options_of_the_file_system(engine: Engine, rootfs: Path) -> None:
    options = ("size=1m", "nr_inodes=10", "mode=0711", "uid=3", "gid=4", "nosymfollow", "silent", "ro")
    out = run(engine, rootfs, "stat -c '%a %u %g' /data; cat /proc/self/mountinfo", mounts=[tmpfs(*options)])
    assert out.splitlines()[0] == "711 3 4"
    attributes, flags = options_at(out, "/data")
    assert {"ro", "nosymfollow", "nodev"} <= attributes
    assert {"size=1024k", "nr_inodes=10"} <= flags


@needs_root
def test_links_are_not_followed_under_nosymfollow(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_text("x")
    script = "cat /data/file; cat /data/link 2>&1; true"
    out = run(engine, rootfs, script, mounts=[bind(tmp_path, "nosymfollow")])
    assert out.startswith("x")
    assert "ymbolic link" in out


@needs_root
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("size=lots", r"Bad value for 'size'"),
        ("nonsense", r"Unknown parameter 'nonsense'"),
        ("iversion", r"Unknown parameter 'iversion'"),
        ("mode=999", r"Bad value for 'mode'"),
    ],
)
def test_what_the_kernel_refuses_is_told_in_its_words(engine: Engine, rootfs: Path, option: str, words: str) -> None:
    with pytest.raises(LaunchError, match=rf"^mount: /data: Invalid argument \(tmpfs: {words}\); check"):
        engine.run(["true"], rootfs=rootfs, driver="native", mounts=[tmpfs(option)])


def test_mandatory_locks_are_refused(rootfs: Path) -> None:
    with pytest.raises(SpecError, match="options: 'mand' asks for mandatory locks, which Linux has not had"):
        plan(rootfs, mounts=[tmpfs("mand")])


@needs_root
@pytest.mark.parametrize(
    ("options", "top", "below"),
    [
        (("ro",), {"ro"}, {"rw"}),
        (("rro",), {"ro"}, {"ro"}),
        (("rro", "rw"), {"rw"}, {"ro"}),
        (("rnoatime", "rnosuid"), {"noatime", "nosuid"}, {"noatime", "nosuid"}),
        (("rstrictatime", "noatime"), {"noatime"}, set()),
        (("rrelatime", "rnoexec", "exec"), {"relatime"}, {"relatime", "noexec"}),
    ],
)
def test_attributes_of_the_top_and_of_all(
    engine: Engine, rootfs: Path, shared: Path, options: tuple[str, ...], top: set[str], below: set[str]
) -> None:
    for depth in ("late", "late/a", "late/a/b"):
        (shared / depth).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "noatime", "kit", shared / depth], check=True)
    out = run(engine, rootfs, "cat /proc/self/mountinfo", mounts=[bind(shared, "rbind", *options)])
    assert top <= options_at(out, "/data")[0]
    for depth in ("late", "late/a", "late/a/b"):
        found = options_at(out, f"/data/{depth}")[0]
        assert below <= found
        if "rstrictatime" in options:
            assert not {"noatime", "relatime"} & found


# --- a tmpfs with what it covers


@pytest.fixture
def covered(own_rootfs: Path) -> Path:
    data = own_rootfs / "data"
    (data / "below/deep").mkdir(parents=True)
    return data


def copied(engine: Engine, covered: Path, script: str, *options: str) -> str:
    return run(engine, covered.parent, script, mounts=[tmpfs("tmpcopyup", *options)])


def test_only_a_tmpfs_has_a_copy() -> None:
    with pytest.raises(SpecError, match="'tmpcopyup' is not an option of bind mounts"):
        ContainerSpec(["true"], mounts=[bind("/etc", "tmpcopyup")])


@needs_root
def test_extended_attributes_and_capabilities_are_copied(engine: Engine, covered: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # CAP_NET_BIND_SERVICE, effective
    (covered / "file").write_bytes(b"x")
    for place in (covered / "file", covered / "below"):
        os.setxattr(place, "trusted.kit", b"value")
    os.setxattr(covered / "file", "security.capability", capability)
    fields: dict[str, Any] = {"mounts": [tmpfs("tmpcopyup")], "init": True}
    spec = ContainerSpec.build(["sleep", "60"], rootfs=covered.parent, **fields)
    with engine.create(spec, driver="native", stdin=DEVNULL) as container:
        container.start()
        root = f"/proc/{container.pid}/root/data"
        for place in ("file", "below"):
            assert os.getxattr(f"{root}/{place}", "trusted.kit") == b"value"
        assert os.getxattr(f"{root}/file", "security.capability") == capability


@needs_root
def test_holes_stay_holes(engine: Engine, covered: Path) -> None:
    with open(covered / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(1 << 30)
        file.write(b"end")
        file.truncate(2 << 30)
    script = "stat -c '%s %b' /data/sparse; head -c5 /data/sparse; tail -c1073741824 /data/sparse | head -c3"
    out = copied(engine, covered, script, "size=1m")
    size, blocks = map(int, out.splitlines()[0].split())
    assert (size, out.splitlines()[1]) == (2 << 30, "beginend")
    assert blocks * 512 < 1 << 20


@needs_root
def test_the_root_is_as_the_options_say_else_as_it_was(engine: Engine, covered: Path) -> None:
    os.chown(covered, 5, 6)
    covered.chmod(0o3750)
    assert copied(engine, covered, "stat -c '%a %u %g' /data") == "3750 5 6\n"
    assert copied(engine, covered, "stat -c '%a %u %g' /data", "mode=700") == "700 0 0\n"


@needs_root
def test_a_readonly_copy(engine: Engine, covered: Path) -> None:
    (covered / "file").write_text("x")
    assert copied(engine, covered, "cat /data/file; touch /data/new 2>/dev/null || echo -n ' no'", "ro") == "x no"


@needs_root
def test_nothing_is_followed_out_of_the_directory(engine: Engine, covered: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (covered / "link").symlink_to(secret)
    (covered / "directory").symlink_to(tmp_path)
    script = "readlink /data/link; readlink /data/directory; cat /data/link /data/directory/secret 2>&1; true"
    out = copied(engine, covered, script)
    assert out.splitlines()[:2] == [str(secret), str(tmp_path)]
    assert out.count("No such file") == 2


@needs_root
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_device_nodes_are_refused(engine: Engine, covered: Path, kind: int) -> None:
    os.mknod(covered / "below/node", kind | 0o600, os.makedev(1, 3))
    with pytest.raises(LaunchError, match=r"^copy-up: /data: Operation not permitted \(/below/node\); a device node"):
        copied(engine, covered, "true")


@needs_root
def test_what_does_not_fit_is_told(engine: Engine, covered: Path) -> None:
    (covered / "below/deep/large").write_bytes(bytes(1) * 200_000)
    with pytest.raises(LaunchError, match=r"^copy-up: /data: No space left on device \(/below/deep/large\); .* size="):
        copied(engine, covered, "true", "size=64k")


@needs_root
def test_what_is_nested_too_deep_is_told(engine: Engine, covered: Path) -> None:
    top = here = os.open(covered, os.O_RDONLY)
    for _ in range(140):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        if here != top:
            os.close(here)
        here = below
    os.close(here)
    os.close(top)
    with pytest.raises(LaunchError, match=r"^copy-up: /data: File name too long \(/d/d/d"):
        copied(engine, covered, "true")


@needs_root
def test_bad_options_of_a_copy_are_told(engine: Engine, covered: Path) -> None:
    with pytest.raises(LaunchError, match=r"^copy-up: /data: Invalid argument \(tmpfs: Bad value for 'size'\)"):
        copied(engine, covered, "true", "size=x")


@needs_root
def test_a_container_with_little_memory_is_not_filled_with_a_large_copy(engine: Engine, covered: Path) -> None:
    """What is copied is the container's memory: its limit holds, and says so."""
    (covered / "large").write_bytes(os.urandom(1 << 20) * 24)
    with pytest.raises(LaunchError, match="was killed before the container was ready"):
        run(engine, covered.parent, "true", mounts=[tmpfs("tmpcopyup")], memory="8M")
