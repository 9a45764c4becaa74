"""A monitor as the parent of commands: how they end, what is left when whoever dies, and what it costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from execdrivers import ContainerSpec, Stdio, pidfd
from execdrivers.errors import LaunchError
from execdrivers.launcher import Launch, Reaper, operation, spawn, spawn_launcher
from execdrivers.launcher.process import candidates, environment_list
from execdrivers.launcher.reaper import sweep
from execdrivers.monitor import Monitor, read_exit

from .test_failing_calls import failing

ENV = {"PATH": "/usr/bin:/bin"}
NULL = Stdio(-1, -1, -1)
KERNEL_TELLS = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15)


def alive(pid: int) -> bool:
    return pidfd.start_time(pid, alive=True) is not None


def eventually(condition: Callable[..., object], *arguments: object, timeout: float = 10) -> bool:
    until = time.monotonic() + timeout
    while not condition(*arguments):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def gone(*pids: int) -> bool:
    return not any(map(alive, pids))


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3 << 8), ("kill -9 $$", 9), ("ulimit -c 0; kill -SEGV $$", 11)],
)
def test_how_a_command_ended(monitored: Any, script: str, status: int) -> None:
    before = time.time()
    monitored.run(script)
    ended = monitored.ended()
    assert (ended.status, ended.oom_kills, ended.log_lost) == (status, None, 0)
    assert before - 1 < ended.time < time.time() + 1


def test_output_is_logged_as_it_comes(monitored: Any) -> None:
    monitored.run("echo one; echo two >&2; printf 'no end'; printf '\\0\\377\\n\\n'; exec sleep 60")
    wanted = b"one\nno end\0\377\n\n"
    assert eventually(lambda: monitored.output("stdout") == wanted)
    assert monitored.output("stderr") == b"two\n"
    assert (monitored.directory / "log").stat().st_mode & 0o777 == 0o600


def test_an_end_is_not_told_before_the_command_is_said_to_run(monitored: Any) -> None:
    child = monitored.run("exit 5", go=False)
    assert pidfd.wait(child.pidfd, 10)
    assert not pidfd.wait(monitored.monitor.pidfd, 1)
    assert not (monitored.directory / "exit").exists()
    told = time.time()
    monitored.monitor.channels()
    ended = monitored.ended()
    assert ended.status == 5 << 8 and ended.time < told


def test_abort_kills_all_and_leaves_no_word(monitored: Any) -> None:
    child = monitored.run("(trap '' TERM HUP; setsid sleep 60) & exec sleep 60")
    other = monitored.monitor.spawn("/bin/sleep", ["sleep", "60"], [0, 1, 2], ENV)
    monitored.monitor.abort()
    assert not alive(child.pid) and not alive(other.pid)
    assert not (monitored.directory / "exit").exists()
    os.close(other.pidfd)


def test_children_are_not_reaped_before_the_command_runs(monitored: Any) -> None:
    """Who drives a tool learns how it ended, though it is not his own child."""
    tool = monitored.monitor.spawn("/bin/sh", ["sh", "-c", "exit 4"], [0, 1, 2], ENV)
    assert pidfd.wait(tool.pidfd, 10)
    assert pidfd.wait_status(tool.pidfd) == 4 << 8
    monitored.run("exec sleep 60")
    assert eventually(lambda: pidfd.start_time(tool.pid) is None)
    os.close(tool.pidfd)


def test_orphans_are_reaped(monitored: Any) -> None:
    monitored.run("(sleep 0.1 & echo $! >&2); exec sleep 60")
    assert eventually(lambda: monitored.output("stderr").endswith(b"\n"))
    orphan = int(monitored.output("stderr"))
    assert eventually(lambda: pidfd.start_time(orphan) is None)


def test_a_command_that_cannot_be_executed(monitored: Any) -> None:
    with pytest.raises(LaunchError, match="spawn: /nosuch: No such file"):
        monitored.monitor.spawn("/nosuch", ["nosuch"], [0, 1, 2], ENV)
    monitored.run("exit 0")  # it is none the worse for it
    assert monitored.ended().status == 0


def test_it_is_nobodys_child_of_ours_and_deaf_to_signals(monitored: Any) -> None:
    pid = monitored.monitor.pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[1]) != os.getpid()
    assert int(fields[3]) == pid  # a session of its own
    assert Path(f"/proc/{pid}/comm").read_text() == "execdrivers-mon\n"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE):
        os.kill(pid, number)
    monitored.run("kill -0 $$; exit 6")
    assert monitored.ended().status == 6 << 8


def test_what_it_starts_gets_its_signals_and_no_descriptor(monitored: Any) -> None:
    monitored.run("grep -E '^Sig(Blk|Ign|Pnd)' /proc/self/status; ls /proc/self/fd | wc -w; cat /proc/self/comm")
    monitored.ended()
    lines = monitored.output().decode().split("\n")
    assert {line.split(":\t")[1] for line in lines[:3]} == {"0" * 16}
    assert lines[3] == "4"  # and that of the directory


# --- who dies ---------------------------------------------------------------------------------------------------

MAKER = """
import os, sys
from execdrivers.monitor import Monitor
directory, stage = sys.argv[1:]
def reach(name):
    if name == stage:
        os.kill(os.getpid(), 9)
