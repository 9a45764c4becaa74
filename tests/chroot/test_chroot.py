"""The chroot driver, through the engine, judged by what is seen from inside and in the host's /proc."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import execdrivers
from execdrivers import (
    DEVNULL,
    CommandNotExecutable,
    CommandNotFound,
    ContainerSpec,
    ContainerTimeout,
    DriverUnavailable,
    Engine,
    InvalidState,
    LaunchError,
    Registry,
    SpecError,
    UnsupportedFeature,
)

pytestmark = pytest.mark.needs("root")


@pytest.fixture
def run(engine: Engine, rootfs: Path) -> Callable[..., Any]:
    """Run a shell script in the chroot."""

    def run(script: str | list[str], **options: Any) -> Any:
        args = ["sh", "-c", script] if isinstance(script, str) else script
        settings: dict[str, Any] = {"rootfs": rootfs, "capture_output": True, "text": True, "timeout": 20, **options}
        return engine.run(args, driver="chroot", **settings)

    return run


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition: Callable[[], Any], seconds: float = 5.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return value


# --- what is enforced -------------------------------------------------------------------------------------------


def test_root_is_the_rootfs(run: Callable[..., Any], rootfs: Path) -> None:
    assert sorted(run("ls -a /").stdout.split()) == sorted([".", "..", *os.listdir(rootfs)])


def test_defaults(run: Callable[..., Any]) -> None:
    seen = run("id -u; id -g; pwd; umask; echo $HOME").stdout.split()
    assert seen == ["0", "0", "/", "0022", "/root"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"user": "alice"}, "1000 1000 1000 10 100"),
        ({"user": "alice:users"}, "1000 100 100"),
        ({"user": "1000:7"}, "1000 7 7"),
        ({"user": "12345:54321", "additional_gids": [4, 5]}, "12345 54321 54321 4 5"),
        ({"user": 12345}, "12345 0 0"),
    ],
)
def test_user_and_groups(run: Callable[..., Any], options: dict[str, Any], expected: str) -> None:
    uid, gid, *groups = run("echo $(id -u) $(id -g) $(id -G)", **options).stdout.split()
    assert [uid, gid, *sorted(groups)] == [*expected.split()[:2], *sorted(expected.split()[2:])]


def test_a_user_but_root_has_no_capabilities(run: Callable[..., Any], own_rootfs: Path) -> None:
    mount = ["mount", "-t", "proc", "proc", own_rootfs / "proc"]
    subprocess.run(mount, check=True)
    try:
        status = run("grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status", rootfs=own_rootfs, user="1000:1000").stdout
    finally:
        subprocess.run(["umount", own_rootfs / "proc"], check=True)
    assert {line.split()[1] for line in status.splitlines()} == {"0" * 16}


def test_cwd_and_umask(run: Callable[..., Any]) -> None:
    assert run("pwd; umask", cwd="/usr/bin", umask=0o077).stdout.split() == ["/usr/bin", "0077"]


def test_environment_is_the_specs(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    names = {line.partition("=")[0] for line in run("env", env={"A": "b c"}).stdout.splitlines()}
    assert {"A", "PATH"} <= names
    assert "SECRET" not in names


def test_no_descriptors_but_three(run: Callable[..., Any]) -> None:
    extra = os.dup(1)
    os.set_inheritable(extra, True)
    try:
        script = 'for fd in $(seq 3 99); do (eval ": <&$fd") 2>/dev/null && echo $fd; done; true'
        assert extra < 99
        assert run(script).stdout == ""
    finally:
        os.close(extra)


def test_caller_keeps_its_root_directory_and_umask(run: Callable[..., Any]) -> None:
    before = os.stat("/"), os.getcwd(), os.umask(0o027)
    try:
        run("true", cwd="/tmp", umask=0o777)
        assert os.path.samestat(os.stat("/"), before[0])
        assert os.getcwd() == before[1]
    finally:
        assert os.umask(before[2]) == 0o027


def test_other_threads_never_see_the_container_root(run: Callable[..., Any]) -> None:
    root, done, seen = os.stat("/").st_ino, threading.Event(), set()

    def watch() -> None:
        while not done.is_set():
            seen.add(os.stat("/").st_ino)

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(20):
        run("true")
    done.set()
    thread.join()
    assert seen == {root}


def test_no_finalizer_runs_in_the_container_root(run: Callable[..., Any], rootfs: Path) -> None:
    seen = set()

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            seen.add(os.stat("/").st_ino)

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(20):
            Cycle()
            run("true")
    finally:
        gc.set_threshold(*threshold)
    assert gc.isenabled()
    assert seen == {os.stat("/").st_ino}


@pytest.mark.needs("strace")
@pytest.mark.parametrize("command", ["true", "no-such-command"])
def test_python_opens_nothing_in_the_container_root(command: str, rootfs: Path, tmp_path: Path, no_leaks: None) -> None:
    """What Python imports there would be the container's code, run as root on the host."""
    program = f"""
        import execdrivers
        engine = execdrivers.Engine(root={str(tmp_path / "state")!r})
        try:
            engine.run([{command!r}], driver="chroot", rootfs={str(rootfs)!r})
        except execdrivers.CommandNotFound:
            pass
    """
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-e", "trace=%file,chroot", "-o", trace]
    subprocess.run([*strace, sys.executable, "-c", textwrap.dedent(program)], check=True)
    lines = trace.read_text().splitlines()
    (chroot,) = [number for number, line in enumerate(lines) if ' chroot(".")' in line]
    thread = lines[chroot].split()[0]
    after = [line.split()[1] for line in lines[chroot + 1 :] if re.match(rf"{thread} +\w+\(", line)]
    assert after == ['chdir("/")']


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "feature"),
    [
        ({"memory": "64M"}, "cgroup.memory"),
        ({"pids": 5}, "cgroup.pids"),
        ({"cpus": 1.5}, "cgroup.cpu"),
        ({"hostname": "x"}, "hostname"),
        ({"namespaces": {"pid": "private"}}, "namespace.pid"),
        ({"namespaces": {"network": "/proc/1/ns/net"}}, "namespace.join"),
        ({"network": "none"}, "network.none"),
        ({"mounts": [{"type": "tmpfs", "destination": "/tmp"}]}, "mount.tmpfs"),
        ({"mounts": [{"type": "bind", "source": "/srv", "destination": "/srv"}]}, "mount.bind"),
        ({"readonly": True}, "rootfs.readonly"),
        ({"ephemeral": True}, "rootfs.ephemeral"),
        ({"capabilities": {"drop": ["ALL"]}}, "capabilities"),
        ({"no_new_privileges": True}, "no-new-privileges"),
        ({"rlimits": {"nofile": 64}}, "rlimits"),
        ({"sysctls": {"net.ipv4.ip_forward": "1"}}, "sysctl"),
        ({"masked_paths": ["/etc"]}, "masked-paths"),
        ({"init": True}, "init"),
        ({"tty": True}, "tty"),
    ],
)
def test_refuses_by_name(run: Callable[..., Any], options: dict[str, Any], feature: str) -> None:
    with pytest.raises(UnsupportedFeature, match=r"'chroot' does not enforce") as caught:
        run("true", **options)
    assert caught.value.feature == feature


