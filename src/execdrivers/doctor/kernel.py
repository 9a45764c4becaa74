"""What the kernel lets us do: system calls, namespaces, mounts, filters."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import tempfile

from execdrivers import apparmor, kernel, seccomp, subids
from execdrivers.doctor.check import Check, Trial
from execdrivers.doctor.trials import contained, own_ids, privileged, refusal
from execdrivers.errors import LaunchError
from execdrivers.launcher import landlock_features, operation
from execdrivers.launcher.ids import map_ids_by_tool
from execdrivers.spec import IdMapping

__all__ = [
    "filters",
    "landlock",
    "mandatory_access",
    "namespaces",
    "overlay",
    "proc",
    "subordinate_ids",
    "system_calls",
    "user_namespace",
]

#: Number (the same on x86_64 and aarch64) → name of the newest system calls that driver native takes.
_SYSTEM_CALLS = {
    428: "open_tree",
    429: "move_mount",
    430: "fsopen",
    431: "fsconfig",
    432: "fsmount",
    434: "pidfd_open",
    435: "clone3",
    436: "close_range",
    437: "openat2",
    442: "mount_setattr",
}
#: sysctl → the value with which ordinary users have no user namespaces, and one with which they have.
_KNOBS = {
    "kernel.unprivileged_userns_clone": ("0", "1"),  # Debian's
    "user.max_user_namespaces": ("0", "28633"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),  # Ubuntu's
}
_UNFILTERED = "allow it in the container that this runs in: docker run --security-opt seccomp=unconfined"


def system_calls() -> Check:
    """Whether the newest that are needed are there."""
    trial = Trial("system calls", f"call {', '.join(_SYSTEM_CALLS.values())}, with arguments that cannot be right")
    libc = ctypes.CDLL(None, use_errno=True)
    missing = []
    for number, name in _SYSTEM_CALLS.items():
        libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
        if ctypes.get_errno() == errno.ENOSYS:
            missing.append(name)
    release = platform.release()
    if not missing:
        return trial.ok(f"all are there (Linux {release})")
    if _filtered():
        return trial.problem(f"a seccomp filter keeps us from {', '.join(missing)}", _UNFILTERED)
    return trial.problem(f"Linux {release} has no {', '.join(missing)}", "run Linux 5.12 or later")


def user_namespace() -> Check:
    """Ordinary users' containers begin with one."""
    trial = Trial("user namespace", "clone into a new one, map our own ids, change mounts in it")
    error = refusal(("user", "mount"), (*own_ids(), operation("propagation", "private")))
    closed = _closed_knob()
    if error is not None:
        remedy = closed[1] if closed else _UNFILTERED if _filtered() else error.remedy
        return (trial.warning if privileged() else trial.problem)(error.message, remedy)
    if privileged() and closed:
        return trial.warning(f"root has them; from ordinary users they are kept by {closed[0]}", closed[1])
    return trial.ok("made")


def _closed_knob() -> tuple[str, str] | None:
    """The first sysctl that stands in the way, and the command that opens it."""
    for name, (closed, opened) in _KNOBS.items():
        if kernel.read("/proc/sys/" + name.replace(".", "/")) == closed:
            return f"{name}={closed}", f"sudo sysctl -w {name}={opened}"
    return None


def _filtered() -> bool:
    """Whether a seccomp filter is in force for us: then we are in a container ourselves."""
    return kernel.status().get("Seccomp") == "2"


