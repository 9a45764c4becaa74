"""What a launcher reports as failed, in terms of the container: which step, on what, why, and what to do about it."""

from __future__ import annotations

import errno
import os

from execdrivers.errors import CommandNotExecutable, CommandNotFound, LaunchError
from execdrivers.launcher.operations import Operation

__all__ = ["clone_error", "failed", "hook_error", "step_error"]


def failed(step: str, path: str, number: int, detail: str = "", remedy: str = "") -> LaunchError:
    reason = os.strerror(number) + (f" ({detail})" if detail else "")
    message = " ".join(part for part in (f"{step}:", path and f"{path}:", reason) if part)
    return LaunchError(message, step=step, path=path, errno=number, remedy=remedy)


def clone_error(number: int) -> LaunchError:
    remedy = {
        errno.EPERM: "run as root, or allow user namespaces: sysctl user.max_user_namespaces (a chroot has none)",
        errno.ENOSPC: "a limit on nested or total namespaces is reached: raise /proc/sys/user/max_*_namespaces",
        errno.EAGAIN: "the limit on processes is reached (ulimit -u, pids cgroup)",
        errno.EUSERS: "user namespaces are nested too deep",
        errno.EMFILE: "the limit on open files is reached (ulimit -n)",
        errno.EINVAL: "the kernel does not take these namespaces together: is it older than 5.12?",
    }.get(number, "")
    return failed("clone", "", number, remedy=remedy)


def step_error(step: Operation | None, number: int, detail: str) -> LaunchError:
    if step is None:
        return failed("plan", "", number, detail)
    if step.name == "exec":
        return _exec_error(step, number, detail)
    if step.name == "hook":
        return _failed_hook(step, number, detail)
    shown = step.step()
    path = str(shown.args.get("destination") or shown.args.get("path") or "")
    if detail == "source":
        path, detail = str(shown.args.get("source")), ""
    return failed(shown.op, path, number, detail, _REMEDIES.get((shown.op, number), _GENERAL.get(number, "")))


_REMEDIES = {
    (
        "propagation",
        errno.EINVAL,
    ): "the caller's root is no mount point (a chroot?): bind it onto itself and enter that",
    ("chdir", errno.ENOENT): "make the working directory in the rootfs, or set another cwd",
    ("chdir", errno.ENOTDIR): "set cwd to a directory",
    ("chdir", errno.EACCES): "the user may not enter the working directory: set another cwd or user",
    ("bind", errno.EINVAL): "the kernel does not take these attributes, or this propagation, of the source",
    ("bind", errno.ENOTDIR): "source and destination must both be directories, or both not",
    ("rlimit", errno.EPERM): "a hard limit above the caller's own needs CAP_SYS_RESOURCE: ask for less",
    ("capabilities", errno.EPERM): "the caller lacks a capability that was asked for",
    ("keyring", errno.EDQUOT): "the user has too many keys: raise sysctl kernel.keys.maxkeys",
    ("scheduler", errno.EPERM): "a policy or nice value above the caller's takes CAP_SYS_NICE on the host; "
    "SCHED_DEADLINE also that no cpuset holds the process",
    ("scheduler", errno.EINVAL): "the kernel does not take these values together",
    ("scheduler", errno.EBUSY): "the processors have no time left for this runtime and period",
    ("io-priority", errno.EPERM): "IOPRIO_CLASS_RT takes CAP_SYS_NICE or CAP_SYS_ADMIN on the host",
    ("affinity", errno.EINVAL): "none of these processors is there, or the container's cpuset has none of them",
    ("write", errno.EACCES): "the value takes privilege on the host that the caller lacks",
    ("mount", errno.EINVAL): "check the mount's options",
    ("mount", errno.ENODEV): "the kernel does not have this file system",
    ("seccomp", errno.EINVAL): "the kernel does not know one of the profile's actions or flags: run a younger one",
    ("seccomp", errno.EACCES): "without no_new_privileges it takes CAP_SYS_ADMIN",
    ("apparmor", errno.ENOENT): "load the profile: apparmor_parser --replace FILE, or execdrivers apparmor load",
    ("apparmor", errno.EPERM): "mount a procfs at /proc, or set apparmor_profile='unconfined'",
    ("apparmor", errno.EXDEV): "something is mounted on the files of the container's /proc: leave those alone",
    ("selinux", errno.EINVAL): "the policy has no such label",
    ("selinux", errno.EACCES): "the policy does not let the caller execute programs with this label",
    ("apparmor", errno.EACCES): "the caller's own profile does not allow this change of profile",
    ("copy-up", errno.EPERM): "a device node is not copied: list it in devices, or take it out of the directory",
    ("copy-up", errno.ENOSPC): "what the tmpfs covers does not fit: give it a greater size= or nr_inodes=",
    ("copy-up", errno.EINVAL): "check the mount's options; in a user namespace every owner must be mapped",
    ("copy-up", errno.EOPNOTSUPP): "this kernel's tmpfs does not take the file's extended attributes",
    ("copy-up", errno.EACCES): "what the tmpfs covers must be readable",
    ("copy-up", errno.ENAMETOOLONG): "the directories are nested too deep to be copied",
    ("copy-up", errno.ESTALE): "it was exchanged while it was copied",
    ("write", errno.ERANGE): "a clock may not be below 0 or beyond 146 years (time_namespaces(7))",
    ("identity", errno.EINVAL): "the user namespace does not have this uid or gid, or one of the groups",
    ("write", errno.EINVAL): "the kernel does not take this value",
    ("write", errno.ENOENT): "the kernel does not have this file",
}
_GENERAL = {
    errno.EROFS: "the rootfs is read-only and lacks the directory: make it beforehand, or set ephemeral=True",
    errno.ELOOP: "a symbolic link stands in the way: name the real directory inside the rootfs",
    errno.EXDEV: "a symbolic link leads out of the rootfs: name the real directory inside it",
    errno.ENOENT: "make it in the rootfs beforehand, or set ephemeral=True",
    errno.ENOSPC: "the file system is full, or the limit on mounts (fs.mount-max) is reached",
    errno.EPERM: "the caller lacks the privilege for this",
}