def test_refuses_the_host_root(run: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        run("true", rootfs=None)
    assert caught.value.feature == "rootfs.host"


def test_grants_what_is_the_hosts(run: Callable[..., Any]) -> None:
    kinds = ("pid", "mount", "uts", "ipc", "network", "cgroup", "user", "time")
    assert run("hostname", namespaces=dict.fromkeys(kinds, "host")).stdout.strip() == os.uname().nodename


def test_auto_never_takes_it(rootfs: Path) -> None:
    registry = Registry(built_in={"chroot": "execdrivers_chroot"}, entry_points=False)
    with pytest.raises(DriverUnavailable):
        registry.choose("auto", ContainerSpec.build(["true"], rootfs=rootfs))


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "problem"), [("missing", "No such file"), ("file", "Not a directory")])
def test_bad_rootfs(run: Callable[..., Any], tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match=problem) as caught:
        run("true", rootfs=tmp_path / name)
    assert caught.value.field == "rootfs"


@pytest.mark.parametrize("command", ["no-such-command", "/no/such", "./no-such", "/etc/passwd/x"])
def test_command_not_found(run: Callable[..., Any], command: str) -> None:
    with pytest.raises(CommandNotFound) as caught:
        run([command])
    assert caught.value.exit.code == 127
    assert caught.value.exit.reason == "launch-failed"


@pytest.mark.parametrize("command", ["/etc/passwd", "/etc", "/tmp/no-shebang"])
def test_command_not_executable(run: Callable[..., Any], own_rootfs: Path, command: str) -> None:
    (own_rootfs / "tmp/no-shebang").write_text("echo never\n")
    (own_rootfs / "tmp/no-shebang").chmod(0o755)
    with pytest.raises(CommandNotExecutable) as caught:
        run([command], rootfs=own_rootfs)
    assert caught.value.exit.code == 126


