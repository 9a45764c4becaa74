"""The default profile: what it lets through, compared with Docker's, and what the kernel makes of it."""

from __future__ import annotations

import functools
import json
import os
import re
import runpy
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from execdrivers import ContainerSpec, Engine, defaults, seccomp

from . import bpf

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / ".venv/share/docker-seccomp.json"

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
with_docker = pytest.mark.skipif(not DOCKER.exists(), reason="needs Docker's profile (tools/setup test fetches it)")

#: Allowed by us and not by Docker 20.10, which did not know of them; Docker of today allows them.
YOUNGER = set(
    "cachestat fchmodat2 futex_requeue futex_wait futex_wake getxattrat listmount listxattrat lsm_get_self_attr "
    "lsm_list_modules lsm_set_self_attr map_shadow_stack mseal removexattrat set_mempolicy_home_node setxattrat "
    "statmount uretprobe clock_settime64".split()
)
#: Conditions that Docker 20.10 did not have.
YOUNGER_CONDITIONS = {"bpf": "CAP_BPF", "perf_event_open": "CAP_PERFMON"}
#: Allowed by the Docker of some time or other, and not by us: the tighter of two is taken.
TIGHTER = {
    "io_uring_enter": "removed from Docker's in 25",
    "io_uring_register": "removed from Docker's in 25",
    "io_uring_setup": "removed from Docker's in 25",
    "name_to_handle_at": "takes CAP_SYS_ADMIN in Docker 20.10",
    "pkey_alloc": "denied in Docker 20.10",
    "pkey_free": "denied in Docker 20.10",
    "pkey_mprotect": "denied in Docker 20.10",
    "process_vm_readv": "takes CAP_SYS_PTRACE in Docker 20.10",
    "process_vm_writev": "takes CAP_SYS_PTRACE in Docker 20.10",
    "swapcontext": "of a processor that the launcher does not run on",
}
#: Families of sockets that Docker 20.10 allows, and the Docker of today does not.
CLOSED_FAMILIES = {12, 19, 20, 23, 25, 34, 37, 38, 40}

ADDED = [
    "",
    "BPF",
    "DAC_READ_SEARCH",
    "PERFMON",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
]
ADDED += ["SYS_PTRACE", "SYS_RAWIO", "SYS_TIME", "SYS_TTY_CONFIG", "ALL"]


def capabilities(added: str) -> set[str]:
    if added == "ALL":
        return set(defaults.ALL_CAPABILITIES)
    return {*defaults.CAPABILITIES, *([f"CAP_{added}"] if added else [])}


def program(added: str = "") -> bpf.Program:
    compiled = seccomp.compile(ContainerSpec(["-"]), capabilities(added))
    assert compiled is not None
    return bpf.Program(compiled.program)


@functools.lru_cache
def numbers(header: str) -> Mapping[str, int]:
    """Name → number, by the kernel's headers."""
    source = f'#include "{header}"\n'
    done = subprocess.run(["cc", "-E", "-dM", "-"], input=source, capture_output=True, text=True, check=True)
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)\b", done.stdout)}


ARCHITECTURES = {bpf.X86_64: "asm/unistd_64.h", bpf.X86: "asm/unistd_32.h"}

#: Arguments to be tried, since rules are about them.
SAMPLES: Mapping[str, Iterable[tuple[int, ...]]] = {
    "clone": [(0,), (0x3D0F00,), (0x10000000,), (0x02000000,), (0x00020000,), (0x7E020000,), (0x80,), (1 << 40,)],
    "personality": [
        (0,),
        (8,),
        (0x20000,),
        (0x20008,),
        (0xFFFFFFFF,),
        (0x40000,),
        (1,),
        (2**64 - 1,),
    ],
    "socket": [(family, 1, 0) for family in range(60)],
}


def attempts(name: str, arch: int) -> Iterable[tuple[int, ...]]:
    widest = 64 if arch == bpf.X86_64 else 32
    return [args for args in SAMPLES.get(name, [()]) if max(args, default=0) < 1 << widest]