def hook_error(point: str, path: str, problem: str, number: int = 0) -> LaunchError:
    """A hook of the spec that was not to be run, or that failed."""
    root = "in the container" if point == "start_container" else "of the host"
    remedy = {
        0: "it is given the container's state on its input: run it by hand with that",
        errno.ENOENT: f"the path is one {root}",
        errno.EACCES: "chmod +x it",
        errno.ETIMEDOUT: "raise the hook's timeout",
    }.get(number, "")
    step = f"hooks.{point}"
    return LaunchError(f"{step}: {path} {problem}", step=step, path=path, errno=number, remedy=remedy)


def _failed_hook(step: Operation, number: int, detail: str) -> LaunchError:
    """One that the launcher runs (c/hooks.c)."""
    point, path, timeout = step.args[0], step.args[1], step.args[4]
    if number == errno.EREMOTEIO:
        return hook_error(point, path, detail)
    if number == errno.ETIMEDOUT:
        return hook_error(point, path, f"did not end within {timeout} seconds and was killed", number)
    return hook_error(point, path, f"cannot be executed: {os.strerror(number)}", number)


def _exec_error(step: Operation, number: int, detail: str) -> LaunchError:
    args, env = step.args[2:]
    command = args[0]
    path = detail or command
    if number == errno.ENOENT and not detail:
        where = "" if "/" in command else " in PATH"
        return CommandNotFound(
            f"exec: {command}: not found{where} in the container",
            step="exec",
            path=path,
            errno=number,
            remedy="check the command's name, the rootfs and PATH",
        )
    if number == errno.ENOENT:
        return CommandNotFound(
            f"exec: {path}: the file is there, but the interpreter it names is not",
            step="exec",
            path=path,
            errno=number,
            remedy="install the script's #! interpreter, or the binary's dynamic loader, in the rootfs",
        )
    if number in (errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.EPERM):
        remedy = {
            errno.EACCES: "chmod +x it, and check that neither noexec nor the spec's landlock is in its way",
            errno.EPERM: "check that the spec's seccomp allows execve, and the file's type and permissions",
            errno.ENOEXEC: "it is neither a binary for this machine nor a script with a #! line",
        }.get(number, "check its type and permissions")
        return CommandNotExecutable(
            f"exec: {path}: {os.strerror(number)}", step="exec", path=path, errno=number, remedy=remedy
        )
    if number == errno.E2BIG:
        size = sum(len(text.encode(errors="surrogateescape")) + 1 for text in (*args, *env))
        remedy = (
            "args and env may take a quarter of the stack limit together and 128 KiB each: pass large data by stdin"
        )
        return failed(
            "exec", path, number, f"args and env hold {size:,} bytes in {len(args) + len(env)} strings", remedy
        )
    remedy = "raise pids: init and command are two" if number == errno.EAGAIN else ""
    return failed("exec", path, number, remedy=remedy)
