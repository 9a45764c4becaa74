"""The maker's hold on a monitor."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from execdrivers import interrupts, pidfd
from execdrivers.errors import LaunchError
from execdrivers.launcher._launcher import ffi, lib
from execdrivers.launcher.failures import clone_error, failed
from execdrivers.launcher.launch import Started, spawn_child

if TYPE_CHECKING:
    from execdrivers.monitor.log import LogOptions

__all__ = ["Monitor", "Watch"]


class Watch(NamedTuple):
    """What a monitor is to tell the journal of events while the container runs.

    When ``fd`` has one of ``events`` (poll(2)) a line is written: ``prefix``, the time, ``}``. With a ``count_fd``, a
    file with a line ``oom_kill N``, only when N has grown, and with N as ``oom_kills``.
    """

    fd: int
    events: int
    count_fd: int
    prefix: bytes


class Monitor:
    """A monitor that this program has started. It satisfies `execdrivers.launcher.Spawner`.

    Until `keep`, what it has spawned lives only as long as this program; after that it stays, whatever becomes of us.
    `channels` says that the command runs: before that an end is not told. For any number of threads.
    """

    def __init__(self, control: int, pid: int, pidfd: int) -> None:
        self.pid = pid
        #: Readable when it has ended; then `read_exit` tells how the container did. -1 once closed.
        self.pidfd = pidfd
        self._control = control
        self._lock = threading.Lock()
        _monitors.add(self)

    @classmethod
    @interrupts.deferring
    def start(cls) -> Monitor:
        """Start one, which is no child of ours. Raises `LaunchError`; nothing is left then."""
        control = theirs = image = null = -1
        reply, fd = ffi.new("struct ed_reply *"), ffi.new("int *", -1)
        try:
            pair = ffi.new("int[2]")
            _checked(lib.ed_channel(pair))
            control, theirs = pair[0], pair[1]
            image = _checked(lib.ed_memfd(b"execdrivers-monitor", lib.ed_monitor_image, lib.ed_monitor_size, 1))
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            fds = (null, null, null, null, theirs, image)
            child = spawn_child("", ("execdrivers-monitor",), fds, {})
            pidfd.reap(child.pidfd)
            os.close(theirs)
            theirs = -1
            _checked(lib.ed_reply(control, reply, fd))
            return cls(control, reply.pid, fd[0])
        except BaseException as error:
            for opened in (control, fd[0]):
                if opened >= 0:
                    os.close(opened)  # it ends when it sees that
            if isinstance(error, OSError) and not isinstance(error, LaunchError):
                raise failed("monitor", "", error.errno or 0) from error
            raise
        finally:
            for opened in (theirs, image, null):
                if opened >= 0:
                    os.close(opened)

    @property
    def start_time(self) -> int | None:
        """As `pidfd.start_time` has it; None once it has ended."""
        return pidfd.start_time(self.pid)

    def spawn(
        self,
        path: str,
        argv: Sequence[str],
        descriptors: Sequence[int],
        env: Mapping[str, str],
        *,
        flags: int = 0,
        cgroup: int = -1,
        keep_capabilities: bool = False,
        directory: str = "",
    ) -> Started:
        """Start a child of the monitor: see `execdrivers.launcher.Spawner`. It is not reaped before `channels`.

        Raises `LaunchError`.
        """
        head = ffi.new("struct ed_spawn_body *")
        head.flags, head.keep_capabilities = flags, keep_capabilities
        head.has_cgroup, head.has_path, head.has_directory = cgroup >= 0, bool(path), bool(directory)
        head.argument_count, head.variable_count = len(argv), len(env)
        texts = [*filter(None, (path, directory)), *argv, *_variables(env)]
        fds = [*([cgroup] if cgroup >= 0 else []), *descriptors]
        result, child = self._request(lib.ED_SPAWN, _body(head, map(os.fsencode, texts)), fds)
        if result == -errno.ECONNRESET:
            raise _gone()
        if result < 0:
            raise failed("spawn", path, -result) if path else clone_error(-result)
        return child

    def keep(
        self,
        pid: int,
        first: int,
        directory: int,
        *,
        stdin: int = -1,
        stdout: int = -1,
        stderr: int = -1,
        terminal: int = -1,
        log: LogOptions | None = None,
        oom: int = -1,
        events: int = -1,
        watches: Sequence[Watch] = (),
        aftermath: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Have it stand by the container from now on. To be called before the command is let go.

        Descriptors are the caller's to close afterwards. ``first`` is a pidfd of the process ``pid``, whose end is the
        container's; ``directory`` that of the files ``log``, ``attach`` and ``exit``. ``stdin`` is the write end of a
        pipe, ``stdout`` and ``stderr`` are read ends; or ``terminal`` is the master of one, instead of the three.
        ``oom`` is a file with a line ``oom_kill N`` (memory.events, memory.oom_control), read at the end; without one
        that of the ``watches`` is. ``events`` is the directory of the journal of events, for ``watches``, of which
        there may be eight.

        ``aftermath`` is a command, its absolute path first, that is started after the end with the environment ``env``.
        Raises `LaunchError`.
        """
        from execdrivers.monitor.log import LogOptions

        options = log or LogOptions()
        # Of the process behind the descriptor, which in a pid namespace of others is one outside that ends as it does.
        behind = pidfd.pid_of(first)
        counts = [watch.count_fd for watch in watches if watch.count_fd >= 0]
        if oom < 0 and counts:
            oom = counts[0]
        given = {
            lib.ED_KEPT_STDIN: stdin,
            lib.ED_KEPT_STDOUT: stdout,
            lib.ED_KEPT_STDERR: stderr,
            lib.ED_KEPT_TERMINAL: terminal,
            lib.ED_KEPT_OOM: oom,
            lib.ED_KEPT_EVENTS: events,
        }
        head = ffi.new("struct ed_keep_body *")
        head.pid = behind if behind > 0 else pid
        head.log_size, head.log_files = options.file_size, options.file_count
        head.descriptors = sum(bit for bit, fd in given.items() if fd >= 0)
        head.watch_count = len(watches)
        for number, watch in enumerate(watches):
            head.watches[number].events, head.watches[number].counted = watch.events, watch.count_fd >= 0
        variables = _variables(env or {})
        head.argument_count, head.variable_count = len(aftermath), len(variables)
        texts = [*(watch.prefix for watch in watches), *map(os.fsencode, (*aftermath, *variables))]
        fds = [first, directory, *(fd for fd in given.values() if fd >= 0)]
        for watch in watches:
            fds += [watch.fd, *([watch.count_fd] if watch.count_fd >= 0 else [])]
        self._ask("keep", lib.ED_KEEP, _body(head, texts), fds)

    def channels(self, fds: Sequence[int] = ()) -> None:
        """The command runs. ``fds`` are `ProcessHandle.channels`, of which the caller reads no more, and which are his
        to close. Raises `LaunchError`."""
        self._ask("channels", lib.ED_CHANNELS, b"", fds)

    def close(self) -> None:
        """Let go of it. Before `keep` it ends, and kills all that it has spawned. May be called twice."""
        for fd in (self._control, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self._control = self.pidfd = -1

    def abort(self, timeout: float = 10.0) -> None:
        """Have it kill all that it has spawned, and end without a word; wait for that, ``timeout`` seconds at the
        most; close. May be called twice."""
        if self._control >= 0:
            lib.ed_request(self._control, lib.ED_ABORT, ffi.NULL, 0, ffi.new("struct ed_reply *"), ffi.new("int *"))
            pidfd.wait(self.pidfd, timeout)
        self.close()

    def _ask(self, step: str, kind: int, body: bytes, fds: Iterable[int]) -> None:
        result, _ = self._request(kind, body, fds)
        if result == -errno.ECONNRESET:
            raise _gone()
        if result < 0:
            raise failed(f"monitor: {step}", "", -result)

    def _request(self, kind: int, body: bytes, fds: Iterable[int]) -> tuple[int, Started]:
        """The result, and the child if one was asked for. Raises `LaunchError`: memory or descriptors are used up."""
        memfd = _checked(lib.ed_memfd(b"execdrivers-request", body, len(body), 0)) if body else -1
        reply, fd = ffi.new("struct ed_reply *"), ffi.new("int *", -1)
        try:
            given = [*([memfd] if body else []), *fds]
            with self._lock:
                result = lib.ed_request(self._control, kind, ffi.new("int[]", given), len(given), reply, fd)
        except BaseException:  # an interrupt, which Python notices as the call returns
            if fd[0] >= 0:
                os.close(fd[0])
            raise
        finally:
            if memfd >= 0:
                os.close(memfd)
        return result, Started(reply.pid, fd[0])

    def __del__(self) -> None:
        if getattr(self, "pidfd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"<Monitor pid={self.pid}{'' if self._control >= 0 else ' closed'}>"


#: Those of this program.
_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _after_fork() -> None:
    """A fork that held the socket open would keep a monitor from seeing that its maker has died."""
    for monitor in list(_monitors):
        if monitor._control >= 0:
            os.close(monitor._control)
            monitor._control = -1


os.register_at_fork(after_in_child=_after_fork)


def _variables(env: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in env.items()]


def _body(head: Any, texts: Iterable[bytes]) -> bytes:
    return b"".join((bytes(ffi.buffer(head)), *(text + b"\0" for text in texts)))


def _gone() -> LaunchError:
    return LaunchError("the monitor was killed", step="monitor", remedy="the kernel's log says by whom, if by it")


def _checked(result: int) -> int:
    if result == -errno.ECONNRESET:
        raise _gone()
    if result < 0:
        raise failed("monitor", "", -result)
    return result
