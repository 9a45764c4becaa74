"""What a process in a native container is given and what it sees, told by itself and by the host's /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import execdrivers
from execdrivers import DEVNULL, PIPE, CommandNotExecutable, CommandNotFound, ContainerSpec, LaunchError, SpecError
from execdrivers.engine import CompletedContainer, Engine

pytestmark = pytest.mark.needs("root", "busybox")

DOCKER_CAPABILITIES = "00000000a80425fb"


def sh(engine: Engine, script: str, rootfs: Path | None, **options: object) -> CompletedContainer:
    return engine.run(
        ["sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True, timeout=30, **options
    )


def out(engine: Engine, script: str, rootfs: Path | None, **options: object) -> str:
    result = sh(engine, script, rootfs, check=True, **options)
    assert result.stderr == ""
    return result.stdout.strip()


def status(engine: Engine, rootfs: Path | None, **options: object) -> dict[str, str]:
    command = ["cat", "/proc/self/status"]
    lines = engine.run(
        command, rootfs=rootfs, driver="native", capture_output=True, text=True, check=True, **options
    ).stdout.splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_defaults_are_dockers_or_stricter(engine: Engine, rootfs: Path) -> None:
    seen = status(engine, rootfs)
    assert seen["CapEff"] == seen["CapPrm"] == seen["CapBnd"] == DOCKER_CAPABILITIES
    assert seen["CapInh"] == seen["CapAmb"] == "0" * 16
    assert seen["NoNewPrivs"] == "1"
    assert seen["SigBlk"] == seen["SigIgn"] == "0" * 16


def test_first_process_alone_with_a_name_of_its_own(engine: Engine, rootfs: Path) -> None:
    text = out(engine, "echo $$; hostname; ls /proc | grep -c '^[0-9]'; echo /proc/[0-9]*", rootfs, name="box")
    pid, hostname, _, processes = text.splitlines()
    assert (pid, hostname, processes) == ("1", "box", "/proc/1")


def test_every_namespace_differs_from_the_hosts(engine: Engine, rootfs: Path) -> None:
    kinds = ["pid", "mnt", "uts", "ipc", "net", "cgroup"]
    inside = out(engine, f"for k in {' '.join(kinds)}; do readlink /proc/self/ns/$k; done", rootfs).split()
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert not set(inside) & set(outside)
    assert len(set(inside)) == len(kinds)


def test_only_loopback_and_it_is_up(engine: Engine, rootfs: Path) -> None:
    assert out(
        engine, "ls /sys/class/net; cat /sys/class/net/lo/flags; ping -c1 -W1 127.0.0.1 >/dev/null", rootfs
    ).split() == [
        "lo",
        "0x9",
    ]


def test_no_descriptor_but_stdio(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as file:
        os.set_inheritable(file.fileno(), True)
        assert out(engine, "ls /proc/1/fd; true", rootfs).split() == ["0", "1", "2"]


def test_environment_is_not_the_callers(engine: Engine, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    seen = dict(line.split("=", 1) for line in out(engine, "env", rootfs, env={"A": "b c=d"}).splitlines())
    assert seen["A"] == "b c=d"
    assert seen["HOME"] == "/root"
    assert "/bin" in seen["PATH"]
    assert "SECRET" not in seen


def test_host_processes_and_mounts_are_out_of_sight(engine: Engine, rootfs: Path) -> None:
    mounts = out(engine, "cat /proc/self/mountinfo", rootfs).splitlines()
    places = [line.split()[4] for line in mounts]
    assert places[0] == "/"
    assert {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"} <= set(places)
    assert not any(place.startswith(str(rootfs)) for place in places)


def test_standard_devices_and_links(engine: Engine, rootfs: Path) -> None:
    script = (
        "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done;"
        "for l in fd stdin stdout stderr ptmx; do test -L /dev/$l || echo no $l; done;"
        "echo x > /dev/null; head -c 4 /dev/urandom | wc -c; head -c 3 /dev/zero | wc -c; stat -c %a /dev/null /dev/shm"
    )
    assert out(engine, script, rootfs).split() == ["4", "3", "666", "1777"]


def test_a_device_made_inside_stays_dead(engine: Engine, rootfs: Path) -> None:
    """CAP_MKNOD is in Docker's default list; without the device cgroup it must lead nowhere."""
    for place in ("/tmp", "/dev", "/dev/shm", "/"):
        result = sh(
            engine, f"mknod {place}/mem c 1 1 && head -c1 {place}/mem; r=$?; rm -f {place}/mem; exit $r", rootfs
        )
        assert result.returncode != 0
        assert "denied" in result.stderr