def says_docker(profile: Mapping[str, Any], added: str, name: str, args: tuple[int, ...]) -> bool:
    """What Docker's table says, read as Docker reads it."""
    caps = capabilities(added)
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if name not in rule["names"] or rule["action"] != "SCMP_ACT_ALLOW":
            continue
        if not set(includes.get("caps") or ()) <= caps or set(excludes.get("caps") or ()) & caps:
            continue
        if includes.get("arches") and "amd64" not in includes["arches"]:
            continue
        if all(_holds(item, args) for item in rule.get("args") or ()):
            return True
    return False


def _holds(item: Mapping[str, Any], args: tuple[int, ...]) -> bool:
    value = args[item["index"]] if item["index"] < len(args) else 0
    if item["op"] == "SCMP_CMP_MASKED_EQ":
        return value & item["value"] == item.get("valueTwo", 0)
    if item["op"] == "SCMP_CMP_LT":
        return value < int(item["value"])
    assert item["op"] == "SCMP_CMP_EQ"
    return value == int(item["value"])


@with_docker
@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("arch", ARCHITECTURES, ids=["64", "32"])
def test_what_is_allowed_is_what_docker_allows(added: str, arch: int) -> None:
    docker, ours = json.loads(DOCKER.read_text()), program(added)
    more, less = set(), set()
    for name, number in numbers(ARCHITECTURES[arch]).items():
        for args in attempts(name, arch):
            allowed = ours(number, args, arch) == bpf.ALLOW
            if allowed and not says_docker(docker, added, name, args):
                more.add((name, args))
            if not allowed and says_docker(docker, added, name, args):
                less.add((name, args))
    condition = {name for name, needed in YOUNGER_CONDITIONS.items() if needed in capabilities(added)}
    assert {name for name, _ in more} <= YOUNGER | condition
    assert {name for name, _ in less} <= TIGHTER.keys() | {"socket"}
    assert {args[0] for name, args in less if name == "socket"} <= CLOSED_FAMILIES | {0} | set(range(46, 60))


@with_docker
def test_the_table_is_what_its_script_writes() -> None:
    script = runpy.run_path(str(ROOT / "tools/seccomp-profile"))
    if '"name_to_handle_at"' not in DOCKER.read_text().split('"CAP_SYS_ADMIN"')[0].rsplit("names", 1)[1]:
        pytest.skip("needs the profile of Docker 20.10; this is another")
    assert script["written"](script["make"](json.loads(DOCKER.read_text()))) == seccomp.profile.TABLE.read_text()


@pytest.mark.parametrize(
    ("name", "added"),
    [
        *[(name, "SYS_ADMIN") for name in "mount umount2 unshare setns fsopen bpf perf_event_open quotactl".split()],
        ("bpf", "BPF"),
        ("perf_event_open", "PERFMON"),
        ("kcmp", "SYS_PTRACE"),
        ("process_vm_readv", "SYS_PTRACE"),
        ("open_by_handle_at", "DAC_READ_SEARCH"),
        ("init_module", "SYS_MODULE"),
        ("reboot", "SYS_BOOT"),
        ("clock_settime", "SYS_TIME"),
        ("mbind", "SYS_NICE"),
        ("iopl", "SYS_RAWIO"),
    ],
)
def test_what_a_capability_opens(name: str, added: str) -> None:
    number = numbers("asm/unistd_64.h")[name]
    assert program()(number) == bpf.errno(1)
    assert program(added)(number) == bpf.ALLOW


@pytest.mark.parametrize(
    "name", "add_key keyctl request_key kexec_load swapon pivot_root userfaultfd io_uring_setup".split()
)
def test_what_nothing_opens(name: str) -> None:
    assert program("ALL")(numbers("asm/unistd_64.h")[name]) == bpf.errno(1)


def test_threads_but_no_namespaces() -> None:
    clone, clone3 = numbers("asm/unistd_64.h")["clone"], numbers("asm/unistd_64.h")["clone3"]
    default = program()
    assert default(clone, (0x3D0F00,)) == bpf.ALLOW
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert default(clone, (0x11 | namespace,)) == bpf.errno(1)
        assert program("SYS_ADMIN")(clone, (0x11 | namespace,)) == bpf.ALLOW
    assert default(clone3) == bpf.errno(38), "a C library falls back to clone"
    assert program("SYS_ADMIN")(clone3) == bpf.ALLOW