null = os.open(os.devnull, os.O_RDWR)
entry = os.open(directory, os.O_RDONLY)
monitor = Monitor.start()
print(monitor.pid, flush=True)
reach("started")
read, write = os.pipe()
script = "sleep 0.3; echo done; exec sleep 60"
child = monitor.spawn("/bin/sh", ["sh", "-c", script], [null, write, write], {"PATH": "/bin"})
print(child.pid, flush=True)
reach("spawned")
monitor.keep(child.pid, child.pidfd, entry, stdout=read)
reach("kept")
monitor.channels()
reach("running")
monitor.close()
reach("closed")
"""


def make(directory: Path, stage: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", MAKER, str(directory), stage], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    return [int(pid) for pid in done.stdout.split()]


@pytest.mark.parametrize("stage", ["started", "spawned"])
def test_a_maker_killed_before_it_said_keep(no_leaks: None, tmp_path: Path, stage: str) -> None:
    pids = make(tmp_path, stage)
    assert pids
    for pid in pids:
        assert eventually(gone, pid)
    assert list(tmp_path.iterdir()) == []


def test_a_maker_killed_before_it_said_that_the_command_runs(no_leaks: None, tmp_path: Path) -> None:
    _, child = make(tmp_path, "kept")
    assert eventually(lambda: read_exit(str(tmp_path)))
    ended = read_exit(str(tmp_path))
    assert ended is not None and ended.status == signal.SIGKILL and not ended.started
    assert gone(child)


FORKING = """
import os, sys
from execdrivers.monitor import Monitor
monitor = Monitor.start()
child = monitor.spawn("/bin/sleep", ["sleep", "60"], [0, 1, 2], {})
monitor.keep(child.pid, child.pidfd, os.open(sys.argv[1], os.O_RDONLY))
if fork := os.fork():
    print(monitor.pid, child.pid, fork, flush=True)
    os.kill(os.getpid(), 9)