def test_kernel_files_are_masked_or_readonly(engine: Engine, rootfs: Path) -> None:
    script = (
        "for f in /proc/keys /proc/timer_list /proc/interrupts; do test -e $f && wc -c <$f; done;"
        "for d in /proc/scsi /proc/acpi /sys/firmware; do test -d $d && ls $d; done;"
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper; do"
        "  (echo x >$f) 2>/dev/null && echo wrote $f; done; true"
    )
    assert set(out(engine, script, rootfs).split()) <= {"0"}


def test_a_masked_file_is_no_way_to_the_hosts_null_device(engine: Engine, rootfs: Path) -> None:
    before = os.stat("/dev/null").st_ctime_ns
    result = sh(engine, "chmod 666 /etc/group; cat /etc/group", rootfs, masked_paths=["/etc/group"])
    assert "Read-only file system" in result.stderr
    assert result.stdout == ""
    assert os.stat("/dev/null").st_ctime_ns == before


def test_stdio_is_no_way_to_the_hosts_null_device(engine: Engine, rootfs: Path) -> None:
    host = os.stat("/dev/null")
    script = "chmod 600 /proc/self/fd/0 /proc/self/fd/2; stat -Lc %d:%i:%a /proc/self/fd/0; cat; echo >&2 x"
    spec = ContainerSpec.build(["sh", "-c", script], rootfs=rootfs)
    with engine.create(spec, driver="native", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL) as container:
        container.start()
        text = (container.communicate()[0] or b"").decode()
    device, inode, mode = text.strip().split(":")
    assert (int(device), int(inode)) != (host.st_dev, host.st_ino)
    assert mode == "600"
    assert os.stat("/dev/null").st_ctime_ns == host.st_ctime_ns


def test_rootfs_is_writable_unless_readonly(engine: Engine, own_rootfs: Path) -> None:
    out(engine, "echo hi >/made", own_rootfs)
    assert (own_rootfs / "made").read_text() == "hi\n"
    assert sh(engine, "echo hi >/more", own_rootfs, readonly=True).returncode != 0
    assert out(engine, "echo hi >/dev/shm/x; cat /dev/shm/x", own_rootfs, readonly=True) == "hi"


def test_ephemeral_layer_is_dropped(engine: Engine, own_rootfs: Path) -> None:
    before = sorted(path for path in own_rootfs.rglob("*"))
    script = "echo new >/etc/passwd; rm -r /usr; mkdir /made; cat /etc/passwd; ls -d /usr || echo gone"
    result = sh(engine, script, own_rootfs, ephemeral=True)
    assert result.stdout.split() == ["new", "gone"]
    assert sorted(path for path in own_rootfs.rglob("*")) == before
    assert "alice" in (own_rootfs / "etc/passwd").read_text()


def test_ephemeral_size_is_a_limit(engine: Engine, rootfs: Path) -> None:
    result = sh(engine, "head -c 3m /dev/zero >/big; wc -c </big", rootfs, ephemeral=True, ephemeral_size="1M")
    assert result.stderr
    assert 0 < int(result.stdout) <= 1 << 20


def test_without_rootfs_the_host_is_seen_readonly_by_nobody(engine: Engine) -> None:
    seen = status(engine, None)
    assert seen["Uid"].split()[0] == "65534"
    assert seen["CapEff"] == "0" * 16
    script = (
        "touch /etc/x 2>/dev/null && echo wrote; touch /tmp/x /tmp/y && ls /tmp; ls /run;"
        "test -S /run/docker.sock && echo socket; echo $HOME"
    )
    assert out(engine, script, None).split() == ["x", "y", "/tmp"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, "uid=0 gid=0 groups=10"),
        ("alice", "uid=1000 gid=1000 groups=10,100"),
        ("alice:users", "uid=1000 gid=100 groups="),
        ("1000", "uid=1000 gid=1000 groups=10,100"),
        ("4321:1234", "uid=4321 gid=1234 groups="),
    ],
)
def test_user(engine: Engine, rootfs: Path, user: str | None, expected: str) -> None:
    seen = status(engine, rootfs, user=user)
    groups = ",".join(seen["Groups"].split())
    assert f"uid={seen['Uid'].split()[0]} gid={seen['Gid'].split()[0]} groups={groups}" == expected
    if user:
        assert seen["CapEff"] == "0" * 16


