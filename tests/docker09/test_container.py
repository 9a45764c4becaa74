"""What Docker 0.9 asked of one container (integration/container_test.go and commands_test.go), asked of ours.

The tests are new; some have the names of those whose question they ask. docs/docker-0.9.md has the history.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import threading
from pathlib import Path

import pytest

from execdrivers import (
    DEVNULL,
    PIPE,
    CommandNotExecutable,
    CommandNotFound,
    InvalidState,
    LaunchError,
    SpecError,
    UnsupportedFeature,
)
from execdrivers.cli.privileged import privileged
from execdrivers.spec import Mount
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root", "busybox")

# --- start, run, output -----------------------------------------------------------------------------------------


def test_start(create):
    with create(["cat"], stdin=PIPE, stdout=PIPE) as c:
        assert (c.state, c.returncode) == ("created", None)
        c.start()
        assert c.state == "running"
        assert host.alive(c.pid)
        with pytest.raises(InvalidState, match="running and cannot be started"):
            c.start()
        # Still undisturbed.
        c.stdin.write(b"hello\n")
        c.stdin.flush()
        assert host.read_line(c.stdout) == "hello"
        c.stdin.close()
        assert c.wait(20).ok
        assert c.state == "stopped"


def test_run(create):
    with create("echo foobar; exit 0", stdout=DEVNULL) as c:
        assert c.state == "created"
        c.start()
        c.wait(20)
        assert (c.state, c.returncode, c.pid) == ("stopped", 0, None)


def test_output(output):
    assert output(["echo", "-n", "foobar"]) == "foobar"


def test_output_and_errors_apart(run):
    done = run("echo out; echo err >&2; echo more; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("out\nmore\n", "err\n", 3)


def test_big_output(run):
    done = run("head -c 30000000 /dev/zero | tr '\\0' x; echo; echo end >&2", text=False)
    assert len(done.stdout) == 30_000_001
    assert set(done.stdout) == set(b"x\n")
    assert done.stderr == b"end\n"


def test_stream_as_it_comes(create):
    """0.9's attach: what is written is there at once, not at the end."""
    with create("echo first; read -r line; echo $line", stdin=PIPE, stdout=PIPE) as c:
        c.start()
        assert host.read_line(c.stdout) == "first"
        assert c.state == "running"
        c.stdin.write(b"second\n")
        c.stdin.close()
        assert host.read_line(c.stdout) == "second"


@pytest.mark.parametrize("code", [0, 1, 2, 127, 137, 255])
def test_exit_code(run, code):
    done = run(f"exit {code}")
    assert (done.exit.reason, done.exit.code, done.exit.signal) == ("exited", code, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1])
def test_exit_by_a_signal_is_no_exit_code(run, number):
    """lxc-start told 128 + n for both; 0.9 could not tell them apart."""
    done = run(f"kill -{number:d} $$; sleep 5", init=True)
    assert (done.exit.reason, done.exit.code, done.exit.signal) == ("signaled", None, number)
    assert (done.returncode, done.exit.status) == (-number, 128 + number)


@pytest.mark.parametrize(
    ("command", "error", "status"),
    [
        ("nosuchcommand", CommandNotFound, 127),
        ("/no/such", CommandNotFound, 127),
        ("/etc/passwd", CommandNotExecutable, 126),
        ("/etc", CommandNotExecutable, 126),
    ],
)
def test_missing_command(create, command, error, status):
    """0.9 has a container that runs and ends with 127, or with whatever dockerinit met."""
    c = create([command])
    with pytest.raises(error, match=command) as caught:
        c.start()
    assert caught.value.exit.status == status
    assert c.state == "stopped"


# --- kill -------------------------------------------------------------------------------------------------------


def test_kill(create):
    with create(["sleep", "60"]) as c:
        c.start()
        pid = c.pid
        c.kill()
        assert c.wait(20).signal == signal.SIGKILL
        assert not host.alive(pid)
        c.kill()  # a second time is no error
        assert c.state == "stopped"


