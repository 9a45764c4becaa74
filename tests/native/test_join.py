"""Namespaces that exist already: those of a process, of ip-netns(8), of another container."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import PIPE, Container, ContainerSpec, Engine, SpecError
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root", "busybox")

FILES = {"pid": "pid", "uts": "uts", "ipc": "ipc", "network": "net", "cgroup": "cgroup", "user": "user", "time": "time"}
MAPPINGS = [{"container_id": 0, "host_id": 700_000, "size": 65536}]
MAPPED: dict[str, Any] = {"uid_mappings": MAPPINGS, "gid_mappings": MAPPINGS}


def started(
    engine: Engine, rootfs: Path, script: str = "exec sleep 100", before: str = "", **options: Any
) -> Container:
    """A container that has said that it runs."""
    spec = ContainerSpec.build(["sh", "-c", f"{before} echo ready; {script}"], rootfs=rootfs, **options)
    container = engine.create(spec, driver="native", stdout=PIPE)
    container.start()
    assert container.stdout is not None
    assert container.stdout.readline().strip() == b"ready"
    return container


def out(engine: Engine, script: str, rootfs: Path, **options: Any) -> list[str]:
    done = engine.run(
        ["sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True, timeout=30, **options
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return str(done.stdout).split()


def of(container: Container, *kinds: str) -> dict[str, str]:
    """For the spec of one that shares these with it."""
    return {kind: f"/proc/{container.pid}/ns/{FILES[kind]}" for kind in kinds}


@pytest.fixture
def other(engine: Engine, rootfs: Path) -> Iterator[Container]:
    """A container with namespaces of its own of every kind."""
    container = started(engine, rootfs, hostname="other", namespaces={"time": "private"}, **MAPPED)
    yield container
    container.delete(force=True)


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "user"])
def test_each_kind(engine: Engine, rootfs: Path, other: Container, kind: str) -> None:
    """It alone is shared, and the user namespace that owns it may be another."""
    script = f"for k in {' '.join(FILES.values())}; do readlink /proc/self/ns/$k; done"
    seen = dict(zip(FILES, out(engine, script, rootfs, namespaces=of(other, kind)), strict=True))
    theirs = {name: os.readlink(f"/proc/{other.pid}/ns/{file}") for name, file in FILES.items()}
    assert [name for name in FILES if seen[name] == theirs[name]] == [kind]


def test_the_user_namespace_and_what_belongs_to_it(engine: Engine, rootfs: Path, other: Container) -> None:
    script = (
        "id -u; hostname; readlink /proc/self/ns/user; readlink /proc/self/ns/net; touch /dev/shm/x; ls /sys/class/net"
    )
    seen = out(engine, script, rootfs, namespaces=of(other, "user", "network", "uts"), user="1000:1000")
    theirs = [os.readlink(f"/proc/{other.pid}/ns/{kind}") for kind in ("user", "net")]
    assert seen == ["1000", "other", *theirs, "lo"]


def test_a_mount_with_the_mappings_of_what_is_joined(
    engine: Engine, rootfs: Path, other: Container, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    mounts = [{"type": "bind", "source": str(tmp_path), "destination": "/tmp", "options": ["idmap"]}]
    seen = out(engine, "stat -c %u /tmp/file", rootfs, namespaces=of(other, "user"), mounts=mounts)
    assert seen == ["0"]


def test_all_of_them(engine: Engine, rootfs: Path, other: Container) -> None:
    container = started(engine, rootfs, namespaces=of(other, *FILES))
    assert container.guarantees["joined"] == of(other, *FILES)
    assert container.guarantees["namespaces"] == ["mount"]
    for file in FILES.values():
        assert os.readlink(f"/proc/{container.pid}/ns/{file}") == os.readlink(f"/proc/{other.pid}/ns/{file}")
    assert b"700000" in Path(f"/proc/{container.pid}/status").read_bytes()
    with container.exec(["sh", "-c", "id -u; hostname"], stdout=PIPE) as process:
        assert process.communicate(timeout=20)[0] == b"0\nother\n"
    container.delete(force=True)
    assert other.state == "running"


@pytest.mark.needs("ip")
def test_one_of_ip_netns(engine: Engine, rootfs: Path) -> None:
    name = f"ed-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        wanted = f"net:[{os.stat(f'/run/netns/{name}').st_ino}]"
        options = {"namespaces": {"network": f"/run/netns/{name}"}}
        assert out(engine, "readlink /proc/self/ns/net; ls /sys/class/net", rootfs, **options) == [wanted, "lo"]
        assert out(engine, "readlink /proc/self/ns/net", rootfs, **options, **MAPPED) == [wanted]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_two_containers_reach_each_other_by_loopback(engine: Engine, rootfs: Path) -> None:
    server = started(engine, rootfs, "exec nc -l -p 7000 -e echo hello")
    client = "for i in $(seq 100); do nc 127.0.0.1 7000 </dev/null && exit; sleep 0.05; done"
    assert out(engine, client, rootfs, namespaces=of(server, "network")) == ["hello"]
    server.delete(force=True)


def test_pids_are_shared_and_told_apart_all_the_same(engine: Engine, rootfs: Path) -> None:
    """The kernel ends a pid namespace with its first process; the others' containers live as long as they like."""
    first = started(engine, rootfs)
    guest = started(engine, rootfs, before="sleep 100 & sleep 100 &", namespaces=of(first, "pid"))
    pids = guest.pids()
    assert len(pids) == 3
    assert guest.pid in pids
    assert first.pid not in pids
    with guest.exec(["sh", "-c", "sleep 100 & echo $$; ls -d /proc/1"], stdout=PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 3
        assert process.stdout.readline() == b"/proc/1\n"
    guest.pause()
    guest.update(memory="64M")
    guest.resume()
    assert len(guest.pids()) == 4
    everybody = guest.pids()
    guest.kill()
    guest.wait(timeout=20)
    guest.delete()
    assert not [pid for pid in everybody if os.path.exists(f"/proc/{pid}/exe") and pid != first.pid]
    assert first.state == "running"
    first.delete(force=True)


def test_it_ends_with_the_one_whose_pids_it_shares(engine: Engine, rootfs: Path) -> None:
    first = started(engine, rootfs)
    guest = started(engine, rootfs, namespaces=of(first, "pid"))
    first.delete(force=True)
    assert guest.wait(timeout=20).signal == 9
    guest.delete()


def test_the_end_is_told_truly(engine: Engine, rootfs: Path, other: Container) -> None:
    namespaces = of(other, "pid", "user", "network")
    done = engine.run(["sh", "-c", "exit 7"], rootfs=rootfs, driver="native", namespaces=namespaces)
    assert (done.returncode, done.exit.reason) == (7, "exited")
    done = engine.run(["sh", "-c", "kill -9 $$"], rootfs=rootfs, driver="native", namespaces=namespaces, init=True)
    assert (done.returncode, done.exit.reason) == (-9, "signaled")


def test_recovered(engine: Engine, rootfs: Path, other: Container) -> None:
    container = started(engine, rootfs, namespaces=of(other, "pid", "user", "network"))
    with Engine(engine.root) as second:
        again = second.get(container.id)
        assert again.pids() == [container.pid]
        with again.exec(["id", "-u"], stdout=PIPE) as process:
            assert process.communicate(timeout=20)[0] == b"0\n"
        again.kill()
    assert container.wait(timeout=20).signal == 9
    container.delete()


def test_limits_hold_where_all_is_joined(engine: Engine, rootfs: Path, other: Container) -> None:
    """A limit of one process leaves no room for a helper of ours in the container's cgroup."""
    done = engine.run(["sh", "-c", "(exit 3); exit 4"], rootfs=rootfs, driver="native", pids=1, capture_output=True,
                      namespaces=of(other, "pid", "user"))  # fmt: skip
    assert b"fork" in done.stderr


@pytest.mark.parametrize(
    ("kind", "path", "problem"),
    [
        ("network", "/no/such", "does not exist; name a network namespace: /proc/PID/ns/net, or one of ip-netns"),
        ("network", "/etc/passwd", "is no namespace"),
        ("network", "/proc/self/ns/uts", "is a uts namespace"),
        ("pid", "/proc/self/ns/pid_for_children", None),
        ("user", "/proc/self/ns/user", "is the caller's own user namespace; use 'host'"),
        ("mount", "/proc/self/ns/mnt", "a container makes its file system in mounts of its own"),
        ("ipc", "/dev/null", "is no namespace"),
    ],
)
def test_what_cannot_be_joined(engine: Engine, rootfs: Path, kind: str, path: str, problem: str | None) -> None:
    if problem is None:
        assert out(engine, "echo yes", rootfs, namespaces={kind: path}) == ["yes"]
        return
    with pytest.raises(SpecError, match=problem) as caught:
        engine.run(["true"], rootfs=rootfs, driver="native", namespaces={kind: path})
    assert caught.value.field == f'namespaces["{kind}"]'


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("user", "uid_mappings", MAPPINGS),
        ("time", "time_offsets", {"boottime": {"secs": 1}}),
        ("uts", "hostname", "mine"),
        ("uts", "domainname", "mine"),
    ],
)
def test_what_is_joined_is_not_changed(
    engine: Engine, rootfs: Path, other: Container, kind: str, field: str, value: object
) -> None:
    with pytest.raises(SpecError, match="joined") as caught:
        engine.run(["true"], rootfs=rootfs, driver="native", namespaces=of(other, kind), **{field: value})
    assert caught.value.field == field


