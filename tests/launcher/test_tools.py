"""Launchers that are started through tools, and reapers of what tools leave behind. The tools are shells."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from execdrivers import ContainerSpec, Engine, Stdio, pidfd
from execdrivers.errors import CommandNotFound, LaunchError
from execdrivers.launcher import LAUNCHER_PATH, Launch, Operation, Reaper, Started, operation, spawn
from execdrivers.launcher.process import candidates, environment_list
from execdrivers.launcher.reaper import leave, sweep

ENV = {"PATH": "/usr/bin:/bin"}


class Tool:
    """Runs a shell script as a tool, its output in a pipe."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self.null = os.open(os.devnull, os.O_RDWR)
        self.stdio = Stdio(self.null, self.write, self.null)
        self.started: list[Started] = []

    def spawn(self, script: str, descriptors: Sequence[int] = (), *, bound: bool = False) -> Started:
        self.started.append(spawn(["/bin/sh", "-c", script], self.stdio, descriptors, env=ENV, bound=bound))
        return self.started[-1]

    def output(self) -> str:
        os.close(self.write)
        self.write = -1
        with os.fdopen(os.dup(self.read)) as file:
            return file.read()

    def close(self) -> None:
        for process in self.started:
            try:
                pidfd.send_signal(process.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            poll(process.pidfd)
            pidfd.wait_status(process.pidfd)
            os.close(process.pidfd)
        for fd in (self.read, self.write, self.null):
            if fd >= 0:
                os.close(fd)


def poll(fd: int) -> None:
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    assert waiting.poll(10_000), "it did not end"


@pytest.fixture
def tool(no_leaks: None) -> Iterator[Tool]:
    tool = Tool()
    yield tool
    tool.close()


def plan(*args: str, init: bool = False, env: dict[str, str] = ENV) -> list[Operation]:
    spec = ContainerSpec(args, env=env)
    execute = operation("exec", int(init), candidates(spec), spec.args, environment_list(env))
    return [operation("channel"), operation("ready"), execute]


def test_a_launcher_through_a_tool(tool: Tool) -> None:
    launch = Launch(plan("sh", "-c", "echo $0 $A; ls /proc/self/fd | wc -w; exit 7", env={**ENV, "A": "b"}))
    # The tool stays, with all descriptors, as lxc-start does.
    process = tool.spawn(f"{LAUNCHER_PATH}; exit $?", launch.descriptors)
    launch.started()
    launch.ready(10, tool=process.pidfd)
    assert launch.pid not in (None, process.pid)
    assert Path(f"/proc/{launch.pid}/stat").exists()
    launch.go()
    launch.close()
    # 0, 1, 2, and the directory that ls reads.
    assert tool.output() == "sh b\n4\n"
    poll(process.pidfd)
    assert pidfd.wait_status(process.pidfd) == 7 << 8


@pytest.mark.parametrize("init", [False, True])
def test_a_missing_command_is_told(tool: Tool, init: bool) -> None:
    launch = Launch(plan("nosuch", init=init))
    process = tool.spawn(f"{LAUNCHER_PATH}; :", launch.descriptors)
    launch.started()
    launch.ready(10, tool=process.pidfd)
    with pytest.raises(CommandNotFound, match="nosuch: not found in PATH"):
        launch.go()
    launch.close()


def test_init_tells_the_true_end(tool: Tool) -> None:
    launch = Launch(plan("sh", "-c", "kill -KILL $$", init=True))
    process = tool.spawn(f"{LAUNCHER_PATH}; :", launch.descriptors)
    launch.started()
    launch.ready(10, tool=process.pidfd)
    launch.go()
    assert launch.exit_status() == signal.SIGKILL
    launch.close()


def test_tools_that_end_hang_or_are_not_there(tool: Tool) -> None:
    launch = Launch(plan("true"))
    process = tool.spawn("exit 0", launch.descriptors)
    launch.started()
    with pytest.raises(LaunchError, match="the tool ended without having started the container"):
        launch.ready(10, tool=process.pidfd)
    launch.close()
    launch = Launch(plan("true"))
    process = tool.spawn("sleep 60", launch.descriptors)
    launch.started()
    with pytest.raises(LaunchError, match=r"nothing has started within 0\.05 seconds"):
        launch.ready(0.05, tool=process.pidfd)
    launch.close()
    with pytest.raises(LaunchError, match="/nosuch/tool: No such file"):
        spawn(["/nosuch/tool"], tool.stdio, env=ENV)


def test_who_was_not_told_to_go_leaves_with_its_caller(tool: Tool) -> None:
    launch = Launch(plan("sleep", "60"))
    process = tool.spawn(f"exec {LAUNCHER_PATH}", launch.descriptors)
    launch.started()
    launch.ready(10, tool=process.pidfd)
    assert launch.pid == process.pid
    launch.close()
    poll(process.pidfd)


def test_a_tool_has_a_session_and_default_signals(tool: Tool) -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, "as Python has it"
    process = tool.spawn("cat /proc/self/status; cut -d' ' -f6 /proc/$$/stat; ls /proc/self/fd | wc -w")
    lines = tool.output().splitlines()
    fields = dict(line.split(":\t") for line in lines if ":\t" in line)
    assert (int(fields["SigIgn"], 16), int(fields["SigBlk"], 16)) == (0, 0)
    assert lines[-2:] == [str(process.pid), "4"]


def test_a_bound_tool_ends_with_the_thread_that_started_it(tool: Tool) -> None:
    thread = threading.Thread(target=lambda: tool.spawn("exec sleep 60", bound=True))
    thread.start()
    thread.join()
    poll(tool.started[0].pidfd)


def test_a_bound_tool_ends_with_its_program(tool: Tool) -> None:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(write, b"%d" % tool.spawn("exec sleep 60", bound=True).pid)
            signal.pause()
        finally:
            os._exit(1)
    bound = pidfd.open(int(os.read(read, 20)))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    poll(bound)
    for fd in (bound, read, write):
        os.close(fd)


def test_reaper(tool: Tool, tmp_path: Path) -> None:
    script = f"""
        (exec >/dev/null; read x <{tmp_path}/go; exit 3) & echo $! >{tmp_path}/one
        (exec >/dev/null; read x <{tmp_path}/die; kill -KILL $(exec sh -c 'echo $PPID')) & echo $! >{tmp_path}/two
        echo done; exit 5
    """
    for name in ("go", "die"):  # once the tool, which would reap them, has left them
        os.mkfifo(tmp_path / name)
    reaper = Reaper(["/bin/sh", "-c", script], tool.stdio, env=ENV)
    assert reaper.status(reaper.pid, 10) == 5 << 8
    assert tool.output() == "done\n", "the reaper holds no pipe open"
    one, two = (int((tmp_path / name).read_text()) for name in ("one", "two"))
    (tmp_path / "die").write_text("\n")
    assert reaper.status(two, 10) == signal.SIGKILL
    assert reaper.status(one, 0.05) is None
    (tmp_path / "go").write_text("\n")
    assert reaper.status(one, 10) == 3 << 8
    assert reaper.status(12345678, 1) is None
    reaper.close(10)


def test_reaper_gives_the_tool_its_descriptors(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    fds = [os.open(tmp_path / name, os.O_RDONLY) for name in "ab"]
    reaper = Reaper(
        ["/bin/sh", "-c", "cat <&3; cat <&4; ls /proc/self/fd | wc -w"], tool.stdio, env=ENV, descriptors=fds
    )
    for fd in fds:
        os.close(fd)
    assert reaper.status(reaper.pid, 10) == 0
    assert tool.output() == "ab6\n"
    reaper.close(10)


def test_reaper_of_a_tool_that_is_not_there(tool: Tool) -> None:
    with pytest.raises(LaunchError, match="adopt: No such file or directory"):
        Reaper(["/nosuch/tool"], tool.stdio, env=ENV)


def test_reaper_outlives_its_caller(tool: Tool) -> None:
    reaper = Reaper(["/bin/sh", "-c", "exec sleep 60"], tool.stdio, env=ENV)
    pid, fd = reaper.pid, pidfd.open(reaper.pid)
    reaper.close()
    assert pidfd.start_time(pid, alive=True)
    left = pidfd.open(reaper._process.pid)
    pidfd.send_signal(fd, signal.SIGKILL)
    for end in (fd, left):
        poll(end)
        os.close(end)
    Reaper(["/bin/true"], tool.stdio, env=ENV).close(10)  # the next one sweeps up


def test_sweeping_while_sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the collector may do at any time, by dropping a container."""
    left = subprocess.Popen(["/bin/true"])
    fd = pidfd.open(left.pid)
    poll(fd)
    reap = pidfd.wait_status

    def reap_and_drop(fd: int) -> int | None:
        sweep()
        return reap(fd)

    monkeypatch.setattr(pidfd, "wait_status", reap_and_drop)
    leave(fd)
    sweeper = threading.Thread(target=sweep, daemon=True)
    sweeper.start()
    sweeper.join(10)
    assert not sweeper.is_alive()
    assert pidfd.start_time(left.pid) is None, "it was reaped"
    left.returncode = 0


@pytest.mark.needs("root", "busybox")
def test_what_has_become_of_the_next_launcher(engine: Engine, rootfs: Path) -> None:
    """A program may close all descriptors that it does not know, and have others of their numbers; and it may fork."""

    def runs() -> bool:
        return engine.run(["true"], rootfs=rootfs, driver="native").returncode == 0

    def spares() -> list[int]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:execdrivers-launcher "):
                    found.append(int(name))
        return found

    assert runs()
    (spare,) = spares()
    read, write = os.pipe()
    os.dup2(write, spare)
    assert runs()
    assert os.write(spare, b"ours") == 4, "and it is not closed"
    assert os.read(read, 4) == b"ours"
    for fd in (read, write, spare):
        os.close(fd)
    pid = os.fork()
    if pid == 0:
        before = os.fstat(spares()[0]).st_ino
        os._exit(0 if runs() and os.fstat(spares()[0]).st_ino != before else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert runs()
    assert len(spares()) == 1
