"""What is particular to containers of LXC; what all drivers share is in the conformance kit."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from execdrivers import PIPE, Container, ContainerSpec, Engine, LaunchError, SpecError
from execdrivers import cgroups as core_cgroups
from execdrivers.exit import Exit
from execdrivers_lxc import handle

pytestmark = pytest.mark.needs("lxc-start", "root")


def start(engine: Engine, rootfs: Path, *args: str, stdio: dict[str, Any] | None = None, **fields: Any) -> Container:
    container = engine.create(ContainerSpec.build(args, rootfs=rootfs, **fields), driver="lxc", **(stdio or {}))
    container.start()
    return container


# --- the true exit ----------------------------------------------------------------------------------------------

ENDS = [
    ("exit 0", Exit(reason="exited", code=0)),
    ("exit 3", Exit(reason="exited", code=3)),
    ("exit 137", Exit(reason="exited", code=137)),
]


@pytest.fixture
def silent_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that tells parents alone how a process ended, as before Linux 6.15; and they have been told already."""
    monkeypatch.setattr("execdrivers.pidfd._status_of_another", lambda fd: None)


@pytest.mark.parametrize(("does", "exit"), ENDS)
@pytest.mark.parametrize("memory", [None, "64M"])
def test_exits_from_the_log(
    engine: Engine, rootfs: Path, silent_kernel: None, does: str, exit: Exit, memory: str | None
) -> None:
    assert engine.run(["sh", "-c", does], rootfs=rootfs, driver="lxc", memory=memory).exit == exit


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGABRT])
def test_signals_from_the_log(engine: Engine, rootfs: Path, silent_kernel: None, number: signal.Signals) -> None:
    with start(engine, rootfs, "sleep", "100", namespaces={"pid": "host"}) as container:
        container.signal(number)
        assert container.wait(20) == Exit(reason="signaled", signal=number)


def test_an_exit_that_nobody_saw_is_not_made_up(engine: Engine, rootfs: Path, silent_kernel: None) -> None:
    with start(engine, rootfs, "sleep", "100") as container:
        os.kill(container._hold()._container.monitor, signal.SIGKILL)  # type: ignore[attr-defined]
        container.kill()
        assert container.wait(20).reason == "unknown"