def test_sysfs_of_a_network_that_another_user_namespace_owns(engine: Engine, rootfs: Path, other: Container) -> None:
    """By default it is left out, and refused where it is asked for: the host's would show the host's network."""
    options = {"namespaces": of(other, "network"), **MAPPED}
    assert out(engine, "ls /sys", rootfs, **options) == []
    with pytest.raises(SpecError, match=r"mounts\[0\].type: 'sysfs' shows the network namespace"):
        engine.run(
            ["true"], rootfs=rootfs, driver="native", mounts=[{"destination": "/sys", "type": "sysfs"}], **options
        )


def test_the_failing_command_of_one_that_joins_leaves_nothing(engine: Engine, rootfs: Path, other: Container) -> None:
    from execdrivers import CommandNotFound, LaunchError

    with pytest.raises(CommandNotFound):
        engine.run(["nope"], rootfs=rootfs, driver="native", namespaces=of(other, "pid", "network"))
    with pytest.raises(LaunchError, match="chdir"):
        engine.run(["true"], rootfs=rootfs, driver="native", namespaces=of(other, "pid", "user"), cwd="/nope")


@pytest.mark.parametrize("kinds", [("pid",), ("pid", "user")])
def test_a_signal_to_all_and_a_stop_are_about_its_own_processes(
    engine: Engine, rootfs: Path, other: Container, kinds: tuple[str, ...]
) -> None:
    script = "trap 'echo told' USR1; trap '' TERM; sleep 100 & while :; do sleep 0.05; done"
    container = started(engine, rootfs, script, namespaces=of(other, *kinds))
    container.signal("USR1", all=True)
    assert container.stdout is not None
    assert container.stdout.readline().strip() == b"told"
    assert other.state == "running"
    pids = set(container.pids())
    assert container.stop(timeout=0.2).signal == 9
    host.until(lambda: not any(map(host.alive, pids)), "all ended")
    assert other.state == "running" and host.alive(other.pid or 0)
    container.delete()