@pytest.mark.parametrize("user", ["daemon", "alice", "4711:4711"])
def test_kill_different_user(create, user):
    with create(["cat"], user=user, stdin=PIPE, stdout=PIPE) as c:
        c.start()
        c.stdin.write(b"hello\n")
        c.stdin.flush()
        assert host.read_line(c.stdout) == "hello"
        assert host.status(c.pid)["Uid"].split()[0] != "0"
        c.kill()
        assert c.wait(20).signal == signal.SIGKILL


def test_kill_takes_every_process_along(create):
    """Also one that has a session of its own and ignores what can be ignored."""
    script = "trap '' TERM HUP INT; setsid sleep 60 & sleep 60 & echo ready; wait"
    with create(script, stdout=PIPE) as c:
        c.start()
        assert host.read_line(c.stdout) == "ready"
        host.until(lambda: len(c.pids()) == 3, "three processes")
        pids = list(c.pids())
        assert c.pid in pids
        c.kill()
        c.wait(20)
        host.until(lambda: not any(map(host.alive, pids)), "the end of all of them")


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "WINCH", "40"])
def test_any_signal_arrives(create, name):
    """lxc-kill could; lxc-stop, which 0.9 falls back on, kills whatever the number."""
    with create(f"trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done", stdout=PIPE) as c:
        c.start()
        assert host.read_line(c.stdout) == "ready"
        c.signal(name)
        assert host.read_line(c.stdout) == f"got {name}"
        assert c.wait(20).code == 7


def test_stop_asks_first(create):
    with create("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done", stdout=PIPE) as c:
        c.start()
        host.read_line(c.stdout)
        assert c.stop(timeout=20).code == 9


def test_stop_kills_who_does_not_listen(create):
    with create("trap '' TERM; echo ready; while :; do sleep 0.05; done", stdout=PIPE) as c:
        c.start()
        host.read_line(c.stdout)
        assert c.stop(timeout=0.2).signal == signal.SIGKILL


# --- restart ----------------------------------------------------------------------------------------------------


def test_restart(engine, create):
    """Ours start once. A restart is the same spec again, and may have the same name."""
    for _ in range(2):
        with create(["echo", "-n", "foobar"], stdout=PIPE, name="again") as c:
            c.start()
            assert c.communicate(timeout=20)[0] == b"foobar"
            with pytest.raises(InvalidState, match="a container starts once: create another"):
                c.start()
            spec = c.spec
    with engine.create(spec, driver=c.driver, stdout=PIPE) as c:
        c.start()
        assert c.communicate(timeout=20)[0] == b"foobar"


def test_restart_stdin(create):
    for text in (b"hello world", b"hello world #2"):
        with create(["cat"], stdin=PIPE, stdout=PIPE, name="again") as c:
            c.start()
            assert c.communicate(text, timeout=20)[0] == text


# --- stdin and the terminal -------------------------------------------------------------------------------------


def test_stdin(create):
    """Closing it ends cat."""
    with create(["cat"], stdin=PIPE, stdout=PIPE) as c:
        c.start()
        c.stdin.write(b"hello world")
        c.stdin.close()
        assert c.wait(20).ok
        assert c.communicate()[0] == b"hello world"


