"""Containers in user namespaces of their own: whose ids they have, what root in them may, how more processes join."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execdrivers import PIPE, Container, ContainerSpec, Engine, LaunchError, SpecError
from execdrivers.spec import IdMapping
from execdrivers.subids import Range, free_range
from execdrivers.testing.host import capable
from execdrivers_native import compile, host
from execdrivers_native import ids as choice

pytestmark = pytest.mark.needs("root", "busybox")

BASE = 700_000
MAPPINGS = [{"container_id": 0, "host_id": BASE, "size": 65536}]
MAPPED: dict[str, Any] = {"uid_mappings": MAPPINGS, "gid_mappings": MAPPINGS}


@pytest.fixture
def mapped_rootfs(own_rootfs: Path) -> Path:
    """One whose files are the container's root's."""
    subprocess.run(["chown", "-hR", f"{BASE}:{BASE}", own_rootfs], check=True)
    return own_rootfs


def out(engine: Engine, script: str, rootfs: Path | None, **options: Any) -> list[str]:
    done = engine.run(
        ["sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True, timeout=30, **options
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return str(done.stdout).split()


def started(engine: Engine, rootfs: Path | None, **options: Any) -> Container:
    """A container that has said that it runs, and sleeps."""
    spec = ContainerSpec.build(["sh", "-c", "echo ready; exec sleep 100"], rootfs=rootfs, **options)
    container = engine.create(spec, driver="native", stdout=PIPE)
    container.start()
    assert container.stdout is not None
    assert container.stdout.readline().strip() == b"ready"
    return container


def test_root_inside_is_another_outside(engine: Engine, mapped_rootfs: Path) -> None:
    container = started(engine, mapped_rootfs, **MAPPED)
    status = Path(f"/proc/{container.pid}/status").read_text()
    assert f"Uid:\t{BASE}\t" in status
    assert f"Gid:\t{BASE}\t" in status
    assert Path(f"/proc/{container.pid}/uid_map").read_text().split() == ["0", str(BASE), "65536"]
    assert container.guarantees["uid_mappings"] == MAPPINGS
    assert "user" in container.guarantees["namespaces"]
    container.delete(force=True)


def test_root_inside_may_what_its_capabilities_say_of_its_own(engine: Engine, mapped_rootfs: Path) -> None:
    script = (
        "touch /made && chown 1000:2000 /made && stat -c %u:%g /made; stat -c %u /dev /dev/pts /proc/self/;"
        "grep CapEff /proc/self/status; cat /proc/self/setgroups"
    )
    seen = out(engine, script, mapped_rootfs, **MAPPED)
    assert seen == ["1000:2000", "0", "0", "0", "CapEff:", "00000000a80425fb", "allow"]
    made = os.stat(mapped_rootfs / "made")
    assert (made.st_uid, made.st_gid) == (BASE + 1000, BASE + 2000)


def test_root_inside_has_no_rights_over_what_is_roots_outside(engine: Engine, own_rootfs: Path) -> None:
    (own_rootfs / "secret").write_text("x")
    (own_rootfs / "secret").chmod(0o600)
    options = {"namespaces": {"user": "private"}, "capabilities": {"add": ["ALL"]}}
    done = engine.run(
        ["sh", "-c", "cat /secret; touch /new; mknod /dev/sda b 8 0; echo c > /proc/sysrq-trigger; id -u"],
        rootfs=own_rootfs, driver="native", capture_output=True, text=True, timeout=30, masked_paths=(),
        readonly_paths=(), **options,
    )  # fmt: skip
    assert done.stdout == "0\n"
    assert len(done.stderr.splitlines()) >= 4
    assert not (own_rootfs / "new").exists()


@pytest.mark.parametrize("user", ["1000:1000", "65534", "alice"])
def test_other_users(engine: Engine, mapped_rootfs: Path, user: str) -> None:
    uid = {"alice": "1000"}.get(user, user.split(":")[0])
    seen = out(engine, "id -u; grep CapEff /proc/self/status; touch /dev/shm/x; stat -c %u /dev/shm/x", mapped_rootfs,
               user=user, **MAPPED)  # fmt: skip
    assert seen == [uid, "CapEff:", "0" * 16, uid]


def test_groups(engine: Engine, mapped_rootfs: Path) -> None:
    assert out(engine, "id -G", mapped_rootfs, user="5:6", additional_gids=[7, 8], **MAPPED) == ["6", "7", "8"]


def test_a_user_that_is_not_mapped_is_refused(engine: Engine, rootfs: Path) -> None:
    few = [{"container_id": 0, "host_id": BASE, "size": 10}]
    options: dict[str, Any] = {"uid_mappings": few, "gid_mappings": few, "rootfs": rootfs, "driver": "native"}
    with pytest.raises(SpecError, match="means uid 10, which"):
        engine.run(["true"], user="10:0", **options)
    with pytest.raises(SpecError, match="means gid 10, which"):
        engine.run(["true"], user="0:10", **options)
    with pytest.raises(SpecError, match=r"additional_gids\[1\]"):
        engine.run(["true"], user="0:0", additional_gids=[9, 10], **options)


def test_one_sided_mappings_are_refused(engine: Engine, rootfs: Path) -> None:
    with pytest.raises(SpecError, match="gid_mappings"):
        engine.run(["true"], rootfs=rootfs, driver="native", uid_mappings=MAPPINGS)


def test_without_a_mapped_root_the_user_sets_up_its_container(engine: Engine, rootfs: Path) -> None:
    mappings = [{"container_id": 1000, "host_id": BASE, "size": 1}]
    options = {"uid_mappings": mappings, "gid_mappings": mappings, "user": "1000:1000"}
    assert out(engine, "id -u; touch /dev/shm/x; stat -c %u /dev/shm/x", rootfs, **options) == ["1000", "1000"]


def test_what_the_host_keeps_from_others_can_be_bound(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    """The caller takes hold of it; where it lies, the container's root could not go."""
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    (closed / "data/file").write_text("hello\n")
    (closed / "one").write_text("one\n")
    closed.chmod(0o700)
    mounts = [
        {"type": "bind", "source": closed / "data", "destination": "/tmp", "options": ["rbind", "ro"]},
        {"type": "bind", "source": closed / "one", "destination": "/etc/group"},
    ]
    mounts = [{**mount, "source": str(mount["source"])} for mount in mounts]
    script = "cat /tmp/file /etc/group; touch /tmp/x 2>/dev/null || echo no; grep -c ' /tmp [^ ]* ro,' /proc/mounts"
    assert out(engine, script, rootfs, mounts=mounts, **MAPPED) == ["hello", "one", "no", "1"]


