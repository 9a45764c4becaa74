"""Words of the command line → the spec, and errors that name the option."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execdrivers.cli import main
from execdrivers.cli.build import Request
from execdrivers.cli.environment import environment
from execdrivers.cli.parsing import UsageError
from execdrivers.cli.run import COMMANDS
from execdrivers.errors import SpecError
from execdrivers.spec import ContainerSpec

from .conftest import PROGRAM


def spec(*words: str) -> ContainerSpec:
    parser = COMMANDS["run"].parser()
    return Request(parser, *parser.parse(words)).spec()


def fields(*words: str) -> dict[str, Any]:
    """What the options set, without the command."""
    result = spec(*words, "sh").to_dict()
    assert result.pop("args") == ["sh"]
    return result


@pytest.mark.parametrize(
    ("words", "args"),
    [
        (["sh", "-c", "x"], ["sh", "-c", "x"]),
        (["--", "sh", "-c", "x"], ["sh", "-c", "x"]),
        (["-it", "sh", "--memory", "x"], ["sh", "--memory", "x"]),
        (["-i", "--", "--odd"], ["--odd"]),
        (["sh", "--", "-x", "--help"], ["sh", "--", "-x", "--help"]),
        (["-"], ["-"]),
    ],
)
def test_the_command_begins_at_the_first_word_that_is_no_option(words: list[str], args: list[str]) -> None:
    assert spec(*words).args == tuple(args)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
def test_any_command_comes_through_unchanged(command: list[str]) -> None:
    command = ["x", *command]
    assert spec(*command).args == spec("--", *command).args == tuple(command)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-t"], {"tty": True}),
        (["-itw/x"], {"tty": True, "cwd": "/x"}),
        (["-t=false", "--init=1", "--read-only=true"], {"init": True, "readonly": True}),
        (["--init", "--init=false"], {}),
        (["-w=/x", "-u", "1:2"], {"cwd": "/x", "user": "1:2"}),
        (["-h", "web", "--domainname=corp"], {"hostname": "web", "domainname": "corp"}),
        (["-m", "64m", "--memory-swap=-1"], {"resources": {"memory": 64 << 20, "memory_swap": -1}}),
        (
            ["-m1g", "--memory-reservation", "512MiB"],
            {"resources": {"memory": 1 << 30, "memory_reservation": 512 << 20}},
        ),
        (["--cpus", "1.5", "-c", "512"], {"resources": {"cpus": 1.5, "cpu_shares": 512}}),
        (["--cpu-period=50000", "--cpu-quota=25000"], {"resources": {"cpu_period": 50000, "cpu_quota": 25000}}),
        (["--cpuset-cpus=0,1", "--cpuset-mems", "0"], {"resources": {"cpuset_cpus": "0-1", "cpuset_mems": "0"}}),
        (["--pids-limit", "8"], {"resources": {"pids": 8}}),
        (["--pids-limit", "0"], {"resources": {"pids": -1}}),
        (["--cap-add", "sys_ptrace", "--cap-drop=ALL"], {"capabilities": {"add": ["CAP_SYS_PTRACE"], "drop": ["ALL"]}}),
        (["--network", "none"], {"network": "none"}),
        (["--net=host", "--pid", "host"], {"network": "host", "namespaces": {"pid": "host"}}),
        (["--network", "ns:/run/netns/a"], {"namespaces": {"network": "/run/netns/a"}}),
        (["--cgroupns=private", "--userns=host"], {"namespaces": {"cgroup": "private", "user": "host"}}),
        (["--ulimit", "nofile=10:20"], {"rlimits": {"RLIMIT_NOFILE": {"soft": 10, "hard": 20}}}),
        (["--sysctl", "net.ipv4.ip_forward=1"], {"sysctls": {"net.ipv4.ip_forward": "1"}}),
        (["--annotation", "a=b=c"], {"annotations": {"a": "b=c"}}),
        (["--stop-signal", "int", "--oom-score-adj=-5"], {"stop_signal": "SIGINT", "oom_score_adj": -5}),
        (["--umask", "027"], {"umask": 0o027}),
        (["--ephemeral"], {"ephemeral": True}),
        (["--ephemeral=1m"], {"ephemeral": True, "ephemeral_size": 1 << 20}),
        (["--security-opt", "no-new-privileges"], {"no_new_privileges": True}),
        (["--security-opt", "no-new-privileges:false"], {"no_new_privileges": False}),
        (["--security-opt=seccomp=unconfined"], {"seccomp": "unconfined"}),
        (["--security-opt", "apparmor=mine"], {"apparmor_profile": "mine"}),
        (["--security-opt", "systempaths=unconfined"], {"masked_paths": [], "readonly_paths": []}),
        (["--security-opt", "label=u:r:t:s0"], {"selinux_label": "u:r:t:s0"}),
        (["--security-opt", "label=disable"], {}),
        (["--group-add", "5", "--group-add", "7"], {"additional_gids": [5, 7]}),
        (
            ["--driver-opt", "native.a=3", "--driver-opt", "native.b=x", "--driver-opt", 'lxc.c=["d"]'],
            {"driver_options": {"native": {"a": 3, "b": "x"}, "lxc": {"c": ["d"]}}},
        ),
        # Those that are of the run and not of the spec.
        (["-i", "--rm", "--name", "x", "--driver=native", "--timeout", "5m", "--root", "/x"], {}),
    ],
)
def test_options_set_fields(words: list[str], expected: dict[str, Any]) -> None:
    assert fields(*words) == expected


def test_groups_are_added_to_those_the_user_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("ann:x:7:7::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("ann:x:7:\nboat:x:20:ann\ncrew:x:30:\n")
    assert spec(
        "--rootfs", str(tmp_path), "-u", "ann", "--group-add", "crew", "--group-add=5", "sh"
    ).additional_gids == (*(20, 30, 5),)
    assert main(["run", "--rootfs", str(tmp_path), "--group-add", "pilots", "sh"]) == 125
    assert capsys.readouterr().err.startswith("execdrivers: --group-add: the container knows no group 'pilots'\n")


def test_a_relative_rootfs_is_taken_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert spec("--rootfs", "r", "sh").rootfs == f"{tmp_path}/r"


# Mounts and devices


def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mounts = spec("-v", f"{tmp_path}:/a", "-v", ".:/b:rw,rslave", "-v", "/:/c:ro", "sh").mounts
    assert [(mount.type, mount.source, mount.destination) for mount in mounts] == [
        ("bind", str(tmp_path), "/a"),
        ("bind", str(tmp_path), "/b"),
        ("bind", "/", "/c"),
    ]
    first, second, third = (mount.parse_options() for mount in mounts)
    assert (first.propagation, first.recursive_bind, "ro" in first.set) == (None, True, False)
    assert second.propagation == "rslave"
    assert "ro" in third.set


def test_mounts_in_dockers_long_form(tmp_path: Path) -> None:
    source = tmp_path / "with, comma"
    source.touch()
    bind, plain, tmpfs = spec(
        *("--mount", f'type=bind,"source={source}",dst=/a,readonly,bind-propagation=shared'),
        *("--mount", f"type=bind,src={tmp_path},target=/b,readonly=false,bind-recursive=disabled"),
        *("--mount", "type=tmpfs,destination=/c,tmpfs-size=1MiB,tmpfs-mode=700"),
        "sh",
    ).mounts
    assert (bind.source, bind.destination, bind.parse_options().propagation) == (str(source), "/a", "shared")
    assert "ro" in bind.parse_options().set
    assert plain.parse_options().recursive_bind is False
    assert tmpfs.parse_options().data == ("size=1048576", "mode=700")
    assert tmpfs.parse_options().set == {"nosuid", "nodev", "noexec"}


def test_tmpfs_and_shm() -> None:
    shm, run = sorted(spec("--tmpfs", "/run:rw,exec,size=64m", "--shm-size", "1.5m", "sh").mounts, key=str)
    assert (shm.destination, shm.parse_options().data) == ("/dev/shm", ("mode=1777", "size=1572864"))
    assert (run.destination, run.parse_options().set) == ("/run", {"nosuid", "nodev"})


def test_what_is_mounted_on_comes_first(tmp_path: Path) -> None:
    mounts = spec("-v", f"{tmp_path}:/run/deep/x", "--tmpfs", "/run", "sh").mounts
    assert [mount.destination for mount in mounts] == ["/run", "/run/deep/x"]


def test_devices() -> None:
    plain, renamed, limited = spec(
        *("--device", "/dev/null", "--device", "/dev/zero:/dev/x", "--device", "/dev/full:/dev/y:r"), "sh"
    ).devices
    assert (plain.path, plain.major, plain.minor, plain.access) == ("/dev/null", 1, 3, "rwm")
    assert (renamed.path, renamed.minor) == ("/dev/x", 5)
    assert (limited.path, limited.access) == ("/dev/y", "r")


def test_privileged_is_overridden_by_what_is_said_beside_it() -> None:
    plain = spec("--privileged", "sh")
    assert plain.capabilities is not None
    assert plain.capabilities.add == ("ALL",)
    assert (plain.seccomp, plain.no_new_privileges, plain.masked_paths) == ("unconfined", False, ())
    assert plain.resources.devices == ()
    assert {"/sys", "/sys/fs/cgroup"} <= {mount.destination for mount in plain.mounts}
    assert "/dev/null" not in {device.path for device in plain.devices}
    changed = spec(
        "--privileged", "--security-opt", "no-new-privileges", "--cap-drop", "NET_RAW", "--tmpfs", "/sys", "sh"
    )
    assert changed.no_new_privileges is True
    assert changed.capabilities is not None
    assert changed.capabilities.drop == ("CAP_NET_RAW",)
    assert [mount.type for mount in changed.mounts if mount.destination == "/sys"] == ["tmpfs"]


# The environment


def test_environment(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("\ufeff# comment\n\n  A=1\nB= spaces  'and quotes' \nMINE\nABSENT\nC=over#ridden\nD=\r\n")
    result = environment([str(file)], ["C=2", "HOME", "ABSENT", "E=a=b", "F="], {"MINE": "m", "HOME": "/h"})
    values = ["1", " spaces  'and quotes' ", "m", "2", "", "/h", "a=b", ""]
    assert result == dict(zip(["A", "B", "MINE", "C", "D", "HOME", "E", "F"], values, strict=True))


@pytest.mark.parametrize("line", ["A B=1", "=x", "\tX Y"])
def test_lines_of_a_file_that_are_no_variables(tmp_path: Path, line: str) -> None:
    file = tmp_path / "env"
    file.write_text(f"OK=1\n{line}\n")
    with pytest.raises(UsageError, match="line 2"):
        environment([str(file)], [], {})


# A bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    config = spec(
        *("--rootfs", str(rootfs), "-e", "A=1", "-m", "32m", "--pids-limit", "5", "--network", "none"),
        *("--tmpfs", "/run", "--annotation", "a=1", "sh", "-c", "echo"),
    ).to_oci()
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_bundle_alone(bundle: Path) -> None:
    assert spec("--bundle", str(bundle)) == ContainerSpec.from_bundle(bundle)


def test_options_change_a_bundle(bundle: Path) -> None:
    base = ContainerSpec.from_bundle(bundle)
    changed = spec(
        *("--bundle", str(bundle), "-e", "B=2", "-m", "64m", "--tmpfs", "/run:size=1m", "--tmpfs", "/x"),
        *("--annotation", "b=2", "--network", "host", "--", "true"),
    )
    assert changed.args == ("true",)
    assert changed.env == {**base.env, "B": "2"}
    assert (changed.resources.memory, changed.resources.pids) == (64 << 20, 5)
    assert changed.annotations == {**base.annotations, "b": "2"}
    assert changed.network == "host"
    assert changed.rootfs == base.rootfs
    run, x = changed.mounts[-2:]
    assert ("size=1m" in run.options, x.destination) == (True, "/x")
    assert len(changed.mounts) == len(base.mounts) + 1


def test_errors_of_mounts_over_a_bundle_name_the_option(bundle: Path) -> None:
    with pytest.raises(SpecError, match=r"given by --tmpfs /x/\.\./y"):
        spec("--bundle", str(bundle), "--tmpfs", "/run", "--tmpfs", "/x/../y")


# Errors


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        ([], "no command given", "-- sh"),
        (["--memroy", "1", "sh"], "unknown option --memroy", "--memory"),
        (["-q", "sh"], "unknown option -q", "--help"),
        (["-itq", "sh"], "unknown option -q in -itq", "--help"),
        (["--name"], "option --name needs an argument", "--help"),
        (["-m", "1k", "sh"], "resources.memory: 1024 is too small (given by -m/--memory)", "1048576"),
        (["--memory", "much", "sh"], "(given by -m/--memory)", "64M"),
        (["-c", "x", "sh"], "-c/--cpu-shares", "--help"),
        (["-c", "1_0", "sh"], "-c/--cpu-shares: '1_0' is not a whole number", "--help"),
        (["--pids-limit", "\u0663", "sh"], "--pids-limit: '\u0663' is not a whole number", "--help"),
        (["--rootfs", "", "sh"], "--rootfs: '' names no directory", ""),
        (["--bundle", ""], "--bundle: '' names no directory", ""),
        (
            ["-w", "/" + 256 * "x", "sh"],
            "has a name of more than 255 bytes, which no file can have (given by -w",
            "short",
        ),
        (["-v", "/tmp:/tmp/" + 128 * "\u0663", "sh"], "which no file can have (given by -v /tmp:/tmp/", "shorten"),
        (["--shm-size", "much", "sh"], "--shm-size: 'much' is not a size", "64M"),
        (["--mount", "type=tmpfs,target=/x,tmpfs-size=-1", "sh"], "--mount tmpfs-size: '-1' is not a size", "64M"),
        (["--mount", '"', "sh"], '--mount ": unexpected end of data', "quotes"),
        (["--mount", "type=tmpfs,\ntarget=/x", "sh"], "--mount type=tmpfs,\\ntarget=/x: ", "quotes"),
        (["--device", "", "sh"], "'' is not HOST[:CONTAINER][:rwm]", "/dev/fuse"),
        (["--cap-add", "", "sh"], "(given by --cap-add)", "CAP_SYS_PTRACE"),
        (["--stop-signal", "99", "sh"], "(given by --stop-signal)", "1 to 64"),
        (["--stop-signal", "", "sh"], "(given by --stop-signal)", "1 to 64"),
        (["--cpus", "-1", "sh"], "(given by --cpus)", ""),
        (["--pids-limit", "-7", "sh"], "(given by --pids-limit)", ""),
        (["--init=perhaps", "sh"], "'perhaps' is not a boolean", "--init=true"),
        (["-w", "relative", "sh"], "(given by -w/--workdir)", "'/relative'"),
        (
            ["-v", "/tmp:rel", "sh"],
            "mounts[0].destination: 'rel' is not an absolute path (given by -v /tmp:rel)",
            "/rel",
        ),
        (["-v", "data:/x", "sh"], "named volumes are not supported", "/host/path"),
        (["-v", "/data", "sh"], "anonymous volumes are not supported", "--tmpfs /data"),
        (["-v", "/no/such:/x", "sh"], "'/no/such' does not exist on the host", "mkdir"),
        (["-v", "/tmp:/x:z", "sh"], "SELinux", "leave out"),
        (["-v", "/tmp:/x:odd", "sh"], "unknown option 'odd'", "ro"),
        (["-v", "/tmp:/x", "--tmpfs", "/x", "sh"], "mounted on already by item 0 (given by --tmpfs /x)", "remove"),
        (["--mount", "src=/tmp,dst=/x", "sh"], "docker's default", "type=bind"),
        (["--mount", "type=bind,src=/tmp", "sh"], "no target", "target="),
        (["--mount", "type=bind,dst=/x", "sh"], "no source", "source="),
        (["--mount", "type=bind,src=/tmp,dst=/x,odd=1", "sh"], "'odd' is unknown", "readonly"),
        (["--mount", "type=bind,src", "sh"], "'src' is not KEY=VALUE", "source="),
        (["--tmpfs", "x", "sh"], "(given by --tmpfs x)", "/x"),
        (["--device", "/nope", "sh"], "No such file or directory (given by --device /nope)", "of the host"),
        (["--device", "/etc/passwd", "sh"], "is not a device (given by --device /etc/passwd)", ""),
        (["--device", "a:b:c:d", "sh"], "is not HOST[:CONTAINER][:rwm]", "/dev/fuse"),
        (["--cap-add", "FLY", "sh"], "capabilities.add[0]: 'FLY' is not a capability (given by --cap-add)", ""),
        (["--ulimit", "nofile", "sh"], "--ulimit: 'nofile' is not NAME=VALUE", "1024"),
        (["--ulimit", "no=1", "sh"], "(given by --ulimit)", ""),
        (["--sysctl", "kernel.panic=1", "sh"], "(given by --sysctl)", ""),
        (["--network", "bridge", "sh"], "'bridge' is not supported", "--network none"),
        (["--pid", "parent", "sh"], "--pid: 'parent' is not supported", "container:NAME"),
        (["--security-opt", "odd", "sh"], "'odd' is not supported", "seccomp="),
        (["--security-opt", "label=type:x", "sh"], "parts of a label", "label=disable"),
        (["--security-opt", "seccomp=/no/such", "sh"], "No such file", "linux.seccomp"),
        (["--stop-signal", "FOO", "sh"], "(given by --stop-signal)", ""),
        (["--umask", "9", "sh"], "(given by --umask)", "022"),
        (["--timeout", "soon", "sh"], "'soon' is not a time", "1h30m"),
        (["--timeout", "1_0", "sh"], "'1_0' is not a time", "5"),
        (["--timeout", "9" * 400, "sh"], "is not a time", ""),
        (["--timeout", "0", "sh"], "'0' is not a time", ""),
        (["--driver-opt", "x=1", "sh"], "'x' is not DRIVER.KEY", "oci.runtime"),
        (["-e", "=x", "sh"], "has no name", "NAME=VALUE"),
        (["--env-file", "/no/such", "sh"], "--env-file: /no/such: No such file", ""),
        (["--env-file", "/dev/zero", "sh"], "--env-file: /dev/zero has more than 16 MiB", ""),
        (["--security-opt", "seccomp=/dev/zero", "sh"], "has more than 16 MiB", ""),
        (["--security-opt", "seccomp=/etc/passwd", "sh"], "is not JSON", ""),
        (["--bundle", "/no/such"], "/no/such", ""),
        (["--name", "a\nb", "sh"], "", ""),
        (["-h", "a\nb", "sh"], "(given by -h/--hostname)", ""),
    ],
)
def test_errors_name_the_option(
    words: list[str], message: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == 125
    output, errors = capsys.readouterr()
    assert output == ""
    first, *rest = errors.splitlines()
    assert first.startswith("execdrivers: ")
    assert message in first
    assert len(rest) <= 1
    assert remedy in "".join(rest)
    assert all(line.startswith("  try: ") for line in rest)


def test_seccomp_profiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.json"
    ocis = {"defaultAction": "SCMP_ACT_ALLOW"}
    dockers = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}],
    }
    for profile in (ocis, dockers):
        path.write_text(json.dumps(profile))
        assert spec("--security-opt", f"seccomp={path}", "sh").to_dict()["seccomp"] == profile
    asks = {**ocis, "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}
    path.write_text(json.dumps(asks))
    assert main(["run", "--security-opt", f"seccomp={path}", "sh"]) == 125
    assert "nobody to ask" in capsys.readouterr().err
    path.write_text(json.dumps({**ocis, "syscalls": 5}))
    assert main(["run", "--security-opt", f"seccomp={path}", "sh"]) == 125
    assert capsys.readouterr().err.startswith(
        "execdrivers: seccomp.syscalls: 5 is not a list (given by --security-opt)\n  try"
    )
    path.write_text(json.dumps({**asks, "listenerPath": "/x"}))
    assert spec("--security-opt", f"seccomp={path}", "sh").seccomp


@pytest.mark.parametrize(("text", "seconds"), [("2", 2), ("1.5", 1.5), ("500ms", 0.5), ("1h30m", 5400), ("5m", 300)])
def test_timeouts(text: str, seconds: float) -> None:
    assert COMMANDS["run"].parser().parse(["--timeout", text, "sh"])[0].timeout == seconds


def test_help_lists_every_option_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--interactive", "--memory SIZE", "--ephemeral[=SIZE]", "--help", "-h, --hostname NAME"):
        assert text.count(option) == 1, option
    assert "Examples:" in text
    assert main(["help", "run"]) == 0
    assert capsys.readouterr().out == text


def test_no_option_of_docker_means_another_thing_here(capsys: pytest.CaptureFixture[str]) -> None:
    """Docker's options that we have not are refused by name."""
    for option in ("--cgroup-parent=/x", "--quiet", "--health-cmd=x"):
        assert main(["run", option, "sh"]) == 125
        assert capsys.readouterr().err.endswith("\n  try: execdrivers run --help\n"), "a guess that misleads"
    for option in (
        "--restart=always",
        "--log-driver=syslog",
        "--detach-keys=a",
        "-p80:80",
        "-P",
        "--entrypoint=x",
        "-astdin",
    ):
        assert main(["run", option, "sh"]) == 125
        assert " is not supported: " in capsys.readouterr().err
    assert main(["run", "--stop-timeout", "5", "sh"]) == 125
    assert capsys.readouterr().err.endswith("\n  try: execdrivers stop -t SECONDS NAME\n")


def test_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    for command in ("run", "explain", "drivers", "ps", "inspect", "logs", "attach", "exec", "kill", "rm", "gc"):
        assert f"\n  {command} " in text
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("execdrivers 0.")


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspcet"]) == 125
    assert capsys.readouterr().err == "execdrivers: unknown command 'inspcet'\n  try: execdrivers inspect\n"


def test_root_may_come_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = COMMANDS["run"].parser()
    assert parser.parse(["--root", "/x", "sh"])[0].root == "/x"
    assert os.environ.get("EXECDRIVERS_ROOT") is None


def test_a_slow_reader_of_a_pipe_that_somebody_has_made_non_blocking(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--help"]) == 0
    whole = capsys.readouterr().out
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with subprocess.Popen([*PROGRAM, "run", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        with open(reader) as output:
            time.sleep(0.3)
            assert output.read() == whole
        assert process.stderr is not None and process.stderr.read() == ""
    assert process.returncode == 0