def test_large_stdin(run):
    data = os.urandom(1 << 20) * 24
    done = run("sha256sum", text=False, input=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_stdin_that_nobody_reads(run):
    assert run(["true"], text=False, input=b"x" * (1 << 22)).returncode == 0


def test_no_stdin(output):
    assert output("cat; echo end", stdin=DEVNULL) == "end\n"


def test_tty(create):
    with create(
        'tty; read -r line; echo "<$line>"; test -t 0 && test -t 1 && test -t 2', tty=True, stdin=PIPE, stdout=PIPE
    ) as c:
        c.start()
        assert host.read_line(c.stdout).startswith("/dev/")
        c.stdin.write(b"hello\n")
        assert host.read_line(c.stdout) == "hello"  # the echo of what was typed
        assert host.read_line(c.stdout) == "<hello>"
        assert c.wait(20).ok


def test_tty_end_of_input(create):
    with create(["cat"], tty=True, stdin=PIPE, stdout=PIPE) as c:
        c.start()
        out, _ = c.communicate(b"hello\n", timeout=20)
        assert out == b"hello\r\nhello\r\n"
        assert c.wait().ok


def test_tty_interrupt(create):
    """Ctrl-C reaches who is in the foreground, by the terminal's own way."""
    with create(
        "trap 'echo; echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done",
        tty=True,
        stdin=PIPE,
        stdout=PIPE,
    ) as c:
        c.start()
        assert host.read_line(c.stdout) == "ready"
        c.stdin.write(b"\x03")
        assert host.read_line(c.stdout) in ("", "^C")
        assert host.read_line(c.stdout) in ("interrupted", "")
        assert c.wait(20).code == 5


def test_tty_size(create):
    with create("stty size; read -r _; stty size", tty=True, console_size=(24, 80), stdin=PIPE, stdout=PIPE) as c:
        c.start()
        assert host.read_line(c.stdout) == "24 80"
        c.terminal.resize(50, 132)
        c.stdin.write(b"\n")
        assert host.read_line(c.stdout) == ""
        assert host.read_line(c.stdout) == "50 132"


# --- user, environment, command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "told"),
    [
        (None, "uid=0(root) gid=0(root)"),
        ("root", "uid=0(root) gid=0(root)"),
        ("0", "uid=0(root) gid=0(root)"),
        ("1", "uid=1(daemon) gid=1(daemon)"),
        ("daemon", "uid=1(daemon) gid=1(daemon)"),
        ("alice:users", "uid=1000(alice) gid=100(users)"),
        ("4711:4711", "uid=4711 gid=4711"),
    ],
)
def test_user(output, user, told):
    # 0.9's lxc driver kept the groups of the daemon.
    assert output("id", user=user).startswith(told)


@pytest.mark.parametrize("user", ["unknownuser", "alice:unknowngroup"])
def test_unknown_user(create, user):
    with pytest.raises(SpecError, match="unknown") as caught:
        create(["id"], user=user)
    assert caught.value.field == "user"


def test_groups(output):
    assert set(output("id -G", user="alice").split()) == {"1000", "10", "100"}
    assert set(output("id -G", user="alice", additional_gids=[7]).split()) == {"1000", "7"}


def test_env(output, monkeypatch):
    """The default environment and what was given, and nothing of the caller's."""
    monkeypatch.setenv("TRICKY", "not for containers")
    lines = output("env", env={"GIVEN": "a b=c", "EMPTY": "", "PS1": "> "}, name="envy").splitlines()
    # The shell adds its own.
    seen = {line for line in lines if not line.startswith(("PWD=", "SHLVL=", "_=", "OLDPWD="))}
    assert seen == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=envy",
        "HOME=/root",
        "GIVEN=a b=c",
        "EMPTY=",
        "PS1=> ",
    }


def test_env_overrides_the_default(output):
    assert output("echo $PATH $HOME", env={"PATH": "/bin", "HOME": "/srv"}) == "/bin /srv\n"
    assert "TERM=xterm" in output("env", tty=True)


def test_env_of_odd_values(output):
    """0.9's lxc driver had an environment file of lines, and a config file of lines."""
    value = "two\nlines # = 'quoted' \"too\" $HOME \\ \t end "
    assert output('printf %s "$ODD"', env={"ODD": value}) == value


def test_entrypoint(output):
    """A command and its arguments are one list."""
    entrypoint, command = ["/bin/echo"], ["-n", "foobar"]
    assert output([*entrypoint, *command]) == "foobar"


def test_entrypoint_no_cmd(output):
    assert output(["/bin/echo", "foobar"]) == "foobar\n"


def test_arguments_are_not_split_or_expanded(output):
    args = ["two words", "", "$HOME", "*", "'", '"', "a\nb", "-x", "--", "#", "ü"]
    assert output(["printf", "%s|", *args]) == "".join(f"{arg}|" for arg in args)


def test_working_directory(run, output):
    assert output("pwd", cwd="/home/alice") == "/home/alice\n"
    with pytest.raises((SpecError, LaunchError), match="/not/there"):
        run("pwd", cwd="/not/there")


