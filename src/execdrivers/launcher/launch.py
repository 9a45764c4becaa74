"""Starts launchers, by themselves or through tools, and speaks with them: the only module that calls the C side."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from execdrivers import pidfd
from execdrivers.errors import CommandNotExecutable, CommandNotFound, LaunchError
from execdrivers.launcher._launcher import ffi, lib
from execdrivers.launcher.operations import Operation, encode, operation

if TYPE_CHECKING:
    from execdrivers.driver import Stdio

__all__ = ["LAUNCHER_PATH", "Launch", "Reaper", "Started", "spawn", "spawn_launcher", "sweep"]

#: Where a launcher that was given its descriptors finds itself: what a tool is told to execute.
LAUNCHER_PATH = f"/proc/self/fd/{lib.ED_LAUNCHER_FD}"

_lock = threading.Lock()
_image = -1
#: Reapers that nobody waits for. They are children of this program, which has to look after those that have left.
_leaving: list[int] = []


class Started(NamedTuple):
    """A child of this program: its pid, and a pidfd that is the caller's to close."""

    pid: int
    pidfd: int


class Launch:
    """One launcher's plan, and our end of the socket it speaks through.

    ``descriptors`` are to be the launcher's from 3 on: plan, socket, image; `started` closes our copies.
    """

    def __init__(self, operations: Iterable[Operation], stdio: Stdio | None = None) -> None:
        """``stdio``: for a launcher that is started through a tool and takes them itself (operations channel, stdio),
        so that the tool does not hold them open; they must stay open until `ready` returns.

        Raises `LaunchError` when descriptors or memory are used up.
        """
        self.operations = tuple(operations)
        self._stdio = stdio
        #: Of the launcher as the host sees it, once `ready`; set early where the launcher is our own child.
        self.pid: int | None = None
        #: Master of the container's terminal, once `ready`, where the plan makes one; the taker closes it.
        self.terminal: int | None = None
        self._control = self._theirs = self._plan = -1
        plan = encode(self.operations)
        try:
            self._plan = _checked(
                lib.ed_memfd(b"execdrivers-plan", ffi.from_buffer(plan), len(plan), 0), "launcher", "memfd"
            )
            pair = ffi.new("int[2]")
            _checked(lib.ed_channel(pair), "launcher", "socketpair")
            self._control, self._theirs = pair[0], pair[1]
            self.descriptors = (self._plan, self._theirs, _launcher_image())
        except BaseException:
            self.close()
            raise

    def started(self) -> None:
        """What was to be inherited is: close our copies, so that an end of the launcher is seen."""
        for fd in (self._plan, self._theirs):
            if fd >= 0:
                os.close(fd)
        self._plan = self._theirs = -1

    def ready(self, timeout: float | None = None, *, tool: int = -1) -> None:
        """Wait until all is done but the execution of the command, or what began the plan (adopt) has.

        Raises `LaunchError`: a step failed, the launcher was killed, or ``tool`` (a pidfd) ended or took longer than
        ``timeout`` seconds to bring the launcher to life.
        """
        while True:
            self._await(timeout, tool)
            message = self._receive()
            if message is None and tool >= 0:
                raise _tool_ended()
            if message is None:
                raise LaunchError(
                    "the launcher was killed before the container was ready",
                    step="launch",
                    remedy="raise the memory limit if it is small; the kernel's log says who killed it",
                )
            kind, _, fd = message
            if kind == lib.ED_CHANNEL:
                os.close(self._control)
                self._control, tool = fd, -1  # from here on the launcher's end closes with the launcher
                if self._stdio is not None:
                    given = (self._stdio.stdin, self._stdio.stdout, self._stdio.stderr)
                    _checked(lib.ed_send_stdio(fd, ffi.new("int[3]", given)), "stdio")
            else:
                self.terminal = fd if fd >= 0 else None
                return

    def go(self) -> None:
        """Let the command be executed. Raises `CommandNotFound`, `CommandNotExecutable`, `LaunchError`."""
        result = lib.ed_go(self._control)
        if result == -errno.EPIPE:
            raise LaunchError("exec: the container was killed before it was started", step="exec")
        _checked(result, "exec")
        self._receive()  # the end of the messages (executed), ED_STARTED (under init), or it raises

    def exit_status(self) -> int | None:
        """The wait status that the init reported, if it did. Does not block once the first process has ended."""
        while message := self._receive():
            if message[0] == lib.ED_EXITED:
                return message[1]
        return None

    def close(self) -> None:
        """Let go of it. A launcher that waits for `go` ends then. May be called twice."""
        self.started()
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def _await(self, timeout: float | None, tool: int) -> None:
        if tool < 0 and timeout is None:
            return
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if tool >= 0:
            poll.register(tool, select.POLLIN)
        events = poll.poll(None if timeout is None else 1000 * timeout)
        if not events:
            raise LaunchError(f"nothing has started within {timeout} seconds", step="launch", errno=errno.ETIMEDOUT)
        if all(fd == tool for fd, _ in events):
            raise _tool_ended()

    def _receive(self) -> tuple[int, int, int] | None:
        """Kind, error and descriptor of the next message; None: no more. A failure is raised."""
        message, fd, pid = ffi.new("struct ed_message *"), ffi.new("int *"), ffi.new("int *")
        if _checked(lib.ed_receive(self._control, message, fd, pid), "control") == 0:
            return None
        if pid[0] > 0:
            self.pid = int(pid[0])
        if message.kind == lib.ED_FAILED:
            detail = ffi.string(message.detail).decode(errors="replace").strip()
            step = self.operations[message.step] if message.step < len(self.operations) else None
            raise _step_error(step, message.error, detail)
        self.step = int(message.step)
        return int(message.kind), int(message.error), int(fd[0])