os.close(1)
os.read(0, 1)
"""


def test_a_maker_killed_while_a_fork_of_it_lives(no_leaks: None, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        monitor, child, fork = map(int, maker.stdout.readline().split())
        assert maker.wait() == -9
        assert eventually(gone, monitor, child)
        assert alive(fork)
    ended = read_exit(str(tmp_path))
    assert ended is not None and ended.status == signal.SIGKILL and not ended.started


@pytest.mark.parametrize("stage", ["running", "closed"])
def test_a_maker_killed_after_it_said_so(no_leaks: None, tmp_path: Path, stage: str) -> None:
    monitor, child = make(tmp_path, stage)
    assert alive(monitor) and alive(child)
    log = tmp_path / "log"
    assert eventually(lambda: log.exists() and log.read_bytes().endswith(b" stdout F done\n"))
    fd = pidfd.open(monitor)
    os.kill(child, signal.SIGTERM)
    assert pidfd.wait(fd, 10)
    os.close(fd)
    ended = read_exit(str(tmp_path))
    assert ended is not None and ended.status == signal.SIGTERM and ended.started


def test_makers_killed_at_random(no_leaks: None, tmp_path: Path) -> None:
    """Either nothing is left, or a monitor that tells the end."""
    for number in range(25):
        directory = tmp_path / str(number)
        directory.mkdir()
        command = [sys.executable, "-c", MAKER, str(directory), "never"]
        maker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert maker.stdout is not None
        monitor = int(maker.stdout.readline())
        time.sleep(0.0001 * number)
        maker.kill()
        pids = [int(pid) for pid in maker.communicate()[0].split()]
        kept = directory / "exit.new"
        assert eventually(lambda: gone(monitor) or kept.exists())  # noqa: B023
        if kept.exists():
            # A maker killed between the two words leaves a monitor that kills the command itself, perhaps just now.
            with suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)
            assert eventually((directory / "exit").exists)
            ended = read_exit(str(directory))
            assert ended is not None and ended.status == 9
        assert eventually(gone, monitor, *pids)


def test_a_monitor_killed(monitored: Any) -> None:
    """The command lives; its end is nobody's to tell."""
    child = monitored.run("exec sleep 60")
    pidfd.send_signal(monitored.monitor.pidfd, signal.SIGKILL)
    assert pidfd.wait(monitored.monitor.pidfd, 10)
    assert alive(child.pid)
    assert read_exit(str(monitored.directory)) is None
    with pytest.raises(LaunchError, match="the monitor was killed"):
        monitored.monitor.channels()
    pidfd.send_signal(child.pidfd, signal.SIGKILL)
    assert pidfd.wait(child.pidfd, 10)


def test_the_aftermath(monitored: Any, tmp_path: Path) -> None:
    """It runs after the word is left, with its environment, and belongs to nobody."""
    said = tmp_path / "said"
    script = f"cat {monitored.directory}/exit > {said}.new; echo $A >> {said}.new; mv {said}.new {said}"
    monitored.run("exit 1", aftermath=["/bin/sh", "-c", script], env={**ENV, "A": "b" * 100_000})
    monitored.ended()
    assert eventually(said.exists)
    first, second = said.read_text().splitlines()
    assert json.loads(first)["status"] == 256
    assert second == "b" * 100_000


# --- launchers --------------------------------------------------------------------------------------------------


def launch_plan(*args: str, init: bool) -> list[Any]:
    spec = ContainerSpec(args, env=ENV)
    execute = operation("exec", int(init), candidates(spec), spec.args, environment_list(ENV))
    return [operation("ready"), execute]


@pytest.mark.parametrize(("init", "known"), [(False, 9), (True, 9)])
def test_a_launcher_as_its_child(monitored: Any, tmp_path: Path, init: bool, known: int) -> None:
    """What an init tells goes before the code with which it ends itself."""
    entry = os.open(monitored.directory, os.O_RDONLY)
    launch = Launch(launch_plan("sh", "-c", "kill -9 $$", init=init))
    child = spawn_launcher(launch, NULL, by=monitored.monitor)
    launch.started()
    launch.ready()
    monitored.monitor.keep(child.pid, child.pidfd, entry)
    launch.go()
    monitored.monitor.channels([launch.channel])
    launch.close()
    assert monitored.ended().status == known
    os.close(entry)
    os.close(child.pidfd)