def test_working_directory_through_a_link(own_rootfs, output):
    """It is looked up in the container: a link of the rootfs does not lead to the host."""
    (own_rootfs / "link").symlink_to("/etc")
    assert "passwd\n" in output("ls", cwd="/link", rootfs=own_rootfs)
    assert output("ls", cwd="/link", rootfs=own_rootfs).split() == sorted(os.listdir(own_rootfs / "etc"))


def test_hostname(output, run):
    assert output("hostname", hostname="box") == "box\n"
    assert output("hostname", name="named-so") == "named-so\n"
    assert run("hostname other").returncode != 0
    assert os.uname().nodename not in ("box", "named-so", "other")


# --- limits -----------------------------------------------------------------------------------------------------


def test_cpu_shares(create):
    """Seen on the host, as 0.9's test looked into the cgroup; there it wrote the number into a config file."""
    with create(["sleep", "60"], cpu_shares=33, memory="32M", memory_swap="48M") as c:
        c.start()
        weight = host.cgroup_file(c.pid, "cpu", "cpu.shares", "cpu.weight")
        assert weight == ("33" if host.controllers()["cpu"] == 1 else "2")
        assert host.cgroup_file(c.pid, "memory", "memory.limit_in_bytes", "memory.max") == str(32 << 20)


def test_memory_is_a_limit(run):
    done = run("tail -c 200m /dev/zero | tail", memory="32M")
    assert done.exit.reason == "oom"


# --- privileges -------------------------------------------------------------------------------------------------

_MKNOD = "mknod /tmp/sda b 7 0 && dd if=/tmp/sda of=/dev/null count=0 2>/dev/null && echo ok"
_MOUNT = "mount -t tmpfs none /tmp && echo ok"


def test_privileged_can_mknod(own_rootfs, output):
    assert output(_MKNOD, rootfs=own_rootfs, **privileged()) == "ok\n"


def test_privileged_can_mount(output):
    assert output(_MOUNT, **privileged()) == "ok\n"


def test_unprivileged_cannot_mknod(own_rootfs, run):
    """Docker came to allow mknod(2) itself and to deny the device (0.10): so do we, and 0.9's way can be had."""
    done = run(_MKNOD, rootfs=own_rootfs)
    assert (done.stdout, done.returncode) != ("ok\n", 0)
    done = run("mknod /tmp/other c 1 3", rootfs=own_rootfs, capabilities={"drop": ["MKNOD"]})
    assert "Operation not permitted" in done.stderr
    assert not (own_rootfs / "tmp/other").exists()


def test_unprivileged_cannot_mount(run):
    done = run(_MOUNT)
    assert (done.stdout, done.returncode != 0) == ("", True)


def test_capabilities(output):
    """0.9 dropped fifteen, of the rest whatever a new kernel brought was there; ours are listed by name."""
    assert "CapBnd:\t00000000a80425fb\n" in output("cat /proc/self/status")


def test_proc_and_sys_are_guarded(run):
    done = run(
        "echo 1 >/proc/sys/vm/drop_caches; echo 1 >/proc/irq/default_smp_affinity; mkdir /sys/fs/x; cat /proc/keys"
    )
    assert done.stderr.count("Read-only file system") == 3
    assert done.stdout == ""


# --- network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [None, "none"])
def test_only_loopback_exists_when_using_disable_network_option(output, network):
    """And it is up, which in 0.9.0 it was not (#4681)."""
    script = "ls /sys/class/net; cat /sys/class/net/lo/flags; ping -c1 -W2 127.0.0.1 | grep -c '1 packets received'"
    assert output(script, network=network).split() == ["lo", "0x9", "1"]


def test_network_of_the_host(output):
    assert set(output("ls /sys/class/net", network="host").split()) == set(os.listdir("/sys/class/net"))


# --- bind mounts ------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / "with space"
    directory.mkdir()
    (directory / "touch-me").write_text("content")
    return directory


def _bind(source: Path, destination: str, *options: str) -> dict[str, list[Mount]]:
    return {"mounts": [Mount(destination, "bind", str(source), options)]}


def test_bind_mount_read_only(own_rootfs, run, shared):
    done = run("cat /mnt/in/touch-me; echo x >/mnt/in/touch-me", rootfs=own_rootfs, **_bind(shared, "/mnt/in", "ro"))
    assert done.stdout == "content"
    assert "Read-only file system" in done.stderr
    assert (shared / "touch-me").read_text() == "content"