class Reaper:
    """Runs a tool that makes processes and leaves, as ``runc create`` does, and tells how each of them really ended.

    A launcher of its own becomes their parent; the calling program, which may have other children to care for, does not
    become a subreaper. It lives as long as they do.
    """

    def __init__(self, argv: Sequence[str], stdio: Stdio, *, env: Mapping[str, str], descriptors: Sequence[int] = ()):
        """Start the tool with ``descriptors`` as its 3, 4 …. Raises `LaunchError`."""
        adopt = operation("adopt", tuple(argv), tuple(f"{key}={value}" for key, value in env.items()), len(descriptors))
        sweep()
        self._launch = Launch([adopt])
        self._statuses: dict[int, int] = {}
        try:
            self._process = spawn_launcher(self._launch, stdio, more=descriptors)
            self._launch.started()
            self._launch.ready()
        except BaseException:
            self._launch.close()
            if hasattr(self, "_process"):
                _reap(self._process)
            raise
        #: The tool's.
        self.pid = self._launch.step

    def status(self, pid: int, timeout: float | None = None) -> int | None:
        """The wait status of the tool or of a process that it left; waits for its end.

        None: not within ``timeout`` seconds, or the reaper was killed and nobody can tell.
        """
        while pid not in self._statuses:
            poll = select.poll()
            poll.register(self._launch._control, select.POLLIN)
            if not poll.poll(None if timeout is None else max(0.0, 1000 * timeout)):
                return None
            message = self._launch._receive()
            if message is None:
                return None
            self._statuses[self._launch.step] = message[1]
        return self._statuses[pid]

    @property
    def parent(self) -> int:
        """The pid of the reaper itself: the parent of all whose end it tells."""
        return self._process.pid

    @property
    def exit_fd(self) -> int:
        """Readable when the tool and all that it made have ended: for `Launch.ready`."""
        return self._process.pidfd

    def adopted(self, pid: int) -> bool:
        """Whether the process is alive and the tool's or one that it left: its end will be told by `status`."""
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                return int(file.read().rpartition(")")[2].split()[1]) == self._process.pid
        except (OSError, IndexError):
            return False

    def kill(self, timeout: float = 10.0) -> None:
        """Kill the tool and all that it left, until there is none, and close; so many seconds at the most."""
        if self._process.pidfd < 0:
            return
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._process.pidfd, select.POLLIN)
        while not poll.poll(0) and time.monotonic() < deadline:
            # What one of them leaves behind becomes the reaper's own child, and is found the next time.
            for pid in self.children():
                try:
                    fd = pidfd.open(pid)
                except OSError:
                    continue  # ended meanwhile
                with contextlib.suppress(ProcessLookupError):
                    if self.adopted(pid):
                        pidfd.send_signal(fd, signal.SIGKILL)
                os.close(fd)
            poll.poll(20)
        self.close()

    def children(self) -> list[int]:
        """The pids of all whose end is still to be told."""
        try:
            with open(f"/proc/{self._process.pid}/task/{self._process.pid}/children", encoding="ascii") as file:
                return [int(pid) for pid in file.read().split()]
        except OSError:
            return []

    def close(self, timeout: float = 0.0) -> None:
        """Let go of it. It leaves when the last of its processes has; that is waited for, so many seconds. May be
        called twice."""
        self._launch.close()
        if self._process.pidfd >= 0:
            poll = select.poll()
            poll.register(self._process.pidfd, select.POLLIN)
            poll.poll(1000 * timeout)
            _leaving.append(self._process.pidfd)
            self._process = Started(self._process.pid, -1)
        sweep()