def test_families_of_sockets() -> None:
    number = numbers("asm/unistd_64.h")["socket"]
    default = program()
    for family in (1, 2, 10, 16, 17, 29, 44, 45):
        assert default(number, (family, 1, 0)) == bpf.ALLOW, family
    for family in (0, 12, 38, 40, 46, 1 << 32 | 40):  # ALG, VSOCK
        assert default(number, (family, 1, 0)) == bpf.errno(1), family


def test_what_is_younger_than_the_profile_is_not_there() -> None:
    """A C library that tries it falls back on ENOSYS, but not on EPERM."""
    default = program()
    assert default(462) == bpf.ALLOW, "mseal, which libseccomp 2.5.4 does not know"
    assert default(467) == default(1000) == default(0x3FFFFFFF) == bpf.errno(38)
    assert default(1000, (), bpf.X86) == bpf.errno(38)


def test_other_architectures_end() -> None:
    assert program()(0, (), bpf.AARCH64) in (bpf.KILL_THREAD, bpf.KILL_PROCESS)


def _answers(engine: Engine, rootfs: Path, calls: Mapping[str, tuple[int, ...]], **fields: Any) -> dict[str, int]:
    """Name → errno that the kernel answers in a container."""
    words = [f"syscall {' '.join(map(str, call))}" for call in calls.values()]
    args = ["/bin/probe", *" , ".join(words).split()]
    done = engine.run(args, rootfs=rootfs, driver="native", stdout=-1, **fields)
    lines = (done.stdout or b"").splitlines()
    assert len(lines) == len(calls), done
    return {name: json.loads(line)["errno"] for name, line in zip(calls, lines, strict=True)}


@pytest.fixture(scope="module")
def probe_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from execdrivers.testing.program import build, make_rootfs

    directory = tmp_path_factory.mktemp("probe")
    return make_rootfs(directory / "rootfs", build(directory), "/bin/probe")


@pytest.mark.needs("root")
def test_the_kernel_enforces_it(engine: Engine, probe_rootfs: Path) -> None:
    table = numbers("asm/unistd_64.h")
    calls = {
        name: (table[name], *args)
        for name, args in {
            "mount": (0, 0, 0, 0, 0),
            "unshare": (0,),
            "keyctl": (0, 0, 0),
            "bpf": (99, 0, 0),
            "perf_event_open": (0, 0, 0, 0, 0),
            "userfaultfd": (0,),
            "io_uring_setup": (0, 0),
            "clone3": (0, 0),
            "kcmp": (0, 0, 99, 0, 0),
            "socket": (40, 1, 0),
            "getppid": (),
        }.items()
    } | {"beyond": (900,)}
    expected = dict.fromkeys(calls, 1) | {"clone3": 38, "beyond": 38, "getppid": 0}
    assert _answers(engine, probe_rootfs, calls) == expected
    free = _answers(engine, probe_rootfs, calls, seccomp="unconfined")
    assert not {"unshare", "clone3", "kcmp", "socket"} & {name for name in free if free[name] == expected[name]}


@pytest.mark.parametrize("capabilities", [(), defaults.CAPABILITIES], ids=["none", "default"])
def test_the_launcher_may_wait_and_execute(capabilities: Iterable[str]) -> None:
    """What it does with the filter in force: in c/process.c from op_ready on, in c/exec.c from op_exec on."""
    calls = {
        "read": 0, "close": 3, "mmap": 9, "rt_sigprocmask": 14, "sendmsg": 46, "execve": 59, "sched_setaffinity": 203,
        "exit_group": 231, "faccessat": 269, "ppoll": 271,
    }  # fmt: skip
    compiled = seccomp.compile(ContainerSpec(["true"]), tuple(capabilities))
    assert compiled is not None
    program = bpf.Program(compiled.program)
    assert {name for name, number in calls.items() if program(number) != bpf.ALLOW} == set()
