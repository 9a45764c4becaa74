"""``execdrivers run`` as a user meets it: real processes, on each driver."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import PROGRAM, Cli, alive, until


def test_the_command_its_output_and_its_status(cli: Cli, run: tuple[object, ...]) -> None:
    result = cli(*run, "--rm", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert cli.names() == []


@pytest.mark.parametrize(
    ("command", "status", "end"),
    [
        ("exit 137", 137, {"reason": "exited", "code": 137}),
        ("kill -9 $$; exit 5", 137, {"reason": "signaled", "signal": 9}),
    ],
)
def test_exit_statuses(
    cli: Cli, run: tuple[object, ...], driver: str, command: str, status: int, end: dict[str, object]
) -> None:
    # A pid 1 does not hear its own signals; chroot has none.
    init = ("--init",) if driver != "chroot" else ()
    assert cli(*run, *init, "--name", "x", "--", "sh", "-c", command).returncode == status
    assert cli.inspect("x")["exit"] == end


def test_a_pid_1_does_not_hear_its_own_signals(cli: Cli, contained: tuple[object, ...]) -> None:
    assert cli(*contained, "--rm", "--", "sh", "-c", "kill -9 $$; exit 5").returncode == 5


@pytest.mark.parametrize(("command", "status"), [("nosuch", 127), ("/etc/passwd", 126)])
def test_commands_that_cannot_be_run_leave_nothing(
    cli: Cli, run: tuple[object, ...], command: str, status: int
) -> None:
    result = cli(*run, command)
    assert result.returncode == status
    assert result.stdout == ""
    assert result.stderr.startswith("execdrivers: ")
    assert command in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert cli.names() == []


def test_stdin_only_with_i(cli: Cli, run: tuple[object, ...]) -> None:
    assert cli(*run, "--rm", "cat", input="hello").stdout == ""
    assert cli(*run, "--rm", "-i", "cat", input="hello").stdout == "hello"


def test_environment_and_working_directory(cli: Cli, run: tuple[object, ...], tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("A=file\nB=file\nMINE\n")
    words = ("--rm", "--env-file", file, "-e", "B=option", "-e", "OTHER", "-w", "/etc")
    lines = cli(*run, *words, "sh", "-c", "env; echo cwd=$PWD", MINE="m", OTHER="o").stdout.splitlines()
    assert {"A=file", "B=option", "MINE=m", "OTHER=o", "cwd=/etc"} <= set(lines)


def test_the_record_stays_until_it_is_removed(cli: Cli, run: tuple[object, ...], driver: str) -> None:
    assert cli(*run, "--name", "kept", "sh", "-c", "exit 4").returncode == 4
    details = cli.inspect("kept")
    assert (details["state"], details["exit"], details["driver"]) == (
        "stopped",
        {"reason": "exited", "code": 4},
        driver,
    )
    again = cli(*run, "--name", "kept", "true")
    assert again.returncode == 125
    assert "kept" in again.stderr
    assert cli("rm", "kept").stdout == "kept\n"
    assert cli.names() == []


def test_timeout(cli: Cli, run: tuple[object, ...]) -> None:
    begin = time.monotonic()
    result = cli(*run, "--name", "slow", "--timeout", "0.5", "sleep", "60")
    assert time.monotonic() - begin < 10
    assert result.returncode == 124
    assert result.stderr == "execdrivers: slow was killed after 0.5 s (--timeout)\n"
    assert cli.inspect("slow")["exit"]["reason"] == "timeout"
    assert cli.inspect("slow")["pids"] == []


def test_signals_are_passed_on(cli: Cli, run: tuple[object, ...]) -> None:
    names = "TERM INT HUP QUIT USR1 USR2".split()
    traps = "; ".join(f"trap 'echo got {name}' {name}" for name in names[1:])
    script = f"trap 'exit 7' TERM; {traps}; echo ready; while :; do sleep 0.02; done"
    with cli.start(*run, "--rm", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for name in names[1:]:
            process.send_signal(signal.Signals[f"SIG{name}"])
            assert process.stdout.readline() == f"got {name}\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7


def test_a_signal_that_ends_the_command(cli: Cli, run: tuple[object, ...], driver: str) -> None:
    with cli.start(*run, "--name", "x", "sleep", "60") as process:
        pid = cli.running("x")["pid"]
        if driver != "chroot":
            # Pid 1 has no handler: told so at the third time, and still there.
            for _ in range(3):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
            assert process.stderr is not None
            assert process.stderr.readline().startswith("execdrivers: x does not end on SIGTERM")
            assert process.stderr.readline().startswith("  try: execdrivers kill x")
            assert alive(pid)
            assert cli("kill", "x").stdout == "x\n"
            assert process.wait(20) == 137
        else:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 143
        assert not alive(pid)


def test_killed_from_another_shell(cli: Cli, run: tuple[object, ...]) -> None:
    with cli.start(*run, "--name", "x", "sleep", "60") as process:
        cli.running("x")
        assert cli("kill", "-s", "KILL", "x").stdout == "x\n"
        assert process.wait(20) == 137
    assert cli.inspect("x")["exit"] == {"reason": "signaled", "signal": 9}


def test_what_is_ignored_stays_ignored(cli: Cli, run: tuple[object, ...]) -> None:
    """As under nohup."""
    words = (*run, "--rm", "-i", "sh", "-c", "echo ready; read -r _; echo done")
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with cli.start(*words, stdin=subprocess.PIPE, **ignore) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read() == "done\n"
        assert process.wait(20) == 0


def test_a_reader_that_goes_away(cli: Cli, run: tuple[object, ...]) -> None:
    with cli.start(*run, "--rm", "yes") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "y\n"
        process.stdout.close()
        # `yes` meets the broken pipe itself; as pid 1 by an error of write(2), else by SIGPIPE.
        assert process.wait(20) in (1, 141)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rootfs", "/no/such"], "/no/such"),
        (["--rootfs", "/etc/passwd"], "/etc/passwd"),
        (["--driver", "nosuch"], "nosuch"),
        (["--name", "-x"], "-x"),
        (["--driver-opt", "lxc.a=b"], "lxc"),
    ],
)
def test_bad_requests_leave_nothing(cli: Cli, rootfs: Path, native: str, words: list[str], message: str) -> None:
    result = cli("run", "--driver", native, "--rootfs", rootfs, *words, "true")
    assert result.returncode == 125
    first, *rest = result.stderr.splitlines()
    assert first.startswith("execdrivers: ")
    assert message in first
    assert len(rest) <= 1
    assert cli.names() == []


@pytest.mark.needs("root")
def test_chroot_refuses_what_it_cannot_do(cli: Cli, rootfs: Path, drivers: dict[str, object]) -> None:
    result = cli("run", "--driver", "chroot", "--rootfs", rootfs, "-m", "64m", "true")
    assert result.returncode == 125
    assert "resources.memory" in result.stderr
    assert "(given by -m/--memory)" in result.stderr


def test_an_unwritable_root(cli: Cli, rootfs: Path, native: str) -> None:
    result = cli("run", "--rootfs", rootfs, "--root", "/proc/nowhere", "true")
    assert result.returncode == 125
    assert "/proc/nowhere" in result.stderr
    assert "Traceback" not in result.stderr


# What takes more than another root


def test_the_defaults_seen_from_inside(cli: Cli, contained: tuple[object, ...]) -> None:
    script = (
        "echo $$; hostname; id -u; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs|Seccomp'; "
        "ls /proc | grep -c '^[0-9]'"
    )
    lines = cli(*contained, "--rm", "--", "sh", "-c", script).stdout.splitlines()
    assert lines[0] == "1"
    assert lines[1] != os.uname().nodename
    assert lines[2] == "0"
    assert "CapEff:\t00000000a80425fb" in lines
    assert "NoNewPrivs:\t1" in lines
    # `sh` and `ls`; grep may not have started yet when ls looks.
    assert lines[-1] in ("2", "3")


@pytest.mark.needs("root")
def test_out_of_memory(cli: Cli, contained: tuple[object, ...]) -> None:
    result = cli(*contained, "--name", "fat", "-m", "32m", "--", "sh", "-c", "tail -c 200m /dev/zero | tail")
    assert result.returncode != 0
    assert "execdrivers: fat ran out of memory (limit 32M): 1 process killed\n" in result.stderr
    assert cli.inspect("fat")["exit"]["reason"] == "oom"


@pytest.mark.needs("root")
def test_a_fork_bomb_is_stopped(cli: Cli, contained: tuple[object, ...]) -> None:
    bomb = "b() { b | b & }; b; sleep 0.3; echo done"
    result = cli(*contained, "--rm", "--pids-limit", "8", "--timeout", "20", "--", "sh", "-c", bomb)
    assert "can't fork" in result.stderr
    assert cli.names() == []


def test_files_of_the_host(cli: Cli, contained: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "f").write_text("shared\n")
    (tmp_path / "deep").mkdir()
    script = "cat /in/f; touch /in/x; touch /scratch/y && touch /in/deep/z && ls /in/deep"
    result = cli(
        *(*contained, "--rm", "-v", f"{tmp_path}:/in:ro", "--tmpfs", "/scratch", "--read-only"),
        *("--mount", "type=tmpfs,dst=/in/deep", "--", "sh", "-c", script),
    )
    assert result.stdout == "shared\nz\n"
    assert "Read-only" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == ["deep", "f"]


def test_ephemeral(cli: Cli, rootfs: Path, native: str) -> None:
    words = ("run", "--rm", "--rootfs", rootfs, "--ephemeral=4m", "--", "sh", "-c", "echo new >/written; cat /written")
    assert cli(*words).stdout == "new\n"
    assert not (rootfs / "written").exists()


def test_init_makes_signals_work(cli: Cli, contained: tuple[object, ...]) -> None:
    with cli.start(*contained, "--name", "x", "--init", "--", "sleep", "60") as process:
        cli.running("x")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143


def test_identity(cli: Cli, contained: tuple[object, ...]) -> None:
    words = (*contained, "--rm", "-h", "box", "-u", "alice", "--umask", "027", "--ulimit", "nofile=64")
    result = cli(*words, "--", "sh", "-c", "hostname; id -un; umask; ulimit -n")
    assert result.stdout == "box\nalice\n0027\n64\n"


def test_cli_killed_by_force_leaves_a_container_that_can_be_removed(cli: Cli, run: tuple[object, ...]) -> None:
    with cli.start(*run, "--name", "x", "sleep", "60") as process:
        pid = cli.running("x")["pid"]
        process.kill()
        process.wait()
    assert cli("rm", "-f", "x").stdout == "x\n"
    until(lambda: not alive(pid))
    assert cli.names() == []


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(cli: Cli, rootfs: Path, native: str, closed: str) -> None:
    """A store's or cgroup's descriptor must not be taken for the command's output."""
    words = [*PROGRAM, "run", "--rm", "-i", "--rootfs", str(rootfs), "--", "sh", "-c", "echo out; echo err >&2; cat"]
    script = f'exec "$@" {closed}'
    result = subprocess.run(
        ["sh", "-c", script, "sh", *words], env=cli.environment, input="", capture_output=True, text=True
    )
    assert result.returncode in (0, 1)
    assert result.stdout == ("" if ">&- " in f"{closed} ".replace("2>&-", "") else "out\n")
    assert result.stderr == ("" if "2>&-" in closed else "err\n")
    assert cli.names() == []


def test_a_full_disk_for_stdout() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run([*PROGRAM, "drivers"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 125
    assert result.stderr == "execdrivers: [Errno 28] No space left on device\n"
