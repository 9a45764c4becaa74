"""Starts the launcher and speaks with it: the only module that calls the C side."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence

import attrs

from execdrivers.driver import Stdio
from execdrivers.errors import CommandNotExecutable, CommandNotFound, LaunchError
from execdrivers_native._native import ffi, lib
from execdrivers_native.operations import Operation, encode

__all__ = ["Child", "go", "receive_exit", "spawn"]

_lock = threading.Lock()
_launcher = -1


@attrs.define
class Child:
    """A started launcher: the container's first process before, and after, it executes the command."""

    pid: int
    pidfd: int
    control: int
    terminal: int | None
    operations: Sequence[Operation]


def _launcher_fd() -> int:
    """The sealed launcher; one for the life of the program."""
    global _launcher
    if _launcher < 0:
        with _lock:
            if _launcher < 0:
                fd = lib.ed_launcher(lib.ed_launcher_image, lib.ed_launcher_size)
                if fd < 0:
                    raise _failed("launcher", "memfd", -fd)
                _launcher = fd
    return _launcher


def spawn(operations: Sequence[Operation], flags: int, cgroup: int, stdio: Stdio, *, keep_capabilities: bool) -> Child:
    """Start the launcher and wait until it is ready to execute. Raises `LaunchError`; then nothing is left."""
    plan = encode(operations)
    child = ffi.new("struct ed_child *")
    given = (stdio.stdin, stdio.stdout, stdio.stderr)
    # Where a terminal will take their place there are none yet.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) if min(given) < 0 else -1
    fds = ffi.new("int[3]", [null if fd < 0 else fd for fd in given])
    try:
        result = lib.ed_spawn(
            _launcher_fd(), ffi.from_buffer(plan), len(plan), flags, cgroup, fds, int(keep_capabilities), child
        )
    finally:
        if null >= 0:
            os.close(null)
    if result < 0:
        raise _clone_error(-result)
    made = Child(child.pid, child.pidfd, child.control, None, operations)
    try:
        kind, made.terminal = _receive(made)
        if kind != lib.ED_READY:
            raise _ended_early(made)
    except BaseException:
        os.close(made.control)
        os.waitid(os.P_PIDFD, made.pidfd, os.WEXITED)
        os.close(made.pidfd)
        raise
    return made


def go(child: Child) -> None:
    """Let the command be executed. Raises `CommandNotFound`, `CommandNotExecutable`, `LaunchError`."""
    result = lib.ed_go(child.control)
    if result == -errno.EPIPE:
        raise LaunchError("exec: the container was killed before it was started", step="exec")
    if result < 0:
        raise _failed("exec", "", -result)
    _receive(child)  # the end of the messages (executed), ED_STARTED (under init), or it raises


def receive_exit(child: Child) -> int | None:
    """The wait status that the init reported, if it did. Does not block once the first process has ended."""
    message, fd = ffi.new("struct ed_message *"), ffi.new("int *")
    while lib.ed_receive(child.control, message, fd) > 0:
        if message.kind == lib.ED_EXITED:
            return int(message.error)
    return None


def _receive(child: Child) -> tuple[int, int | None]:
    """Kind of the next message (0: no more) and the descriptor that came along; a failure is raised."""
    message, fd = ffi.new("struct ed_message *"), ffi.new("int *")
    result = lib.ed_receive(child.control, message, fd)
    if result < 0:
        raise _failed("control", "", -result)
    if result == 0:
        return 0, None
    if message.kind == lib.ED_FAILED:
        detail = ffi.string(message.detail).decode(errors="replace").strip()
        step = child.operations[message.step] if message.step < len(child.operations) else None
        raise _step_error(step, message.error, detail)
    return int(message.kind), int(fd[0]) if fd[0] >= 0 else None


def _failed(step: str, path: str, number: int, detail: str = "", remedy: str = "") -> LaunchError:
    reason = os.strerror(number) + (f" ({detail})" if detail else "")
    message = " ".join(part for part in (f"{step}:", path and f"{path}:", reason) if part)
    return LaunchError(message, step=step, path=path, errno=number, remedy=remedy)


def _ended_early(child: Child) -> LaunchError:
    return LaunchError(
        "the launcher was killed before the container was ready",
        step="launch",
        remedy="raise the memory limit if it is small; the kernel's log says who killed it",
    )


def _clone_error(number: int) -> LaunchError:
    remedy = {
        errno.EPERM: "run as root, or allow user namespaces: sysctl user.max_user_namespaces (a chroot has none)",
        errno.ENOSPC: "a limit on nested or total namespaces is reached: raise /proc/sys/user/max_*_namespaces",
        errno.EAGAIN: "the limit on processes is reached (ulimit -u, pids cgroup)",
        errno.EUSERS: "user namespaces are nested too deep",
        errno.EMFILE: "the limit on open files is reached (ulimit -n)",
        errno.EINVAL: "the kernel does not take these namespaces together: is it older than 5.12?",
    }.get(number, "")
    return _failed("clone", "", number, remedy=remedy)


def _step_error(step: Operation | None, number: int, detail: str) -> LaunchError:
    if step is None:
        return _failed("plan", "", number, detail)
    if step.name == "exec":
        return _exec_error(step, number, detail)
    shown = step.step()
    path = str(shown.args.get("destination") or shown.args.get("path") or "")
    if detail == "source":
        path, detail = str(shown.args.get("source")), ""
    return _failed(shown.op, path, number, detail, _REMEDIES.get((shown.op, number), _GENERAL.get(number, "")))


_REMEDIES = {
    (
        "propagation",
        errno.EINVAL,
    ): "the caller's root is no mount point (a chroot?): bind it onto itself and enter that",
    ("chdir", errno.ENOENT): "make the working directory in the rootfs, or set another cwd",
    ("chdir", errno.ENOTDIR): "set cwd to a directory",
    ("chdir", errno.EACCES): "the user may not enter the working directory: set another cwd or user",
    ("bind", errno.ENOTDIR): "source and destination must both be directories, or both not",
    ("rlimit", errno.EPERM): "a hard limit above the caller's own needs CAP_SYS_RESOURCE: ask for less",
    ("capabilities", errno.EPERM): "the caller lacks a capability that was asked for",
    ("mount", errno.EINVAL): "check the mount's options",
    ("mount", errno.ENODEV): "the kernel does not have this file system",
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
            errno.EACCES: "chmod +x it, and check that its file system is not mounted noexec",
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
        return _failed(
            "exec", path, number, f"args and env hold {size:,} bytes in {len(args) + len(env)} strings", remedy
        )
    remedy = "raise pids: init and command are two" if number == errno.EAGAIN else ""
    return _failed("exec", path, number, remedy=remedy)