def subordinate_ids() -> Check:
    """With them an ordinary user's container has more than one uid and gid."""
    trial = Trial("subordinate ids", "map those of /etc/subuid and /etc/subgid into a user namespace with newuidmap")
    if privileged():
        return trial.ok("not needed with privilege")
    uid, kinds = os.geteuid(), ("uid", "gid")
    name = subids.user_name(uid)
    if name == str(uid):
        remedy = f"sudo useradd --uid {uid} NAME, which grants a range as well"
        return trial.warning(f"uid {uid} has no account, and newuidmap(1) serves none without", remedy)
    if not all(map(subids.tool, kinds)):
        return trial.warning("newuidmap and newgidmap are not installed", "sudo apt-get install uidmap")
    ranges = {kind: subids.granted(kind, uid) for kind in kinds}
    lacking = [f"/etc/sub{kind}" for kind in kinds if not ranges[kind]]
    if lacking:
        remedy = f"echo {name}:100000:65536 | sudo tee -a {' '.join(lacking)}, or another range that nobody has"
        return trial.warning(f"{' and '.join(lacking)} grant {name} no range", remedy)

    def map_them(pid: int) -> None:
        for kind, own in (("uid", uid), ("gid", os.getegid())):
            start, size = ranges[kind][0]
            mappings = (IdMapping(0, own, 1), IdMapping(1, start, size))
            map_ids_by_tool(subids.tool(kind) or "", pid, mappings)

    try:
        error = refusal(("user",), (operation("sync", "caller"), operation("identity", 1, 1, 1, (1,))), map_them)
    except LaunchError as raised:
        error = raised
    if error:
        return trial.warning(error.message, error.remedy)
    return trial.ok(", ".join(f"{range_.size} {kind}s" for kind in kinds for range_ in ranges[kind]))


def namespaces() -> Check:
    """Those that every container has."""
    trial = Trial("namespaces", "clone into new ones of pid, mount, uts, ipc, network and cgroup")
    error = contained(operation("hostname", "doctor"), operation("loopback"))
    return trial.ok("made") if error is None else trial.problem(error.message, error.remedy)


#: The host's root as a container's.
_ROOT = operation("root", "/", 1, ("ro", "nosuid", "nodev"))


def proc() -> Check:
    """Refused in a container whose own /proc has masked paths: a new one would show what they hide."""
    trial = Trial("proc", "mount the procfs of a new pid namespace")
    error = contained(_ROOT, operation("mount", "proc", "proc", "/proc", ("nosuid", "nodev", "noexec"), ()))
    if error is None:
        return trial.ok("mounted")
    remedy = "unmask /proc in the container that this runs in: docker run --security-opt systempaths=unconfined"
    return trial.problem(error.message, remedy if error.errno == errno.EPERM else error.remedy)


def overlay() -> Check:
    """What `ephemeral` takes."""
    trial = Trial("overlay", "lay an overlay in memory over a directory")
    with tempfile.TemporaryDirectory(prefix="execdrivers-doctor-") as directory:
        rootless = int(not privileged())
        error = contained(operation("root_overlay", directory, ("nodev",), rootless, ("mode=700",)))
    if error is None:
        return trial.ok("mounted")
    remedy = {errno.ENODEV: "sudo modprobe overlay", errno.EPERM: "run as root"}.get(error.errno or 0, error.remedy)
    return trial.warning(f"{error.message}: nothing can be ephemeral", remedy)


def filters() -> Check:
    """Without them no container runs, unless its spec says that it is to have none."""
    trial = Trial("seccomp", "load libseccomp, and ask the kernel for its filters")
    if problem := seccomp.problem():
        return trial.warning(problem.reason, problem.remedy)
    return trial.ok("both are there")


def mandatory_access() -> Check:
    """A profile of AppArmor's below every container, where the kernel has it."""
    trial = Trial("apparmor", "look for AppArmor, and for the profile of containers that name none")
    if problem := apparmor.problem():
        return trial.ok(f"none: {problem.reason}")
    label = apparmor.label()
    if label != "unconfined":
        return trial.ok(f"we are confined by {label} ourselves, and so are our containers")
    if apparmor.loaded(apparmor.DEFAULT):
        return trial.ok(f"{apparmor.DEFAULT} is loaded")
    if problem := apparmor.load_problem():
        remedy = "sudo execdrivers apparmor load" if os.geteuid() else problem.remedy
        return trial.warning(f"{apparmor.DEFAULT} is not loaded: {problem.reason}", remedy)
    return trial.ok(f"{apparmor.DEFAULT} will be loaded for the first container")


def landlock() -> Check:
    """An extra layer, without privilege."""
    trial = Trial("landlock", "ask the kernel for the version of its Landlock")
    lacking = {feature: problem for feature, problem in landlock_features().items() if problem}
    if lacking:
        first = next(iter(lacking.values()))
        return trial.warning(f"not to be had: {', '.join(lacking)}: {first.reason}", first.remedy)
    return trial.ok("all of it")