def test_under_an_ephemeral_layer_any_rootfs_is_the_containers(engine: Engine, own_rootfs: Path) -> None:
    os.chown(own_rootfs / "etc/group", 1000, 1000)
    script = "touch /new /etc/passwd; echo x >>/etc/group; chown 5:6 /new; stat -c %u /new /etc/passwd /etc/group /"
    assert out(engine, script, own_rootfs, ephemeral=True, **MAPPED) == ["5", "0", "1000", "0"]
    assert not (own_rootfs / "new").exists()
    assert os.stat(own_rootfs / "etc/passwd").st_uid == 0


def test_one_that_is_its_own_already_stays_so(engine: Engine, mapped_rootfs: Path) -> None:
    assert out(engine, "touch /new; stat -c %u /new /etc/passwd", mapped_rootfs, ephemeral=True, **MAPPED) == ["0", "0"]


@pytest.mark.parametrize("options", [{}, {"ephemeral": True}, {"namespaces": {"uts": "/proc/self/ns/uts"}}])
def test_no_descriptor_of_what_it_is_made_of(
    engine: Engine, mapped_rootfs: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    mounts = [{"type": "bind", "source": str(tmp_path), "destination": f"/mnt/{n}"} for n in range(3)]
    container = started(engine, mapped_rootfs, mounts=mounts, **options, **MAPPED)
    assert sorted(os.listdir(f"/proc/{container.pid}/fd")) == ["0", "1", "2"]
    container.delete(force=True)


def test_the_hosts_root_without_a_rootfs(engine: Engine) -> None:
    script = "id -u; touch /tmp/x; stat -c %u /tmp/x; stat -c %U /etc/passwd; touch /etc/x 2>/dev/null || echo no"
    seen = out(engine, script, None, namespaces={"user": "private"})
    assert seen == ["65534", "65534", "nobody", "no"]


def test_without_mappings_the_ids_are_nobodys(engine: Engine, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = out(engine, "cat /proc/self/uid_map", rootfs, namespaces={"user": "private"})
    maps = choice._of_root()
    assert seen == [str(number) for m in maps.uids for number in (m.container_id, m.host_id, m.size)]
    from execdrivers import subids

    taken = [("eve", Range(0x80000, 10)), ("eve", Range(0x80000 + 100_000, 65536))]
    monkeypatch.setattr(subids, "_entries", lambda kind: taken)
    assert free_range().start == 0x80000 + 3 * 65536
    taken.append(("root", Range(5_000_000, 100)))
    assert choice._of_root().uids[0].to_dict() == {"container_id": 0, "host_id": 5_000_000, "size": 100}


def test_limits_and_score(engine: Engine, rootfs: Path) -> None:
    options = {"memory": "32M", "pids": 20, "oom_score_adj": 321, **MAPPED}
    container = started(engine, rootfs, **options)
    assert Path(f"/proc/{container.pid}/oom_score_adj").read_text() == "321\n"
    assert container.pids() == [container.pid]
    result = engine.run(["sh", "-c", "x=$(head -c 64m /dev/zero | tail -c 64m)"], rootfs=rootfs, driver="native",
                        capture_output=True, timeout=60, **options)  # fmt: skip
    assert result.exit.reason == "oom"
    container.delete(force=True)


def test_a_hard_limit_above_the_callers(engine: Engine, rootfs: Path) -> None:
    """It takes CAP_SYS_RESOURCE on the host, which the caller has and the launcher has not."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1
    options: dict[str, Any] = {"rlimits": {"nofile": hard}, **MAPPED}
    if capable("CAP_SYS_RESOURCE"):
        assert out(engine, "ulimit -Hn; ulimit -Sn", rootfs, **options) == [str(hard)] * 2
    else:
        with pytest.raises(LaunchError, match="CAP_SYS_RESOURCE"):
            engine.run(["true"], rootfs=rootfs, driver="native", **options)


def test_cgroup_view_begins_at_the_containers_own(engine: Engine, rootfs: Path) -> None:
    seen = out(engine, "cut -d: -f3 /proc/self/cgroup | sort -u", rootfs, memory="32M", pids=20, cpus=1, **MAPPED)
    assert not [path for path in seen if "ed-" in path or "execdrivers" in path]


def test_network_of_the_host(engine: Engine, rootfs: Path) -> None:
    """sysfs cannot be mounted then; the host's own is bound."""
    script = "ls /sys/class/net; readlink /proc/self/ns/net"
    seen = out(engine, script, rootfs, network="host", **MAPPED)
    assert seen == [*sorted(os.listdir("/sys/class/net")), os.readlink("/proc/self/ns/net")]


def test_pids_of_the_host(engine: Engine, rootfs: Path) -> None:
    seen = out(
        engine, "echo $$; readlink /proc/self/ns/pid; ls -d /proc/1", rootfs, namespaces={"pid": "host"}, **MAPPED
    )
    assert int(seen[0]) > 1
    assert seen[1:] == [os.readlink("/proc/self/ns/pid"), "/proc/1"]


def test_devices_are_the_hosts_own_or_refused(engine: Engine, rootfs: Path) -> None:
    node = {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}
    assert out(engine, "test -c /dev/kmsg && echo yes", rootfs, devices=[node], **MAPPED) == ["yes"]
    for change in ({"minor": 5}, {"path": "/dev/no-such"}, {"file_mode": 0o777}):
        with pytest.raises(SpecError, match=r"devices\[0\]"):
            engine.run(["true"], rootfs=rootfs, driver="native", devices=[{**node, **change}], **MAPPED)


def test_terminal(engine: Engine, mapped_rootfs: Path) -> None:
    spec = ContainerSpec.build(
        ["sh", "-c", "test -t 0 && tty && stat -c %u:%g $(tty)"],
        rootfs=mapped_rootfs,
        tty=True,
        user="1000:1000",
        **MAPPED,
    )
    with engine.create(spec, driver="native", stdout=PIPE) as container:
        container.start()
        text = container.communicate(timeout=20)[0] or b""
    assert text.split() == [b"/dev/pts/0", b"1000:5"]


def test_exec(engine: Engine, mapped_rootfs: Path) -> None:
    container = started(engine, mapped_rootfs, memory="32M", **MAPPED)

    def run(script: str, **options: Any) -> list[str]:
        with container.exec(["sh", "-c", script], stdout=PIPE, **options) as process:
            return (process.communicate(timeout=20)[0] or b"").decode().split()

    kinds = "pid mnt uts ipc net cgroup user"
    theirs = [os.readlink(f"/proc/{container.pid}/ns/{kind}") for kind in kinds.split()]
    assert run(f"for k in {kinds}; do readlink /proc/self/ns/$k; done") == theirs
    assert run("id -u; grep CapEff /proc/self/status; touch /by-exec; stat -c %u /by-exec") == [
        "0", "CapEff:", "00000000a80425fb", "0"]  # fmt: skip
    assert os.stat(mapped_rootfs / "by-exec").st_uid == BASE
    assert run("id -u; id -G", user="1000:1000", additional_gids=[7]) == ["1000", "1000", "7"]
    assert run("tty; stat -c %u $(tty)", tty=True, user="1000") == ["/dev/pts/0", "1000"]
    with pytest.raises(SpecError, match="means uid 70000"):
        container.exec(["true"], user="70000")
    container.delete(force=True)


def test_recovered(engine: Engine, rootfs: Path) -> None:
    container = started(engine, rootfs, **MAPPED)
    with Engine(engine.root) as other:
        again = other.get(container.id)
        assert again.guarantees["uid_mappings"] == MAPPINGS
        process = again.exec(["id", "-u"], stdout=PIPE)
        assert process.communicate(timeout=20)[0] == b"0\n"
        again.signal("KILL")
    assert container.wait(timeout=20).signal == 9
    container.delete()


def test_sysctls_of_its_own_network(engine: Engine, rootfs: Path) -> None:
    assert out(engine, "cat /proc/sys/net/ipv4/ip_forward", rootfs, sysctls={"net.ipv4.ip_forward": "1"}, **MAPPED) == [
        "1"
    ]


def test_ids_that_the_caller_has_not(engine: Engine, rootfs: Path) -> None:
    """In a user namespace of few ids, its root cannot give others away."""
    program = f"""if True:
        import execdrivers
        maps = {MAPPINGS!r}
        try:
            execdrivers.run(["true"], rootfs={str(rootfs)!r}, driver="native", uid_mappings=maps, gid_mappings=maps)
        except execdrivers.LaunchError as error:
            print(error.step, error.errno, error.remedy)
    """
    import sys

    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", program],
        capture_output=True, text=True, env={**os.environ, "EXECDRIVERS_ROOT": str(engine.root)},
    )  # fmt: skip
    assert done.stdout.startswith("map-ids 1 take ids that the caller has itself"), done


# --- the choice of ids, as data


@pytest.fixture
def ordinary() -> host.Host:
    import attrs

    return attrs.evolve(host.look(), uid=1234, gid=1235, capabilities=0)


def granted(monkeypatch: pytest.MonkeyPatch, *ranges: Range) -> None:
    """As if the files said so of everybody, who have accounts, and the tools were there."""
    from execdrivers import subids

    monkeypatch.setattr(subids, "granted", lambda kind, user: ranges)
    monkeypatch.setattr(subids, "tool", lambda kind: f"/usr/bin/new{kind}map")
    monkeypatch.setattr(subids, "tool_problem", lambda kind, ranges: None)
    monkeypatch.setattr(subids, "user_name", lambda uid: "eve")


def maps_of(spec: ContainerSpec, facts: host.Host) -> list[str]:
    maps = compile.compile(spec, "box", facts).maps
    assert maps is not None
    return [f"{m.container_id} {m.host_id} {m.size}" for m in maps.uids]


def test_subordinate_ids_of_a_user(rootfs: Path, ordinary: host.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(monkeypatch, Range(100_000, 30_000), Range(200_000, 65536))
    own = ["0 1234 1", "1 100000 30000", "30001 200000 35535"]
    assert maps_of(ContainerSpec.build(["true"], rootfs=rootfs), ordinary) == own
    assert maps_of(ContainerSpec(["true"]), ordinary) == ["1234 1234 1"]
    private = ContainerSpec(["true"], namespaces={"user": "private"})
    assert maps_of(private, ordinary) == [
        "1234 1234 1", "0 100000 1234", "1235 101234 28766", "30001 200000 35535"]  # fmt: skip


_ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=5)


@given(gaps=_ranges, own=st.integers(0, 60), limit=st.integers(1, 80))
def test_any_ranges_are_laid_out_one_after_the_other(gaps: list[tuple[int, int]], own: int, limit: int) -> None:
    """Around the user's own id, each once, none beyond the limit, in their order."""
    ranges, start = [], 1000
    for gap, size in gaps:
        ranges.append(Range(start + gap, size))
        start += gap + size
    laid = choice._laid_out((IdMapping(own, 1, 1),), ranges, limit)
    inside = [m.container_id + n for m in laid for n in range(m.size)]
    outside = [m.host_id + n for m in laid for n in range(m.size)]
    granted_ids = [number for r in ranges for number in range(r.start, r.end)]
    assert (inside[0], outside[0]) == (own, 1)
    assert inside[1:] == [number for number in range(limit) if number != own][: len(granted_ids)]
    assert outside[1:] == granted_ids[: len(inside) - 1]


def test_ids_that_are_not_granted(rootfs: Path, ordinary: host.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(monkeypatch, Range(100_000, 65536))
    mappings = [{"container_id": 0, "host_id": 100_000, "size": 65537}]
    spec = ContainerSpec.build(["true"], rootfs=rootfs, uid_mappings=mappings, gid_mappings=mappings)
    with pytest.raises(
        SpecError, match=r"uid_mappings\[0\].host_id.*does not grant.*usermod --add-subuids 100000-165536"
    ):
        compile.compile(spec, "box", ordinary)
    from execdrivers import subids

    monkeypatch.setattr(subids, "tool", lambda kind: None)
    with pytest.raises(SpecError, match=r"newuidmap, which is not installed.*1234.*install uidmap"):
        compile.compile(spec, "box", ordinary)


def test_a_tool_that_fails_is_quoted() -> None:
    from execdrivers.launcher.ids import map_ids_by_tool

    with pytest.raises(LaunchError, match="map-ids: false: exited with 1"):
        map_ids_by_tool("/bin/false", os.getpid(), (IdMapping(0, 0, 1),))