def test_missing_interpreter_is_told(run: Callable[..., Any], own_rootfs: Path) -> None:
    (own_rootfs / "bin/script").write_text("#!/no/interpreter\n")
    (own_rootfs / "bin/script").chmod(0o755)
    with pytest.raises(CommandNotFound, match="interpreter"):
        run(["script"], rootfs=own_rootfs)


def test_missing_cwd_is_not_a_missing_command(run: Callable[..., Any]) -> None:
    with pytest.raises(LaunchError, match="/no/where") as caught:
        run("true", cwd="/no/where")
    assert not isinstance(caught.value, CommandNotFound)
    assert (caught.value.step, caught.value.exit.code) == ("chdir", 125)


def test_cwd_cannot_lead_out(run: Callable[..., Any], own_rootfs: Path) -> None:
    (own_rootfs / "out").symlink_to("../../../../../..")
    assert "busybox" in run("ls /bin; ls bin", cwd="/out", rootfs=own_rootfs).stdout


def test_unknown_user(run: Callable[..., Any]) -> None:
    with pytest.raises(SpecError, match="nobody-here"):
        run("true", user="nobody-here")


def test_command_is_looked_up_in_the_containers_path(run: Callable[..., Any], own_rootfs: Path) -> None:
    script = own_rootfs / "srv/only-here"
    script.write_text("#!/bin/sh\necho found\n")
    script.chmod(0o755)
    assert run(["only-here"], rootfs=own_rootfs, env={"PATH": "/bin:/srv"}).stdout == "found\n"


# --- how it ends ------------------------------------------------------------------------------------------------


def test_exit_code_and_signal_differ(run: Callable[..., Any]) -> None:
    exited, killed = run("exit 137").exit, run("kill -KILL $$").exit
    assert (exited.reason, exited.code) == ("exited", 137)
    assert (killed.reason, killed.signal) == ("signaled", signal.SIGKILL)


def test_timeout_kills_children_in_all_groups(run: Callable[..., Any]) -> None:
    begin = time.monotonic()
    with pytest.raises(ContainerTimeout) as caught:
        run("set -m; sleep 100 & sleep 100 & jobs -p; sleep 100", timeout=0.5)
    assert time.monotonic() - begin < 5
    pids = [int(line) for line in caught.value.stdout.split()]
    assert len(pids) == 2
    until(lambda: not any(map(alive, pids)))


def test_children_end_with_the_command(run: Callable[..., Any]) -> None:
    pid = int(run("sleep 100 >/dev/null 2>&1 </etc/passwd & echo $!").stdout)
    until(lambda: not alive(pid))


def test_fork_bomb_is_killed(run: Callable[..., Any]) -> None:
    with pytest.raises(ContainerTimeout):
        run("f() { sleep 0.05; f & f & sleep 1; }; ulimit -u 200; f; sleep 100", timeout=0.5, user="54321:54321")
    owned = [entry for entry in Path("/proc").glob("[0-9]*") if _owner(entry) == 54321 and alive(int(entry.name))]
    assert not owned


def _owner(entry: Path) -> int | None:
    try:
        return entry.stat().st_uid
    except OSError:
        return None


def test_kill_all_is_not_promised(run: Callable[..., Any]) -> None:
    """A process that calls setsid(2) leaves the driver's reach; that is why the feature is not declared."""
    assert "kill-all" not in Registry().probe("chroot").features
    run("setsid sleep 100 >/tmp/escaped 2>&1 & sleep 0.3", user="54322:54322")
    (left,) = [int(e.name) for e in Path("/proc").glob("[0-9]*") if _owner(e) == 54322 and alive(int(e.name))]
    os.kill(left, signal.SIGKILL)
    until(lambda: not alive(left))


# --- live containers --------------------------------------------------------------------------------------------


def test_life_of_a_container(engine: Engine, rootfs: Path) -> None:
    spec = ContainerSpec.build(["sleep", "100"], rootfs=rootfs)
    container = engine.create(spec, driver="chroot")
    assert container.state == "created"
    container.start()
    pid = container.pid
    assert pid is not None
    assert os.path.samestat(os.stat(f"/proc/{pid}/root"), rootfs.stat())
    assert container.state == "running"
    container.signal(signal.SIGTERM)
    assert container.wait(timeout=5).signal == signal.SIGTERM
    assert container.state == "stopped"
    assert not alive(pid)
    container.delete()


def test_created_container_is_deleted_without_a_start(engine: Engine, rootfs: Path) -> None:
    engine.create(ContainerSpec.build(["true"], rootfs=rootfs), driver="chroot").delete()