def test_bind_mount_read_write(own_rootfs, output, shared):
    output("touch /mnt/in/holla", rootfs=own_rootfs, **_bind(shared, "/mnt/in", "rw"))
    assert (shared / "holla").exists()


def test_bind_mount_a_file(own_rootfs, output, shared):
    (shared / "holla").touch()
    output("printf yotta >/tmp/holla", rootfs=own_rootfs, **_bind(shared / "holla", "/tmp/holla"))
    assert (shared / "holla").read_text() == "yotta"


@pytest.mark.parametrize("destination", [".", "relative/path", "/a/../../b", ""])
def test_bind_mount_to_an_illegal_destination(create, shared, destination):
    with pytest.raises(SpecError, match="destination"):
        create(["true"], **_bind(shared, destination))


def test_bind_mount_does_not_follow_a_link_out(own_rootfs, create, shared, tmp_path):
    """0.9 joined the paths, and so did others for long (CVE-2021-30465)."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (own_rootfs / "out").symlink_to(outside)
    try:
        with create(["ls", "/out"], rootfs=own_rootfs, stdout=PIPE, **_bind(shared, "/out")) as c:
            c.start()
            c.communicate(timeout=20)
    except (SpecError, LaunchError):
        pass
    assert os.listdir(outside) == []


# --- raw options of a driver ------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["native"], indirect=True)
def test_native_refuses_lxc_options(create):
    """0.9 looked for the word lxc in them; ours never get to a driver that is not theirs."""
    with pytest.raises(SpecError, match=r"driver_options\['lxc'\].*that is 'native'"):
        create(["true"], driver_options={"lxc": {"lxc.uts.name": "x"}})


@pytest.mark.parametrize("driver", ["lxc"], indirect=True)
def test_lxc_options_take_effect(create):
    options = {"lxc": {"lxc.prlimit.nofile": "77", "lxc.sysctl.net.ipv4.ip_default_ttl": "55"}}
    script = "ulimit -n; cat /proc/sys/net/ipv4/ip_default_ttl"
    with create(script, stdout=PIPE, driver_options=options) as c:
        c.start()
        assert c.communicate(timeout=20)[0] == b"77\n55\n"


@pytest.mark.parametrize(
    "options",
    [
        {"lxc.rootfs.path": "/"},
        {"lxc.cap.keep": "sys_admin"},
        {"lxc.cap.drop": ""},
        {"lxc.namespace.share.net": "1"},
        {"lxc.no": "such key"},
        {"lxc.uts.name": "x\nlxc.rootfs.path = /"},
        {"not.lxc": "x"},
        {"lxc.include": "/etc/passwd"},
    ],
)
@pytest.mark.parametrize("driver", ["lxc"], indirect=True)
def test_lxc_options_do_not_undo_the_spec(create, options):
    """0.9 pasted them into the config as they came."""
    with pytest.raises((SpecError, UnsupportedFeature), match="lxc"), create(["true"], driver_options={"lxc": options}):
        pass


# --- many -------------------------------------------------------------------------------------------------------


def test_multiple_containers(create):
    with create(["sleep", "60"]) as one, create(["sleep", "60"]) as two:
        for c in (one, two):
            c.start()
        assert one.state == two.state == "running"
        assert one.pid != two.pid
        assert host.namespaces(one.pid)["pid"] != host.namespaces(two.pid)["pid"]
        one.kill()
        one.wait(20)
        assert (one.state, two.state) == ("stopped", "running")
        two.kill()
        assert two.wait(20).signal == signal.SIGKILL


def test_run_parallel(output):
    """0.9 measured this, and left the output unchecked."""
    seen: list[str] = []
    threads = [threading.Thread(target=lambda n=n: seen.append(output(["echo", f"foo {n}"]))) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == sorted(f"foo {n}\n" for n in range(12))


def test_errors_have_an_errno(create):
    c = create(["/no/such"])
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the point is that it is one
        c.start()
    assert caught.value.errno == errno.ENOENT