def spawn_launcher(
    launch: Launch,
    stdio: Stdio,
    *,
    flags: int = 0,
    cgroup: int = -1,
    keep_capabilities: bool = False,
    more: Sequence[int] = (),
) -> Started:
    """Start a launcher itself, in new namespaces (``CLONE_NEW*`` in flags), in a cgroup of v2 (a descriptor).

    ``keep_capabilities`` makes them survive the execution whatever the child's uid (for user namespaces); ``more`` are
    the launcher's descriptors from 6 on. Raises `LaunchError`.
    """
    child = _spawn(
        "", ("execdrivers-launcher",), stdio, (*launch.descriptors, *more), {}, flags, cgroup, keep_capabilities
    )
    launch.pid = child.pid
    return child


def spawn(
    argv: Sequence[str], stdio: Stdio, descriptors: Sequence[int] = (), *, env: Mapping[str, str], cgroup: int = -1
) -> Started:
    """Start a tool: ``argv[0]`` is an absolute path. It leads a session of its own and has no descriptors but ``stdio``
    as 0, 1, 2 (null where negative) and ``descriptors`` from 3 on; ``cgroup`` is one of v2 to be born in.
    Raises `LaunchError`."""
    return _spawn(argv[0], argv, stdio, descriptors, env, cgroup=cgroup)


def _spawn(
    path: str,
    argv: Sequence[str],
    stdio: Stdio,
    descriptors: Sequence[int],
    env: Mapping[str, str],
    flags: int = 0,
    cgroup: int = -1,
    keep_capabilities: bool = False,
) -> Started:
    given = (stdio.stdin, stdio.stdout, stdio.stderr)
    # Where a terminal will take their place there are none yet.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) if min(given) < 0 else -1
    fds = [null if fd < 0 else fd for fd in given] + list(descriptors)
    texts = [ffi.new("char[]", os.fsencode(text)) for text in argv]
    variables = [ffi.new("char[]", os.fsencode(f"{key}={value}")) for key, value in env.items()]
    keep = (
        ffi.new("int[]", fds),
        ffi.new("char[]", os.fsencode(path)) if path else ffi.NULL,
        ffi.new("char *[]", [*texts, ffi.NULL]),
        ffi.new("char *[]", [*variables, ffi.NULL]),
    )
    how = ffi.new("struct ed_spawn *", (keep[0], len(fds), flags, cgroup, int(keep_capabilities), *keep[1:]))
    child = ffi.new("struct ed_child *")
    try:
        result = lib.ed_spawn(how, child)
    finally:
        if null >= 0:
            os.close(null)
    if result < 0:
        raise _failed("spawn", path, -result) if path else _clone_error(-result)
    return Started(child.pid, child.pidfd)


def _tool_ended() -> LaunchError:
    return LaunchError("the tool ended without having started the container", step="launch")


def _reap(process: Started) -> None:
    os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
    os.close(process.pidfd)


def sweep() -> None:
    """Reap the reapers that were let go of and have left since. Each new one sees to that too."""
    poll = select.poll()
    with _lock:
        for fd in _leaving:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(0):
            pidfd.wait_status(fd)
            os.close(fd)
            _leaving.remove(fd)


def _launcher_image() -> int:
    """The sealed launcher; one for the life of the program."""
    global _image
    if _image < 0:
        with _lock:
            if _image < 0:
                result = lib.ed_memfd(b"execdrivers-launcher", lib.ed_launcher_image, lib.ed_launcher_size, 1)
                _image = _checked(result, "launcher", "memfd")
    return _image


def _checked(result: int, step: str, path: str = "") -> int:
    if result < 0:
        raise _failed(step, path, -result)
    return result


def _failed(step: str, path: str, number: int, detail: str = "", remedy: str = "") -> LaunchError:
    reason = os.strerror(number) + (f" ({detail})" if detail else "")
    message = " ".join(part for part in (f"{step}:", path and f"{path}:", reason) if part)
    return LaunchError(message, step=step, path=path, errno=number, remedy=remedy)


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
