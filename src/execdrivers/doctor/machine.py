"""How this machine is set up for us: cgroups, limits, records, drivers; and one container, as the proof."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from typing import TYPE_CHECKING

from execdrivers import cgroups
from execdrivers.doctor.check import Check, Trial
from execdrivers.doctor.trials import privileged
from execdrivers.errors import ExecDriverError, LaunchError

if TYPE_CHECKING:
    from execdrivers.registry import Registry

__all__ = ["container", "control_groups", "driver", "own_limits", "records"]

#: Open files below which a program with some dozens of containers runs out of them; each takes about five.
_FEW_FILES = 256
#: The same of processes.
_FEW_PROCESSES = 64
_ELSEWHERE = "export EXECDRIVERS_ROOT=DIR, or --root DIR, a directory of your own"


def control_groups() -> Check:
    """Limits of memory, processes and processor time take a cgroup of the container's own."""
    from execdrivers.spec import Resources

    trial = Trial("cgroups", "make cgroups that limit memory, processes and processor time")
    layout = cgroups.look()
    if not layout.v1 and not layout.v2:
        return trial.warning("no cgroup file system is mounted", "sudo mount -t cgroup2 none /sys/fs/cgroup")
    for controller in ("memory", "pids", "cpu"):
        if problem := layout.problem(controller):
            return trial.warning(f"{layout.kind}: {problem.reason}", problem.remedy)
    wanted = cgroups.plan(Resources(memory="64M", pids=16, cpus=0.5), f"doctor-{os.getpid()}", layout)
    try:
        made = cgroups.create(wanted)
    except LaunchError as error:
        return trial.warning(f"{layout.kind}: {error.message}", error.remedy)
    cgroups.remove(made)
    return trial.ok(f"{layout.kind}: made below {', '.join(sorted({os.path.dirname(group.path) for group in made}))}")


def own_limits() -> Check:
    """The caller's own, which its containers' plumbing counts against."""
    trial = Trial("own limits", "getrlimit(2) of open files and processes")
    files, processes = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    shown = [str(limit) if limit != resource.RLIM_INFINITY else "unlimited" for limit in (files, processes)]
    found = f"{shown[0]} open files, {shown[1]} processes"
    if files != resource.RLIM_INFINITY and files < _FEW_FILES:
        return trial.warning(found, "ulimit -n 1024")
    if processes != resource.RLIM_INFINITY and processes < _FEW_PROCESSES and not privileged():
        return trial.warning(found, "ulimit -u 1024")
    return trial.ok(found)


def records(root: str) -> Check:
    """The state root must take files, and be the caller's alone."""
    trial = Trial("records", f"make a file in {root}")
    made = not os.path.isdir(root)
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
        status = os.stat(root)
        if made:
            os.rmdir(root)
    except OSError as error:
        return trial.problem(f"{error.filename or root}: {error.strerror}", _ELSEWHERE)
    if status.st_uid != os.geteuid():
        return trial.problem(f"{root} belongs to uid {status.st_uid}", _ELSEWHERE)
    if status.st_mode & 0o022:
        return trial.warning(f"{root} can be written to by others", f"chmod go-w {root}")
    return trial.ok("made")


def driver(name: str, registry: Registry) -> Check:
    """Whether it can run here at all."""
    trial = Trial(f"driver {name}", "ask it")
    try:
        probe = registry.probe(name)
    except ExecDriverError as error:
        return trial.warning(error.message, error.remedy)
    if probe.available:
        lacking = len(probe.missing)
        more = f", {lacking} that it knows of cannot be had here: execdrivers drivers -v {name}" if lacking else ""
        return trial.ok(f"{len(probe.features)} features{more}")
    reasons = "; ".join(problem.reason for problem in probe.problems)
    return trial.warning(reasons, "; ".join(problem.remedy for problem in probe.problems if problem.remedy))


def container(registry: Registry) -> Check:
    """The proof of it all."""
    from execdrivers.engine import Engine

    trial = Trial("container", "run `true` in the host's root, with the driver that auto chooses")
    with tempfile.TemporaryDirectory(prefix="execdrivers-doctor-") as root, Engine(root, registry=registry) as engine:
        start = time.perf_counter()
        try:
            done = engine.run(["true"], timeout=30)
        except ExecDriverError as error:
            return trial.problem(error.message, error.remedy)
        taken = time.perf_counter() - start
    if done.returncode:
        return trial.problem(f"it {done.exit}", "execdrivers run -- true")
    return trial.ok(f"ran in {1000 * taken:.1f} ms")