def test_a_reaper_as_its_child(monitored: Any) -> None:
    """A tool makes the process and leaves; the reaper tells the end, also to who waits in our place."""
    entry = os.open(monitored.directory, os.O_RDONLY)
    (read, write), (word, go) = os.pipe(), os.pipe()
    script = "sh -c 'read x; kill -7 $$' <&3 & echo $!"
    reaper = Reaper(["/bin/sh", "-c", script], Stdio(-1, write, -1), env=ENV, descriptors=[word], by=monitored.monitor)
    assert reaper.status(reaper.pid, 10) == 0
    pid = int(os.read(read, 100))
    fd = pidfd.open(pid)
    assert reaper.adopted(pid)
    monitored.monitor.keep(pid, fd, entry)
    monitored.monitor.channels([reaper.channel])
    reaper.close()
    os.write(go, b"go\n")
    assert monitored.ended().status == 7
    assert eventually(gone, reaper.parent)
    sweep()
    for opened in (entry, read, write, word, go, fd):
        os.close(opened)


@contextmanager
def among_orphans(monitored: Any) -> Iterator[Callable[[], None]]:
    """A first process whose reaper has many more to tell of, and lives on; what is yielded ends first them, then it."""
    entry = os.open(monitored.directory, os.O_RDONLY)
    (read, write), (orphans, end_orphans), (word, go) = os.pipe(), os.pipe(), os.pipe()
    script = "sh -c 'read x; kill -7 $$' <&4 & echo $!; for i in $(seq 400); do read x <&3 & done; sleep 60 &"
    reaper = Reaper(
        ["/bin/sh", "-c", script], Stdio(-1, write, -1), env=ENV, descriptors=[orphans, word], by=monitored.monitor
    )
    assert reaper.status(reaper.pid, 20) == 0
    pid = int(os.read(read, 100))
    fd = pidfd.open(pid)
    monitored.monitor.keep(pid, fd, entry)
    monitored.monitor.channels([reaper.channel])
    assert len(reaper.children()) == 402

    def end() -> None:
        for left in (302, 202, 102, 2):  # what is told of at once has room
            os.write(end_orphans, b"\n" * 100)
            assert eventually(lambda: len(reaper.children()) == left and monitored.sleeps(0.02))  # noqa: B023
        os.write(go, b"go\n")
        assert pidfd.wait(fd, 10)

    try:
        yield end
    finally:
        reaper.kill()
        for opened in (entry, read, write, orphans, end_orphans, word, go, fd):
            os.close(opened)


def test_an_end_that_a_full_channel_has_no_room_for(monitored: Any) -> None:
    """The kernel is asked at once, where it may know; for the rest, what is in the channel is read as it comes."""
    if not KERNEL_TELLS:
        pytest.skip("needs a kernel that tells others than the parent how a process ended (Linux 6.15)")
    with among_orphans(monitored) as end:
        pidfd.send_signal(monitored.monitor.pidfd, signal.SIGSTOP)
        end()
        pidfd.send_signal(monitored.monitor.pidfd, signal.SIGCONT)
        assert monitored.ended().status == 7


@pytest.mark.needs("root", "strace")
def test_a_channel_does_not_fill(monitored: Any) -> None:
    """On kernels that tell nobody else."""
    with among_orphans(monitored) as end, failing(monitored.monitor.pid, "ioctl", "ENOTTY", "1+"):
        end()
        assert monitored.ended().status == 7


def test_a_process_of_others(monitored: Any) -> None:
    """Whose parent tells nobody: the kernel may know (6.15), else it is unknown."""
    entry = os.open(monitored.directory, os.O_RDONLY)
    child = spawn(["/bin/sh", "-c", "exec sleep 60"], NULL, env=ENV)
    monitored.monitor.keep(child.pid, child.pidfd, entry)
    monitored.monitor.channels()
    pidfd.send_signal(child.pidfd, signal.SIGKILL)
    assert pidfd.wait(child.pidfd, 10)
    assert pidfd.wait_status(child.pidfd) == 9
    assert monitored.ended().status == (9 if KERNEL_TELLS else None)
    os.close(entry)
    os.close(child.pidfd)


# --- what it costs ----------------------------------------------------------------------------------------------