def test_capabilities_added_dropped_and_exact(engine: Engine, rootfs: Path) -> None:
    assert status(engine, rootfs, capabilities={"drop": ["ALL"]})["CapBnd"] == "0" * 16
    assert status(engine, rootfs, capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]})["CapEff"] == f"{1 << 12:016x}"
    exact = {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")}
    seen = status(engine, rootfs, capabilities=exact, user="1000")
    assert {seen[key] for key in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {f"{1 << 5:016x}"}


def test_cwd_umask_rlimits_hostname(engine: Engine, rootfs: Path) -> None:
    options = {
        "cwd": "/tmp",
        "umask": 0o77,
        "rlimits": {"nofile": "64:128"},
        "hostname": "h",
        "domainname": "d.example",
    }
    script = "pwd; umask; ulimit -Sn; ulimit -Hn; hostname; cat /proc/sys/kernel/domainname"
    assert out(engine, script, rootfs, **options).split() == ["/tmp", "0077", "64", "128", "h", "d.example"]
    assert out(engine, "umask", rootfs) == "0022"


def test_a_limit_of_no_files_stops_the_command_not_the_launch(engine: Engine, rootfs: Path) -> None:
    assert engine.run(["true"], rootfs=rootfs, driver="native", rlimits={"nofile": 0}).returncode == 0


def test_caller_umask_does_not_leak_in(engine: Engine, rootfs: Path) -> None:
    old = os.umask(0o077)
    try:
        assert out(engine, "umask; stat -c %a /dev /dev/pts /dev/null", rootfs).split() == ["0022", "755", "755", "666"]
    finally:
        os.umask(old)


def test_bind_mounts(engine: Engine, own_rootfs: Path, tmp_path: Path) -> None:
    source = tmp_path / "data with space"
    source.mkdir()
    (source / "file").write_text("hello")
    mounts = [
        {"type": "bind", "source": str(source), "destination": "/data", "options": ["rbind", "ro"]},
        {"type": "bind", "source": str(source / "file"), "destination": "/etc/one", "options": ["bind"]},
    ]
    script = "cat /data/file; (echo x >/data/new) 2>/dev/null || echo refused; echo more >/etc/one"
    assert out(engine, script, own_rootfs, mounts=mounts) == "hellorefused"
    assert (source / "file").read_text() == "more\n"
    assert not (source / "new").exists()


def test_mounts_do_not_travel_between_host_and_container(engine: Engine, rootfs: Path) -> None:
    options: dict[str, Any] = {"capabilities": {"add": ["SYS_ADMIN"]}, "apparmor_profile": "unconfined"}
    before = Path("/proc/self/mountinfo").read_text()
    assert out(engine, "mount -t tmpfs none /tmp && mount | grep -c ' /tmp '", rootfs, **options) == "1"
    assert Path("/proc/self/mountinfo").read_text() == before


def test_host_namespaces_when_asked(engine: Engine, rootfs: Path) -> None:
    options = {"network": "host", "namespaces": {"uts": "host", "ipc": "host"}}
    script = "for k in net uts ipc; do readlink /proc/self/ns/$k; done"
    assert out(engine, script, rootfs, **options).split() == [
        os.readlink(f"/proc/self/ns/{k}") for k in ("net", "uts", "ipc")
    ]


def test_host_pids_still_end_with_the_container(engine: Engine, rootfs: Path) -> None:
    script = "sleep 987 & sleep 987 & setsid sleep 987 & exit 3"
    assert sh(engine, script, rootfs, namespaces={"pid": "host"}).returncode == 3
    # The fixture's leak check sees to the sleeps.


def test_sysctl_of_an_own_namespace(engine: Engine, rootfs: Path) -> None:
    options = {"sysctls": {"net.ipv4.ip_forward": "1", "kernel.msgmax": "1234"}}
    assert out(engine, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", rootfs, **options).split() == [
        "1",
        "1234",
    ]


def test_init_reaps_forwards_and_tells_the_truth(engine: Engine, rootfs: Path) -> None:
    result = sh(engine, "echo $$; kill -9 $$", rootfs, init=True)
    assert result.stdout.strip() != "1"
    assert (result.returncode, result.exit.reason) == (-9, "signaled")
    assert sh(engine, "exit 137", rootfs, init=True).exit.reason == "exited"
    orphans = "for i in 1 2 3; do (sleep 0.01 &) ; done; sleep 0.2; ps -o stat | grep -c Z"
    assert sh(engine, orphans, rootfs, init=True).stdout.strip() == "0"
    container = engine.create(
        execdrivers.ContainerSpec.build(["sleep", "60"], rootfs=rootfs, init=True), driver="native"
    )
    container.start()
    container.signal("TERM")
    assert container.wait(timeout=5).signal == 15
    container.delete()


def test_command_not_found_and_not_executable(engine: Engine, own_rootfs: Path) -> None:
    (own_rootfs / "bin/plain").write_text("#!/bin/sh\n")
    (own_rootfs / "bin/orphan").write_text("#!/no/such/interpreter\n")
    (own_rootfs / "bin/orphan").chmod(0o755)
    for init in (False, True):
        with pytest.raises(CommandNotFound, match="nope: not found in PATH") as caught:
            engine.run(["nope"], rootfs=own_rootfs, driver="native", init=init)
        assert caught.value.exit.code == 127
        assert caught.value.exit.reason == "launch-failed"
        assert (caught.value.step, caught.value.path, caught.value.errno) == ("exec", "nope", 2)
        with pytest.raises(CommandNotExecutable, match="chmod") as denied:
            engine.run(["plain"], rootfs=own_rootfs, driver="native", init=init)
        assert denied.value.exit.code == 126
        with pytest.raises(CommandNotExecutable):
            engine.run(["/etc"], rootfs=own_rootfs, driver="native", init=init)
        with pytest.raises(CommandNotFound, match="interpreter"):
            engine.run(["orphan"], rootfs=own_rootfs, driver="native", init=init)


def test_missing_cwd_is_not_a_missing_command(engine: Engine, rootfs: Path) -> None:
    with pytest.raises(LaunchError, match=r"chdir: /nope") as caught:
        engine.run(["true"], rootfs=rootfs, driver="native", cwd="/nope")
    assert caught.value.exit.code == 125


def test_ten_megabytes_of_environment(engine: Engine, rootfs: Path) -> None:
    env = {f"V{n}": "x" * 100_000 for n in range(100)}
    with pytest.raises(LaunchError, match=r"(?i)argument list too long.*bytes") as caught:
        engine.run(["true"], rootfs=rootfs, driver="native", env=env)
    assert caught.value.errno == 7


@pytest.mark.parametrize(
    ("target", "pattern"),
    [
        ("/tmp/outside", "out of the rootfs"),
        ("../../../../../../tmp/outside", "climbs above"),
        ("/proc/1/root/tmp", "out of the rootfs|through"),
        ("/proc/self/fd/0", "out of the rootfs|through"),
        ("nowhere", "does not have"),
        ("loop", "loop"),
    ],
)
def test_destination_that_is_a_link_out(engine: Engine, own_rootfs: Path, target: str, pattern: str) -> None:
    (own_rootfs / "evil").symlink_to(target)
    (own_rootfs / "loop").symlink_to("loop")
    for destination in ("/evil", "/evil/below") if target != "/tmp/outside" else ("/evil",):
        with pytest.raises(SpecError, match=pattern) as caught:
            engine.run(
                ["true"], rootfs=own_rootfs, driver="native", mounts=[{"type": "tmpfs", "destination": destination}]
            )
        assert caught.value.field == "mounts[0].destination"
    assert not Path("/tmp/outside").exists()


def test_launcher_itself_follows_no_link_out(engine: Engine, own_rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look in Python is advice; with it switched off the launcher still stays inside."""
    from execdrivers_native import rootfs as looks

    monkeypatch.setattr(looks, "check", lambda *_: None)
    for target in ("/tmp/outside", "../../../../tmp/outside"):
        (own_rootfs / "evil").unlink(missing_ok=True)
        (own_rootfs / "evil").symlink_to(target)
        with pytest.raises(LaunchError):
            engine.run(
                ["true"], rootfs=own_rootfs, driver="native", mounts=[{"type": "tmpfs", "destination": "/evil/x"}]
            )
        assert not Path("/tmp/outside").exists()


def test_a_link_inside_the_rootfs_is_followed(engine: Engine, own_rootfs: Path) -> None:
    (own_rootfs / "run").mkdir(exist_ok=True)
    (own_rootfs / "var/run").symlink_to("/run")
    mounts = [{"type": "tmpfs", "destination": "/var/run/app"}]
    assert out(engine, "grep -c ' /run/app ' /proc/mounts", own_rootfs, mounts=mounts) == "1"


@pytest.mark.parametrize("rootfs_is", ["missing", "file"])
def test_bad_rootfs(engine: Engine, tmp_path: Path, rootfs_is: str) -> None:
    path = tmp_path / "r"
    if rootfs_is == "file":
        path.touch()
    with pytest.raises(SpecError, match=r"rootfs: .*(does not exist|is not a directory)"):
        engine.run(["true"], rootfs=path, driver="native")


def test_missing_bind_source(engine: Engine, rootfs: Path) -> None:
    mounts = [{"type": "bind", "source": "/no/such/thing", "destination": "/x"}]
    with pytest.raises(SpecError, match=r"mounts\[0\].source: '/no/such/thing' does not exist"):
        engine.run(["true"], rootfs=rootfs, driver="native", mounts=mounts)


def test_filesystem_option_the_kernel_refuses_is_told_in_its_words(engine: Engine, rootfs: Path) -> None:
    mounts = [{"type": "tmpfs", "destination": "/tmp", "options": ["size=lots"]}]
    with pytest.raises(LaunchError, match=r"mount: /tmp: .*(?i:bad value|invalid)"):
        engine.run(["true"], rootfs=rootfs, driver="native", mounts=mounts)


def test_rlimit_above_ours_is_refused_by_the_kernel_and_said_so(engine: Engine, rootfs: Path) -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    effective = int(Path("/proc/self/status").read_text().split("CapEff:\t")[1][:16], 16)
    if effective >> 24 & 1:
        pytest.skip("needs a caller without CAP_SYS_RESOURCE, which may raise its limits")
    with pytest.raises(LaunchError, match="CAP_SYS_RESOURCE"):
        engine.run(["true"], rootfs=rootfs, driver="native", rlimits={"nofile": hard + 1})


def test_the_launcher_is_not_a_file_to_be_overwritten(engine: Engine, rootfs: Path) -> None:
    """CVE-2019-5736: under init, /proc/1/exe is the launcher, sealed."""
    result = sh(engine, "(echo x >/proc/1/exe) 2>&1; cat /proc/1/exe | wc -c; readlink /proc/1/exe", rootfs, init=True)
    assert "memfd" not in result.stdout or "denied" in result.stdout or "busy" in result.stdout.lower()


def test_native_as_an_ordinary_user(rootfs: Path, tmp_path: Path) -> None:
    program = f"""if True:
        import execdrivers
        options = dict(capture_output=True, text=True, driver="native")
        script = "id -u; grep CapEff /proc/self/status; ls /sys/class/net; echo $$; touch /etc/x"
        result = execdrivers.run(["sh", "-c", script], **options)
        print(result.stdout, result.returncode)
        print(execdrivers.run(["id", "-u"], rootfs={str(rootfs)!r}, ephemeral=True, **options).stdout)
        execdrivers.run(["true"], memory="64M", driver="native")
    """
    for directory in [tmp_path, *tmp_path.parents, rootfs, *rootfs.parents]:
        if directory.stat().st_uid == 0 and directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o055)
    ordinary = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups", "--bounding-set=-all"]
    environment = {"HOME": "/tmp", "PATH": os.environ["PATH"]}
    for needed in ([sys.executable, "-c", "import execdrivers"], ["unshare", "--user", "true"]):
        tried = subprocess.run([*ordinary, *needed], capture_output=True, text=True, env=environment)
        if tried.returncode:
            pytest.skip(f"an ordinary user cannot run {needed[0]} here: {tried.stderr.strip()}")
    run = subprocess.run([*ordinary, sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.stdout.split() == ["4321", "CapEff:", "0000000000000000", "lo", "1", "1", "0"], run.stderr
    assert "cgroup.memory" in run.stderr
    assert "delegated to this user" in run.stderr