def test_what_others_do_with_it_before_and_after_its_start(engine: Engine, rootfs: Path) -> None:
    """Until then there is no process, and who has looked for one then finds it afterwards."""
    spec = ContainerSpec.build(["sleep", "100"], rootfs=rootfs)
    with engine.create(spec, driver="chroot", stdin=DEVNULL) as container, Engine(engine.root) as other:
        theirs = other.get(container.id)
        container.detach()
        for refused in (
            container.wait,
            lambda: container.signal("TERM"),
            theirs.wait,
            theirs.detach,
            lambda: theirs.signal("TERM"),
        ):
            with pytest.raises(InvalidState, match="is not started"):
                refused()
        theirs.kill()
        assert other.gc() == []
        container.start()
        assert (theirs.state, theirs.pid, theirs.owned) == ("running", container.pid, False)
        theirs.kill()
        assert container.wait(timeout=5).signal == signal.SIGKILL
        assert theirs.wait(timeout=5).signal == signal.SIGKILL


def test_streams(run: Callable[..., Any]) -> None:
    result = run("cat; echo err >&2", input="in\n")
    assert (result.stdout, result.stderr) == ("in\n", "err\n")


def test_many_at_once(run: Callable[..., Any]) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: run(f"echo {n}").stdout, range(64)))
    assert results == [f"{n}\n" for n in range(64)]


@pytest.fixture
def orphan(no_leaks: None, rootfs: Path, tmp_path: Path) -> Iterator[Path]:
    """The store of a program that started the container ``orphan`` and was killed."""
    store = tmp_path / "orphaned"
    program = f"""
        import execdrivers, os, signal
        engine = execdrivers.Engine(root={str(store)!r})
        spec = execdrivers.ContainerSpec.build(["sh", "-c", "sleep 100 & wait"], rootfs={str(rootfs)!r})
        container = engine.create(spec, driver="chroot", name="orphan", stdout=execdrivers.DEVNULL)
        container.start()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    return store


def test_recovered_after_the_caller_was_killed(orphan: Path) -> None:
    with Engine(root=orphan) as engine:
        container = engine.get("orphan")
        pid = container.pid
        assert pid is not None
        assert container.state == "running"
        session: set[int] = set()

        def shell_and_child() -> bool:
            session.update(int(e.name) for e in Path("/proc").glob("[0-9]*") if _session(e) == pid)
            return len(session) == 2

        until(shell_and_child)  # it may not have forked yet
        container.kill()
        container.wait(timeout=5)
        until(lambda: not any(map(alive, session)))
        container.delete()


def _session(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return None


def test_children_are_found_when_the_recovered_command_has_ended(orphan: Path) -> None:
    with Engine(root=orphan) as engine:
        pid = engine.get("orphan").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    with Engine(root=orphan) as engine:
        container = engine.get("orphan")
        container.delete(force=True)
    until(lambda: not [e for e in Path("/proc").glob("[0-9]*") if _session(e) == pid and alive(int(e.name))])


def test_a_reused_pid_is_not_touched(tmp_path: Path) -> None:
    driver = Registry().get("chroot")
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as innocent:
        handle = driver.recover("x", {"pid": innocent.pid, "start_time": 1}, str(tmp_path))
        assert handle.pid is None
        handle.kill()
        handle.delete()
        assert innocent.poll() is None
        innocent.kill()


# --- plan -------------------------------------------------------------------------------------------------------


def test_plan(engine: Engine, rootfs: Path) -> None:
    spec = ContainerSpec.build(["sh", "-c", "true"], rootfs=rootfs, user="alice", umask=0o27)
    plan = engine.explain(spec, driver="chroot", name="x")
    assert plan == engine.explain(spec, driver="chroot", name="x")
    assert [step.op for step in plan.steps] == "chroot chdir umask setsid setgroups setgid setuid exec".split()
    steps = {step.op: dict(step.args) for step in plan.steps}
    assert steps["chroot"] == {"path": str(rootfs)}
    assert steps["umask"] == {"mask": "027"}
    assert steps["setgroups"] == {"gids": [10, 100]}
    assert steps["setuid"] == {"uid": 1000}


def test_guarantees_name_the_user(engine: Engine, rootfs: Path) -> None:
    result = engine.run(["true"], driver="chroot", rootfs=rootfs, user="alice")
    assert result.guarantees["setuid"] == {"uid": 1000}
    assert execdrivers.ContainerSpec.build(["true"]).user is None