def private_memory(pid: int) -> int:
    """In KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_memory_and_wake_ups(monitored: Any) -> None:
    """Under 300 KB, also after much has gone through it; and none while nothing happens."""
    script = "head -c 20000000 /dev/zero | tr '\\0' 'x'; head -c 3000000 /dev/zero | tr '\\0' '\\n'; exec sleep 60"
    child, monitor = monitored.run(script), monitored.monitor.pid
    comm = Path(f"/proc/{child.pid}/comm")
    assert eventually(lambda: comm.read_text() == "sleep\n", timeout=60)
    time.sleep(0.5)
    assert monitored.sleeps(2)
    assert private_memory(monitor) < 300


def test_starting_one_that_cannot_be(monkeypatch: pytest.MonkeyPatch, no_leaks: None) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    try:
        with pytest.raises(LaunchError, match="Too many open files"):
            Monitor.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("whose", ["ours", "its own"])
def test_no_descriptor_is_left_for_what_comes_along(monitored: Any, whose: str) -> None:
    import resource

    if whose == "ours":
        os.close(free := os.dup(0))
        who, most = os.getpid(), free + 1  # one for the request
    else:
        who = monitored.monitor.pid
        most = len(os.listdir(f"/proc/{who}/fd"))
    limits = resource.prlimit(who, resource.RLIMIT_NOFILE)
    resource.prlimit(who, resource.RLIMIT_NOFILE, (most, limits[1]))
    try:
        with pytest.raises(LaunchError, match="Too many open files"):
            monitored.monitor.spawn("/bin/sleep", ["sleep", "60"], [0, 1, 2], ENV)
    finally:
        resource.prlimit(who, resource.RLIMIT_NOFILE, limits)


def test_one_that_cannot_wait_ends_with_its_maker(no_leaks: None) -> None:
    """poll(2) takes as many descriptors as one may open."""
    import resource

    monitor = Monitor.start()
    resource.prlimit(monitor.pid, resource.RLIMIT_NOFILE, (0, 0))
    for number in (signal.SIGSTOP, signal.SIGCONT):  # has the kernel begin the call anew
        os.kill(monitor.pid, number)
        time.sleep(0.05)
    fd = os.dup(monitor.pidfd)
    monitor.close()
    assert pidfd.wait(fd, 10)
    os.close(fd)


ORDINARY = """
import os, tempfile
from execdrivers import pidfd
from execdrivers.monitor import Attachment, Monitor, read_exit, read_log
directory = tempfile.mkdtemp()
entry = os.open(directory, os.O_RDONLY)
null = os.open(os.devnull, os.O_RDWR)
(out, inside_out), (inside_in, stdin) = os.pipe(), os.pipe()
monitor = Monitor.start()
script = "read x; head -c 3000000 /dev/zero; echo $x; exit 3"
child = monitor.spawn("/bin/sh", ["sh", "-c", script], [inside_in, inside_out, null], {"PATH": "/bin:/usr/bin"})
monitor.keep(child.pid, child.pidfd, entry, stdin=stdin, stdout=out)
for fd in (out, inside_out, inside_in, stdin):
    os.close(fd)
monitor.channels()
with Attachment(directory) as slow, Attachment(directory) as attachment:
    attachment.write(b"word\\n")
    pidfd.wait(monitor.pidfd)
    for each in (slow, attachment):
        seen = sum(len(data) for _, data in each)
        assert seen + each.skipped == 3_000_005 and each.exit.code == 3, (seen, each.skipped, each.exit)
assert read_exit(directory).status == 3 << 8
assert sum(len(one.data) for one in read_log(directory)) == 3_000_005
for name in os.listdir(directory):
    os.unlink(f"{directory}/{name}")
os.rmdir(directory)
print("fine")
"""


def test_an_ordinary_users(no_leaks: None, ordinary: tuple[str, ...]) -> None:
    """Who is attached gets less room, and is told of the end all the same."""
    done = subprocess.run([*ordinary, sys.executable, "-c", ORDINARY], capture_output=True, text=True, cwd="/")
    assert done.stdout == "fine\n", done.stderr