@pytest.mark.parametrize("silent", [False, True])
def test_ends_of_executed_processes(
    engine: Engine, rootfs: Path, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if silent:
        monkeypatch.setattr("execdrivers.pidfd._status_of_another", lambda fd: None)
    with start(engine, rootfs, "sleep", "100") as container:
        for does, exit in [*ENDS, ("kill -9 $$", Exit(reason="signaled", signal=9))]:
            with container.exec(["sh", "-c", does]) as process:
                assert process.wait(20) == exit
        with container.exec(["sleep", "100"]) as process:
            container.kill()  # it dies with the container
            assert process.wait(20) == Exit(reason="signaled", signal=9)


# --- the three streams ------------------------------------------------------------------------------------------


def test_a_closed_stream_is_closed_though_the_monitor_lives(engine: Engine, rootfs: Path) -> None:
    with start(engine, rootfs, "sh", "-c", "exec >&-; sleep 100", stdio={"stdout": PIPE}) as container:
        assert container.stdout is not None
        assert select.select([container.stdout.fileno()], [], [], 20)[0]
        assert os.read(container.stdout.fileno(), 1) == b""
        assert container.state == "running"


def test_lxc_writes_nothing_into_them(engine: Engine, rootfs: Path) -> None:
    done = engine.run(["sh", "-c", "exit 1"], rootfs=rootfs, driver="lxc", capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_file_as_output_keeps_its_owner(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as file:
        os.fchown(file.fileno(), 1000, 1000)
        engine.run(["echo", "fine"], rootfs=rootfs, driver="lxc", stdout=file)
    assert (tmp_path / "out").stat().st_uid == 1000
    assert (tmp_path / "out").read_text() == "fine\n"


# --- frozen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_pids", [True, False])
def test_kill_while_frozen(engine: Engine, rootfs: Path, own_pids: bool) -> None:
    namespaces = {} if own_pids else {"pid": "host"}
    with start(engine, rootfs, "sh", "-c", "sleep 100 & wait", namespaces=namespaces) as container:
        container.pause()
        container.kill()
        assert container.wait(20).signal == signal.SIGKILL


def test_kill_while_frozen_by_another_program(engine: Engine, rootfs: Path) -> None:
    with start(engine, rootfs, "sleep", "100") as container:
        container.pause()
        again = Engine(root=engine.root).get(container.id)
        again.kill()
        assert container.wait(20).signal == signal.SIGKILL


# --- limits -----------------------------------------------------------------------------------------------------


def test_update_raises_and_lowers_memory_with_swap(engine: Engine, rootfs: Path) -> None:
    with start(engine, rootfs, "sleep", "100", memory="64M") as container:
        (memory,) = (c for c in container._hold()._cgroups() if "memory" in c.controllers)  # type: ignore[attr-defined]
        file = "memory.limit_in_bytes" if memory.version == 1 else "memory.max"
        for size in (128 << 20, 32 << 20):
            container.update(memory=size)
            assert int(Path(memory.path, file).read_text()) == size


# --- what is made, and gone -------------------------------------------------------------------------------------


def test_cgroups_and_locks(engine: Engine, rootfs: Path) -> None:
    layout = core_cgroups.look()
    parent = core_cgroups.parent()
    with start(engine, rootfs, "sleep", "100") as container:
        made = core_cgroups.find(f"{parent}/{container.id}", layout)
        assert len(made) == len(layout.mount_points())
        locks = Path(f"/run/lxc/lock/{engine.root}/{container.id}")
        assert locks.exists()
    assert not core_cgroups.find(f"{parent}/{container.id}", layout)
    assert not core_cgroups.find(f"{parent}/{container.id}.monitor", layout)
    assert not core_cgroups.find(f"{parent}/lxc.pivot", layout)
    assert not locks.parent.exists()


@pytest.mark.needs("strace")
def test_no_file_of_lxcs_own_is_touched(rootfs: Path, tmp_path: Path) -> None:
    program = f"""if True:
        import execdrivers
        engine = execdrivers.Engine(root={str(tmp_path / "state")!r})
        spec = execdrivers.ContainerSpec.build(["sleep", "100"], rootfs={str(rootfs)!r}, memory="64M")
        with engine.create(spec, driver="lxc") as container:
            container.start()
            container.exec(["true"]).wait()
            container.pause()
            container.resume()
            container.update(pids=7)
    """
    log = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=%file", "-o", log, sys.executable, "-c", program]
    subprocess.run(command, check=True, timeout=100)
    trace = log.read_text()
    assert "lxc-start" in trace and "lxc-attach" in trace
    assert "/var/lib/lxc" not in trace
    assert "default.conf" not in trace
    opened = r'open(?:at|at2)?\((?:[\w-]+, )?"(/[^"]*)"[^\n]*O_(?:WRONLY|RDWR|CREAT)[^\n]* = \d'
    own = (str(tmp_path), "/sys/fs/cgroup", "/proc/", "/dev/null", "/run/lxc/lock/")
    assert not {path for path in re.findall(opened, trace) if not path.startswith(own)}


def test_a_leftover_cgroup_is_in_nobodys_way(engine: Engine, rootfs: Path) -> None:
    left = Path(next(iter(core_cgroups.look().mount_points())), core_cgroups.parent(), "box")
    left.mkdir(parents=True)
    try:
        spec = ContainerSpec.build(["sleep", "100"], rootfs=rootfs)
        with engine.create(spec, driver="lxc", name="box") as container:
            container.start()
            assert len(container.pids()) == 1
        assert left.exists()
    finally:
        left.rmdir()


def test_what_another_uses_is_not_taken_for_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is that of one whose making came to nothing; empty cgroups below it are its own affair."""
    monkeypatch.setattr(handle, "_ENDING", 0.05)
    layout = core_cgroups.look()
    made = core_cgroups.create(core_cgroups.plan(None, "left-over", layout, track=True))
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            core_cgroups.move(made, lambda: [process.pid])
            inner = Path(made[0].path, "inner")
            inner.mkdir()
            handle.remove_empty(made[0].name, layout)
            assert inner.exists()
        finally:
            process.kill()
            process.wait()
            handle.remove_empty(made[0].name, layout)
        assert not Path(made[0].path).exists()


def test_an_ephemeral_root_is_dropped(engine: Engine, rootfs: Path) -> None:
    script = "echo changed >/etc/passwd; touch /made; head -c 8m /dev/zero >/big 2>/dev/null; wc -c </big; ls /"
    arguments = {"rootfs": rootfs, "driver": "lxc", "ephemeral": True, "ephemeral_size": "4M", "capture_output": True}
    done = engine.run(["sh", "-c", script], **arguments)
    size, *names = done.stdout.split()
    assert b"made" in names and 3 << 20 < int(size) < 4 << 20
    assert "root" in (rootfs / "etc/passwd").read_text()
    assert not (rootfs / "made").exists()


# --- exec -------------------------------------------------------------------------------------------------------


def test_exec_joins_all_namespaces_and_cgroups(engine: Engine, rootfs: Path) -> None:
    with start(engine, rootfs, "sleep", "100") as container, container.exec(["sleep", "100"]) as process:
        assert process.pid != container.pid
        for file in ("ns/pid", "ns/mnt", "ns/uts", "ns/ipc", "ns/net", "ns/cgroup", "ns/user", "ns/time", "root"):
            first, second = (os.stat(f"/proc/{pid}/{file}") for pid in (container.pid, process.pid))
            assert (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino), file
        first, second = (Path(f"/proc/{pid}/cgroup").read_text() for pid in (container.pid, process.pid))
        assert first == second
        assert set(container.pids()) == {container.pid, process.pid}


def test_exec_leaves_no_tool_behind(engine: Engine, rootfs: Path) -> None:
    with start(engine, rootfs, "sleep", "100") as container, container.exec(["sleep", "100"]):
        running = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in os.listdir("/proc") if pid.isdigit()]
        assert not [line for line in running if b"lxc-attach" in line and container.id.encode() in line]


def test_exec_without_proc_is_refused(engine: Engine, rootfs: Path) -> None:
    container = start(engine, rootfs, "sleep", "100", default_mounts=False)
    with container, pytest.raises(LaunchError, match="needs a /proc in the container; mount one"):
        container.exec(["true"])


# --- raw keys ---------------------------------------------------------------------------------------------------


def test_raw_keys_come_after_the_rendered_ones(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    hooks = [f"sh -c 'echo $LXC_NAME {n} >>{tmp_path}/hooks'" for n in (1, 2)]
    options = {
        "lxc.hook.post-stop": hooks,
        "lxc.cgroup.cpu.shares" if "cpu" in core_cgroups.look().v1 else "lxc.cgroup2.cpu.weight": 77,
        "lxc.sysctl.net.ipv4.ip_forward": 1,
        "lxc.prlimit.nofile": "200:300",
        "lxc.net.1.type": "empty",
        "lxc.arch": "i686",
        "lxc.keyring.session": False,
    }
    done = engine.run(
        ["sh", "-c", "uname -m; cat /proc/sys/net/ipv4/ip_forward; ulimit -n"],
        rootfs=rootfs,
        driver="lxc",
        name="raw",
        driver_options={"lxc": options},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["i686", "1", "200"]
    assert (tmp_path / "hooks").read_text() == "raw 1\nraw 2\n"


def test_raw_rules_for_devices(engine: Engine, rootfs: Path) -> None:
    prefix = "lxc.cgroup" if "devices" in core_cgroups.look().v1 else "lxc.cgroup2"
    options = {
        f"{prefix}.devices.deny": "a",
        f"{prefix}.devices.allow": ["c *:* m", "c 1:3 rw"],
    }
    done = engine.run(
        ["sh", "-c", "echo >/dev/null && head -c 1 /dev/zero"],
        rootfs=rootfs,
        driver="lxc",
        driver_options={"lxc": options},
        capture_output=True,
    )
    assert b"/dev/zero: Operation not permitted" in done.stderr and b"/dev/null" not in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("lxc.rootfs.path", "/", "use the spec's own rootfs"),
        ("lxc.mount.entry", "/ mnt none bind 0 0", "use the spec's own mounts"),
        ("lxc.mount.auto", "proc:rw", "use the spec's own mounts"),
        ("lxc.cap.keep", "sys_admin", "use the spec's own capabilities"),
        ("lxc.cap.drop", "", "use the spec's own capabilities"),
        ("lxc.idmap", "u 0 0 1", "is refused"),
        ("lxc.namespace.keep", "net", "use the spec's own namespaces"),
        ("lxc.net.0.type", "none", "use the spec's own network"),
        ("lxc.uts.name", "x", "use the spec's own hostname"),
        ("lxc.utsname", "x", "use the spec's own hostname"),
        ("lxc.init.cmd", "/bin/sh", "use the spec's own args"),
        ("lxc.no_new_privs", 0, "use the spec's own no_new_privileges"),
        ("lxc.environment", "A=1", "use the spec's own env"),
        ("lxc.include", "/etc/passwd", "is refused"),
        ("lxc.log.file", "/etc/passwd", "is refused"),
        ("lxc.cgroup.dir", "/", "is refused"),
        ("lxc.cgroup.dir.container", "/", "is refused"),
        ("lxc.cgroup.relative", 1, "is refused"),
        ("lxc.autodev", 1, "is refused"),
        ("lxc.hook.start", "/bin/sh", "is refused"),
        ("lxc.hook.version", 0, "is refused"),
        ("lxc.ephemeral", 1, "is refused"),
        ("lxc.monitor.signal.pdeath", 9, "is refused"),
        ("lxc.start.auto", 1, "is refused"),
        ("lxc.nonsense", 1, "is refused"),
        ("lxc.arch\nlxc.uts.name", "x", "is refused"),
        ("lxc.arch = x\n#", "x", "is refused"),
        ("path", "/", "is not a key of LXC's configuration"),
        ("lxc.arch", "i686\nlxc.uts.name = x", "has a line break"),
        ("lxc.arch", None, "is not a value"),
        ("lxc.arch", {"a": 1}, "is not a value"),
        ("lxc.arch", 1.5, "is not a value"),
        ("lxc.arch", [["a"]], "is not a text or a number"),
        ("lxc.sysctl.kernel.panic", 1, "concerns the whole host"),
        ("lxc.sysctl.net.ipv4.ip_forward", 1, "is set by the spec"),
        ("lxc.prlimit.nofile", 1, "is set by the spec"),
        ("lxc.proc.oom_score_adj", 1, "is set by the spec"),
        ("lxc.net.1.type", "veth", "contradicts the spec's network"),
    ],
)
def test_raw_keys_that_are_refused(engine: Engine, rootfs: Path, key: str, value: Any, match: str) -> None:
    spec = ContainerSpec.build(
        ["true"],
        rootfs=rootfs,
        network="none",
        oom_score_adj=500,
        sysctls={"net.ipv4.ip_forward": 1},
        rlimits={"nofile": 100},
        driver_options={"lxc": {key: value}},
    )
    with pytest.raises(SpecError, match=match) as caught:
        engine.create(spec, driver="lxc")
    assert caught.value.field == f'driver_options["lxc"]["{key}"]'
    assert caught.value.remedy


def test_limits_of_the_spec_cannot_be_loosened(engine: Engine, rootfs: Path) -> None:
    prefix = "lxc.cgroup" if "pids" in core_cgroups.look().v1 else "lxc.cgroup2"
    spec = ContainerSpec.build(["true"], rootfs=rootfs, pids=5, driver_options={"lxc": {f"{prefix}.pids.max": "max"}})
    with pytest.raises(SpecError, match="is set by the spec"):
        engine.create(spec, driver="lxc")


def test_hosts_namespaces(engine: Engine, rootfs: Path) -> None:
    before = os.uname().nodename
    namespaces = dict.fromkeys(("pid", "uts", "ipc", "cgroup"), "host")
    with start(engine, rootfs, "sleep", "100", namespaces=namespaces, network="host") as container:
        for kind in ("pid", "uts", "ipc", "cgroup", "net", "user", "time"):
            assert os.readlink(f"/proc/{container.pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
        assert os.readlink(f"/proc/{container.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    assert os.uname().nodename == before


def test_it_is_quick(engine: Engine, rootfs: Path) -> None:
    """About 10 ms on an idle machine; this is only against a step that sleeps."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        engine.run(["true"], rootfs=rootfs, driver="lxc")
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.5
