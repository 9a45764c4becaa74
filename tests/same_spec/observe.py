"""Runs one case on one driver and writes down what could be seen of it, by name, from inside and from the host.

What must differ between any two containers (ids, pids, the place of the rootfs) is replaced by words.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import attrs

from execdrivers import PIPE, Container, ContainerSpec, Engine, ExecDriverError, LaunchError, SpecError
from execdrivers.defaults import MASKED_PATHS
from execdrivers.features import required
from execdrivers.testing import host
from execdrivers.testing.program import Attempt, Report, make_rootfs

from .specs import ATTEMPTS, CONTAINED_ATTEMPTS, LISTENER, Case, Place

__all__ = ["ID", "WHY", "Seen", "lacking", "observe"]

#: Every container has this name, whatever its driver: it is seen as host name and in paths.
ID = f"same-{os.getpid()}"

#: Name → value that prints well; equal when the containers are.
Seen = dict[str, Any]

#: The words in which a container was refused, which are the driver's own.
WHY = "refused/why"

_SECONDS = 60.0


def lacking(engine: Engine, driver: str, spec: ContainerSpec) -> dict[str, str]:
    """Feature → field, of what the spec asks for and the driver does not declare here."""
    features = engine.registry.probe(driver).features
    return {feature: field for feature, field in required(spec).items() if feature not in features}


def observe(engine: Engine, driver: str, case: Case, program: Path, directory: Path) -> Seen:
    """All observations of one run. What the driver raises is an observation as well."""
    place = _make_place(directory, program)
    spec = ContainerSpec.build(_command(driver, case), **case.spec_fields(place))
    try:
        with engine.create(spec, driver=driver, name=ID, stdin=PIPE, stdout=PIPE, stderr=PIPE) as container:
            seen = _watch(container, case)
    except ExecDriverError as error:
        seen = _told(error)
    return _clean(seen | _left(place), list(_words(place)))


def _make_place(directory: Path, program: Path) -> Place:
    shutil.rmtree(directory, ignore_errors=True)
    place = Place(rootfs=directory / "rootfs", data=directory / "data", program=program)
    make_rootfs(place.rootfs, program)
    for name in ("mnt", "scratch"):
        (place.rootfs / name).mkdir()
    (place.data / "below").mkdir(parents=True)
    (place.data / "file").write_text("content\n")
    (place.data / "below/deep").write_text("deep\n")
    (place.data / "link").symlink_to("file")
    shutil.copy(program, place.data / "program")
    return place


def _attempts(driver: str, case: Case) -> list[list[str]]:
    if case.args is not None:
        return []
    fields = case.fields if isinstance(case.fields, dict) else {}
    shared = {kind for kind, value in fields.get("namespaces", {}).items() if value == "host"}
    contained = driver != "chroot" and not shared & {"mount", "uts"}
    words = [*ATTEMPTS, *case.also, *(CONTAINED_ATTEMPTS if contained else ())]
    return [word.split() if isinstance(word, str) else list(word) for word in words]


def _command(driver: str, case: Case) -> list[str]:
    if case.args is not None:
        return list(case.args)
    words = ["/bin/probe", "report", ",", "line"]
    for attempt in _attempts(driver, case):
        words += [",", *attempt]
    return [*words, ",", *case.end.split()]


# --- the run ----------------------------------------------------------------------------------------------------


def _watch(container: Container, case: Case) -> Seen:
    """It reports, stands still until the host has looked at it, tries what it is to try, and ends."""
    seen: Seen = {"state/created": container.state}
    # Who listens on the host must not be reached from another network namespace.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{LISTENER}")
        listener.listen()
        container.start()
        seen["state/started"] = container.state
        report = _report(container)
        seen |= _of_report(report, container.spec) | _of_host(container)
        output, errors = container.communicate(b"\n", timeout=_SECONDS)
    lines = (output or b"").replace(b"\r\n", b"\n").lstrip(b"\n").splitlines()
    for words, line in zip_longest(_attempts(container.driver, case), lines):
        seen |= _of_line(words or ["nothing"], line)
    seen["errors"] = (errors or b"").decode()
    seen |= {f"exit/{name}": value for name, value in attrs.asdict(container.wait()).items()}
    seen["state/ended"] = container.state
    return seen


def _report(container: Container) -> Report:
    """The first line of the output that is one; others may come before it."""
    assert container.stdout is not None
    stream, data, deadline = container.stdout.fileno(), b"", time.monotonic() + _SECONDS
    while not (data.endswith(b"\n") and b'"fds"' in data):
        ready, _, _ = select.select([stream], [], [], deadline - time.monotonic())
        assert ready, f"{container}: no report, but {data[-500:]!r}"
        some = os.read(stream, 1 << 16)
        assert some, f"{container}: no report, but {data[-500:]!r}"
        data += some
    return Report.parse(data.replace(b"\r\n", b"\n").splitlines()[-1])


def _told(error: ExecDriverError) -> Seen:
    seen: Seen = {"refused": type(error).__name__, WHY: str(error)}
    if isinstance(error, SpecError):
        seen["refused/field"] = error.field
    if isinstance(error, LaunchError):
        seen |= {"refused/exit": error.exit.code, "refused/errno": error.errno}
    return seen


# --- from inside ------------------------------------------------------------------------------------------------


def _of_line(words: list[str], line: bytes | None) -> Seen:
    name = f"try {shlex.join(words)[:60]}"
    if line is None:
        return {name: "not come to it"}
    if line.startswith(b'{"command":'):
        attempt = Attempt.parse(line)
        return {name: (attempt.errno or "ok", attempt.result)}
    return {name: line.decode("utf-8", "surrogateescape")}


#: Of `Report` as they are.
_PLAIN = """
cwd uid gid groups no_new_privs seccomp securebits umask blocked ignored nice policy priority
ioprio cpus personality hostname domainname machine controlling foreground winsize interfaces oom_score_adj apparmor
""".split()

#: Lines of /proc/self/status; the others say the same as `_PLAIN`, or differ from run to run.
_STATUS = """
Umask TracerPid Uid Gid Groups NStgid NSpid NSsid Kthread Threads SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm
CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters Speculation_Store_Bypass SpeculationIndirectBranch
Cpus_allowed_list Mems_allowed_list CoreDumping THP_enabled
""".split()


def _of_report(report: Report, spec: ContainerSpec) -> Seen:
    seen: Seen = {name: report.get(name) for name in _PLAIN}
    seen["argv"] = "as given" if report["argv"] == list(spec.args) else report["argv"]
    seen["env"] = sorted(report.env)
    seen |= {f"env/{name}": value for name, value in report.env.items()}
    seen["pid"] = 1 if report["pid"] == 1 else "another"
    seen["ppid"] = report["ppid"] if report["ppid"] < 2 else "another"
    seen |= {name: "own" if report[name] == report["pid"] else "another" for name in ("pgid", "sid")}
    seen |= {f"rlimit/{name}": tuple(value) for name, value in report["rlimits"].items()}
    seen |= {f"capabilities/{kind}": sorted(report.capabilities(kind)) for kind in report["capabilities"]}
    seen["root"] = sorted(report["root"] or ())
    processes = report.processes or []
    seen["processes"] = len(processes) if len(processes) < 4 else "the host's"
    seen["proc"] = None if report["proc"] is None else sorted(set(report["proc"]) - {*map(str, processes)})
    for fd, facts in report["fds"].items():
        target = facts["target"] and facts["target"].partition(":")[0]
        seen[f"fd/{fd}"] = (stat.filemode(facts["type"]), facts["flags"] & os.O_ACCMODE, facts["tty"], target)
    seen["fds"] = sorted(map(int, report["fds"]))
    for name, facts in (report["dev"] or {}).items():
        mode = stat.filemode(facts["type"] | facts["mode"])
        seen[f"dev/{name}"] = (mode, facts["major"], facts["minor"], facts["uid"], facts["gid"], facts.get("target"))
    seen["dev"] = sorted(report["dev"] or ())
    seen |= {f"namespace/{kind}": _kind(kind, inode) for kind, inode in report["namespaces"].items()}
    seen |= _of_mounts(report, spec)
    status = dict(line.split(":\t", 1) for line in (report["status"] or "").splitlines() if ":\t" in line)
    # One pid for each namespace that it is in, seen from /proc's.
    status |= {name: str(len(status[name].split())) for name in ("NStgid", "NSpid", "NSsid") if name in status}
    seen |= {f"status/{name}": status.get(name) for name in _STATUS}
    for line in (report["cgroup"] or "").splitlines():
        _, names, path = line.split(":", 2)
        seen[f"cgroup/{names}"] = path
    now = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
    seen |= {f"clock/{name}": round((report[name] - time.clock_gettime(clock)) / 100) for name, clock in now.items()}
    return seen


def _kind(kind: str, inode: int) -> str:
    return "host" if host.namespaces().get(kind) == inode else "private"


def _of_mounts(report: Report, spec: ContainerSpec) -> Seen:
    """Mounts, but for those by which a driver makes device nodes and hides paths: what counts is what comes of them."""
    masked = MASKED_PATHS if spec.masked_paths is None else spec.masked_paths
    nodes = {f"/dev/{name}" for name, node in (report["dev"] or {}).items() if not stat.S_ISDIR(int(node["type"]))}
    nodes |= {device.path for device in spec.devices}
    points = {point: mount for point, mount in report.mounts.items() if point not in nodes}
    seen: Seen = {"mounts": sorted(points)}
    for point, mount in points.items():
        if point in masked:
            seen[f"mount/{point}/hidden"] = mount.type in ("tmpfs", "devtmpfs")
            continue
        # Inodes of a tmpfs follow the host's memory, where nobody gives their number; where the layers of an ephemeral
        # root lie is the driver's own choice.
        ours = ("nr_inodes=", "inode64", *(("lowerdir=", "upperdir=", "workdir=") if point == "/" else ()))
        odd = [option for option in mount.super_options if option.startswith(ours)]
        seen |= {
            f"mount/{point}/type": mount.type,
            f"mount/{point}/root": mount.root,
            f"mount/{point}/ro": "ro" in mount.options | mount.super_options,
            f"mount/{point}/nodev": "nodev" in mount.options,
            f"mount/{point}/options": sorted(mount.options - {"ro", "rw", "nodev"}),
            f"mount/{point}/data": sorted(mount.super_options - {"ro", "rw", *odd}),
            f"mount/{point}/propagation": sorted(mount.propagation),
        }
    return seen


# --- from the host ----------------------------------------------------------------------------------------------

#: Limit → its controller, and the file of v1 and of v2. Which of them a driver makes a cgroup for is its own choice.
_LIMITS = {
    "memory": ("memory", "memory.limit_in_bytes", "memory.max"),
    "memory-swap": ("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
    "memory-reservation": ("memory", "memory.soft_limit_in_bytes", "memory.low"),
    "memory-swappiness": ("memory", "memory.swappiness", ""),
    "oom-kill-disable": ("memory", "memory.oom_control", "memory.oom.group"),
    "pids": ("pids", "pids.max", "pids.max"),
    "cpu-shares": ("cpu", "cpu.shares", "cpu.weight"),
    "cpu-quota": ("cpu", "cpu.cfs_quota_us", "cpu.max"),
    "cpu-period": ("cpu", "cpu.cfs_period_us", "cpu.max"),
    "cpuset-cpus": ("cpuset", "cpuset.cpus", "cpuset.cpus.effective"),
    "cpuset-mems": ("cpuset", "cpuset.mems", "cpuset.mems.effective"),
    "block-io": ("blkio", "blkio.bfq.weight", "io.weight"),
}


def _of_host(container: Container) -> Seen:
    pid = container.pid
    if pid is None or not host.alive(pid):
        return {"host": "ended already"}
    seen: Seen = {f"host/namespace/{kind}": _kind(kind, inode) for kind, inode in host.namespaces(pid).items()}
    for name, (controller, v1, v2) in _LIMITS.items():
        seen[f"host/limit/{name}"] = _limit(pid, controller, v1, v2)
    status = host.status(pid)
    seen |= {f"host/{name}": status[name] for name in ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapBnd")}
    seen["host/oom_score_adj"] = Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
    seen["host/root"] = os.readlink(f"/proc/{pid}/root")
    seen["host/descriptors"] = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
    # Its own session: no signal of a terminal that we may have reaches it.
    seen["host/session"] = "ours" if os.getsid(pid) == os.getsid(0) else "another"
    if "pids" in container._registry.probe(container.driver).features:
        seen["host/pids"] = len(container.pids())
    return seen


def _limit(pid: int, controller: str, v1: str, v2: str) -> str | None:
    """What is in force: in the root of a hierarchy there is no file, and what a new cgroup would have."""
    try:
        return host.cgroup_file(pid, controller, v1, v2)
    except FileNotFoundError:
        return {"memory": "9223372036854771712", "blkio": "100"}.get(controller, "max")


def _left(place: Place) -> Seen:
    """What is in the directories of the host afterwards: a driver writes nothing there unasked."""
    paths = sorted(path for top in (place.rootfs, place.data) for path in top.rglob("*"))
    return {f"left/{path}": stat.filemode(path.lstat().st_mode) for path in paths}


# --- what must differ -------------------------------------------------------------------------------------------


def _clean(value: Any, words: Sequence[tuple[str, str]]) -> Any:
    """With words for the id and for the directories of this run."""
    if isinstance(value, str):
        for text, word in words:
            value = value.replace(text, word)
        return value
    if isinstance(value, dict):
        return {_clean(key, words): _clean(item, words) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_clean(item, words) for item in value)
    return value


def _words(place: Place) -> Iterator[tuple[str, str]]:
    yield ID, "ID"
    for name in ("rootfs", "data", "program"):
        path = str(getattr(place, name))
        yield path, name.upper()
        # mountinfo tells the path within its file system, which may be a part of ours.
        point = path
        while not os.path.ismount(point):
            point = os.path.dirname(point)
        if point != "/":
            yield path.removeprefix(point), name.upper()
