"""Starts launchers, by themselves or through tools, and speaks with them. Only cgroups/bpf.py calls C beside it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from execdrivers import interrupts, pidfd
from execdrivers.errors import LaunchError
from execdrivers.launcher._launcher import ffi, lib
from execdrivers.launcher.failures import clone_error, failed, step_error
from execdrivers.launcher.operations import Operation, encode

if TYPE_CHECKING:
    from execdrivers.driver import Stdio

__all__ = ["LAUNCHER_PATH", "Launch", "Spawner", "Started", "UnderWay", "spawn", "spawn_launcher"]

#: Where a launcher that was given its descriptors finds itself: what a tool is told to execute.
LAUNCHER_PATH = f"/proc/self/fd/{lib.ED_LAUNCHER_FD}"

#: What a message to a launcher that has ended comes to.
_ENDED = (-errno.EPIPE, -errno.ECONNRESET)
#: Messages at which the launcher waits until a point of its caller's is done.
_POINTS = (lib.ED_SYNC, lib.ED_ENTERED)


class Started(NamedTuple):
    """A child of this program, or of a `Spawner`: its pid, and a pidfd that is the caller's to close."""

    pid: int
    pidfd: int
    #: As `pidfd.start_time` has it, where that was to be had for nothing.
    start_time: int | None = None


class Spawner(Protocol):
    """Who starts launchers and tools, and so is their parent: another process, which outlives this program.

    Without one this program starts them itself. `execdrivers.monitor.Monitor` is one.
    """

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
        """Start a child of its own: ``path``, or, where that is empty, the launcher among ``descriptors``, which become
        the child's 0, 1, 2 … The rest is as in `spawn` and `spawn_launcher`. Raises `LaunchError`."""
        ...


class UnderWay:
    """What threads of this program have under way at the same time: who enters is told whether nobody else has."""

    def __init__(self) -> None:
        self._all: list[None] = []

    def __len__(self) -> int:
        return len(self._all)

    def __enter__(self) -> bool:
        alone = not self
        self._all.append(None)
        return alone

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._all.pop()


class Launch:
    """One launcher's plan, and our end of the socket it speaks through."""

    def __init__(
        self,
        operations: Iterable[Operation] | Callable[[], Iterable[Operation]],
        stdio: Stdio | None = None,
        points: Mapping[str, Callable[[], object]] | None = None,
        agent: Callable[[int, int], object] | None = None,
    ) -> None:
        """``operations``: the plan, or what makes it, which is called while the launcher comes into being.

        ``stdio``: for a launcher that is started through a tool and takes them itself (operations channel, stdio),
        so that the tool does not hold them open; they must stay open until `ready` returns.

        ``points``: what to do, while the launcher waits, at the plan's operations ``sync``, by their names; what one
        raises, `ready` or `go` raises.

        ``agent``: is given the listener of the plan's seccomp filter, where it has one, and the launcher's pid, before
        the command is executed; what it raises, `go` raises. Without, the listener is kept (`listener`).
        """
        self._make = operations if callable(operations) else lambda: operations
        self._stdio = stdio
        self._points = points or {}
        #: Who goes on in joined namespaces (operation enter), from its point on; the pidfd is the caller's to close.
        #: Who was started for that ends, and the other is a child of ours; in a pid namespace of others it ends as the
        #: other does.
        self.entered: Started | None = None
        self._agent = agent
        #: Of the launcher as the host sees it, once `ready`; set early where the launcher is our own child.
        self.pid: int | None = None
        #: Master of the container's terminal, once `ready`, where the plan makes one; the taker closes it.
        self.terminal: int | None = None
        #: Of the seccomp filter, once `go` has returned, where it has one and no ``agent``.
        self.listener: int | None = None
        self._control = self._theirs = self._plan = self._image = -1
        #: For one message, its descriptor and its sender.
        self._room: tuple[Any, Any, Any] | None = None

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """The plan. Raises what making it does."""
        made = self._make()
        return made if isinstance(made, tuple) else tuple(made)

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """To be the launcher's from 3 on, where another program starts it: plan, socket, image. Made when first asked
        for; `started` closes our copies. Raises `LaunchError` when descriptors or memory are used up."""
        if self._control < 0:
            self._open()
        return self._plan, self._theirs, self._image

    def _make_plan(self) -> int:
        plan = encode(self.operations)
        return _checked(lib.ed_plan(plan, len(plan)), "launcher", "memfd")

    def _open(self) -> None:
        try:
            self._plan = self._make_plan()
            self._image = _checked(lib.ed_launcher(), "launcher", "memfd")
            pair = ffi.new("int[2]")
            _checked(lib.ed_channel(pair), "launcher", "socketpair")
            self._control, self._theirs = pair[0], pair[1]
        except BaseException:
            self.close()
            raise

    @property
    def listens(self) -> bool:
        """Whether the plan has a filter with a listener. Raises what making the plan does."""
        return any(operation.listens for operation in self.operations if operation.name == "seccomp")

    def begin(
        self,
        stdio: Stdio,
        *,
        flags: int = 0,
        cgroup: int = -1,
        keep_capabilities: bool = False,
        more: Sequence[int] = (),
        beside: bool = False,
        alone: bool = False,
    ) -> Started:
        """Start the launcher as a child of ours; ``beside`` us without its plan, which `give` gives it. The arguments
        are those of `spawn_launcher`. Raises what making the plan does, and `LaunchError`; what fails beside us `ready`
        raises."""
        rest = ffi.new("int[]", more) if more else ffi.NULL
        begun = ffi.new("struct ed_begun *")
        if not beside:
            self._plan = self._make_plan()
        try:
            with _complete(stdio) as given:
                switches = map(int, (keep_capabilities, beside, alone))
                room = given, self._plan, rest, len(more), flags, cgroup, *switches
                how = ffi.new("struct ed_begin *", room)
                result = lib.ed_begin(how, begun)
        except BaseException:  # an interrupt, which Python notices as the call returns
            if begun.child.pid > 0:
                os.close(begun.control)
                pidfd.send_signal(begun.child.pidfd, signal.SIGKILL)
                pidfd.reap(begun.child.pidfd)
            raise
        finally:
            self.started()
        if result < 0:
            raise clone_error(-result)
        self._control, self.pid = begun.control, begun.child.pid
        return Started(begun.child.pid, begun.child.pidfd, begun.started or None)

    def give(self, plan: bytes | None = None, *, network: bool = False) -> None:
        """Give its plan to a launcher that has begun; ``plan``: as it is encoded already.

        ``network``: the launcher waits, at the operation loopback, for the namespace of `give_network`. Raises what
        making the plan does, and `LaunchError` when descriptors or memory are used up.
        """
        plan = encode(self.operations) if plan is None else plan
        result = lib.ed_give_plan(self._control, plan, len(plan), int(network))
        if result not in _ENDED:  # of which `ready` tells why
            _checked(result, "launcher", "memfd")

    def give_network(self) -> bool:
        """Make a network namespace for a launcher that has got its plan, and give it to that; False where this thread
        could not come back to its own (setns(2)), in which it has stayed then. Raises `LaunchError`."""
        result = lib.ed_give_network(self._control)
        if result == -errno.EOPNOTSUPP:
            return False
        if result == -errno.ENOTRECOVERABLE:
            message = "network: this thread could not return from the network namespace that it had made"
            raise LaunchError(message, step="network", remedy="end the thread", errno=errno.ENOTRECOVERABLE)
        if result < 0 and result not in _ENDED:
            raise clone_error(-result)
        return True

    def started(self) -> None:
        """What was to be inherited is: close our copies, so that an end of the launcher is seen."""
        for fd in (self._plan, self._theirs, self._image):
            if fd >= 0:
                os.close(fd)
        self._plan = self._theirs = self._image = -1

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
                raise _launcher_ended(self.operations)
            kind, _, fd = message
            if kind in _POINTS:
                self._synchronize(message)
            elif kind == lib.ED_CHANNEL:
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
        if not self.say_go():
            self._receive()  # what it failed at, if it was not killed
            raise LaunchError("exec: the container was killed before it was started", step="exec")
        self.outcome()

    def say_go(self) -> bool:
        """Let the command be executed as soon as all else is done; whether there still is a launcher to hear that.

        Before `ready` has returned it is for plans without points, whose waiting it would end.
        """
        result = lib.ed_go(self._control)
        if result in _ENDED:
            return False
        _checked(result, "exec")
        return True

    def await_end(self) -> None:
        """Wait until the launcher has said all that it has to say: for who has told it to go, and of a plan that does
        not wait for the caller."""
        poll = select.poll()
        poll.register(self._control, 0)  # for the end alone: a message wakes nobody
        with interrupts.heard():
            poll.poll()

    def outcome(self) -> None:
        """Wait for what comes of the execution. Raises as `go` does."""
        while (message := self._receive()) and message[0] in (*_POINTS, lib.ED_LISTENER):
            if message[0] in _POINTS:
                self._synchronize(message)
                continue
            self.listener = message[2]
            if self._agent is not None:
                self._agent(self.listener, self.pid or 0)
            if not self._outcome_before_trap(self.listener):
                break
        # What came instead is the end of the messages (executed) or ED_STARTED (under init); a failure was raised.
        if self._agent is not None:
            self._drop_listener()

    def take_listener(self) -> int | None:
        """The listener, which is the caller's to close from now on."""
        taken, self.listener = self.listener, None
        return taken

    def _outcome_before_trap(self, listener: int) -> bool:
        """Wait until the execution has come to something, or a system call waits for whoever has the listener: that
        may be the execution itself, and our caller the one who is to answer."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(listener, select.POLLIN)
        return any(fd == self._control for fd, _ in poll.poll())

    @property
    def channel(self) -> int:
        """Our end of the socket, on which an init tells the end: for `ProcessHandle.channels`. -1 once closed."""
        return self._control

    def exit_status(self) -> int | None:
        """The wait status that the init reported, if it did. Does not block once the first process has ended."""
        try:
            while message := self._receive():
                if message[0] == lib.ED_EXITED:
                    return message[1]
        except LaunchError:  # the execution was trapped when `go` returned, and failed after that
            pass
        return None

    def last_words(self) -> int | None:
        """`ready`, `outcome` and `exit_status` in one, of a launcher that was told to go early and has ended."""
        message, kind = ffi.new("struct ed_message *"), ffi.new("uint32_t *")
        if not _checked(lib.ed_last_words(self._control, message, kind), "control"):
            if not kind[0]:
                raise _launcher_ended(self.operations)
            return None
        if message.kind == lib.ED_FAILED:
            raise self._failure(message)
        return int(message.error)

    def close(self) -> None:
        """Let go of it. A launcher that waits for `go` ends then. May be called twice."""
        self.started()
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        self._drop_listener()

    def _drop_listener(self) -> None:
        if self.listener is not None:
            os.close(self.listener)
            self.listener = None

    def _synchronize(self, message: tuple[int, int, int]) -> None:
        """Do what the launcher waits for, and let it go on."""
        kind, number, fd = message
        point = self.operations[self.step].args[0]
        if kind == lib.ED_ENTERED:
            self.entered = Started(number, fd)
            self.pid = number
        self._points[point]()
        _checked(lib.ed_go(self._control), f"sync {point}")

    def _await(self, timeout: float | None, tool: int) -> None:
        if tool < 0 and timeout is None:
            return
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if tool >= 0:
            poll.register(tool, select.POLLIN)
        with interrupts.heard():
            events = poll.poll(None if timeout is None else 1000 * timeout)
        if not events:
            raise LaunchError(f"nothing has started within {timeout} seconds", step="launch", errno=errno.ETIMEDOUT)
        if all(fd == tool for fd, _ in events):
            raise _tool_ended()

    def _receive(self) -> tuple[int, int, int] | None:
        """Kind, error and descriptor of the next message; None: no more. A failure is raised."""
        if self._room is None:
            self._room = ffi.new("struct ed_message *"), ffi.new("int *"), ffi.new("int *")
        message, fd, pid = self._room
        while (result := lib.ed_receive(self._control, message, fd, pid)) == -errno.EINTR:
            with interrupts.heard():
                pass
        if _checked(result, "control") == 0:
            return None
        if pid[0] > 0 and message.kind != lib.ED_LISTENER:  # which comes from the init's child
            self.pid = int(pid[0])
        if message.kind == lib.ED_FAILED:
            raise self._failure(message)
        self.step = int(message.step)
        return int(message.kind), int(message.error), int(fd[0])

    def _failure(self, message: Any) -> LaunchError:
        if message.step == lib.ED_NO_STEP:
            return clone_error(message.error)
        detail = ffi.string(message.detail).decode(errors="replace").strip()
        step = self.operations[message.step] if message.step < len(self.operations) else None
        return step_error(step, message.error, detail)


def spawn_launcher(
    launch: Launch,
    stdio: Stdio,
    *,
    flags: int = 0,
    cgroup: int = -1,
    keep_capabilities: bool = False,
    more: Sequence[int] = (),
    by: Spawner | None = None,
    beside: bool = False,
    alone: bool = False,
) -> Started:
    """Start a launcher itself, in new namespaces (``CLONE_NEW*`` in flags), in a cgroup of v2 (a descriptor).

    ``keep_capabilities`` makes them survive the execution whatever the child's uid (for user namespaces); ``more`` are
    the launcher's descriptors from 6 on; ``by`` is to be its parent, None: this program. ``beside``: its namespaces are
    made, and it is executed, while its plan is made and encoded here, on another processor where there is one; it then
    has this thread's affinity as its own, whatever cpuset it comes to, and what fails of that `Launch.ready` raises;
    ``alone``: no other is begun meanwhile, so that it need not sleep while it waits for what it is given.
    Raises `LaunchError`, and what making the plan does.
    """
    if by is not None:
        descriptors, argv = (*launch.descriptors, *more), ("execdrivers-launcher",)
        child = _spawn("", argv, stdio, descriptors, {}, by, flags, cgroup, keep_capabilities)
        launch.pid = child.pid
        return child
    child = launch.begin(
        stdio,
        flags=flags,
        cgroup=cgroup,
        keep_capabilities=keep_capabilities,
        more=more,
        beside=beside,
        alone=alone,
    )
    if beside:
        try:
            launch.give()
        except BaseException:
            launch.close()  # it gives up
            pidfd.reap(child.pidfd)
            raise
    return child


def spawn(
    argv: Sequence[str],
    stdio: Stdio,
    descriptors: Sequence[int] = (),
    *,
    env: Mapping[str, str],
    cgroup: int = -1,
    path: str = "",
    directory: str = "",
    by: Spawner | None = None,
    bound: bool = False,
) -> Started:
    """Start a tool: ``path``, or ``argv[0]``, is absolute. It leads a session of its own and has no descriptors but
    ``stdio`` as 0, 1, 2 (null where negative) and ``descriptors`` from 3 on; ``cgroup`` is one of v2 to be born in,
    ``directory`` its working directory; ``by`` is to be its parent, None: this program. ``bound``: as a child of this
    program it is killed when the calling thread ends, with the program or before. Raises `LaunchError`."""
    return _spawn(path or argv[0], argv, stdio, descriptors, env, by, cgroup=cgroup, directory=directory, bound=bound)


def _spawn(
    path: str,
    argv: Sequence[str],
    stdio: Stdio,
    descriptors: Sequence[int],
    env: Mapping[str, str],
    by: Spawner | None,
    flags: int = 0,
    cgroup: int = -1,
    keep_capabilities: bool = False,
    directory: str = "",
    bound: bool = False,
) -> Started:
    start = functools.partial(spawn_child, bound=bound) if by is None else by.spawn
    with _complete(stdio) as given:
        return start(
            path,
            argv,
            [*given, *descriptors],
            env,
            flags=flags,
            cgroup=cgroup,
            keep_capabilities=keep_capabilities,
            directory=directory,
        )


def _complete(stdio: Stdio) -> contextlib.AbstractContextManager[tuple[int, int, int]]:
    """The three descriptors, with null for each that is missing: where a terminal will take their place."""
    given = (stdio.stdin, stdio.stdout, stdio.stderr)
    return contextlib.nullcontext(given) if min(given) >= 0 else _completed(given)


@contextlib.contextmanager
def _completed(given: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield (
            null if given[0] < 0 else given[0],
            null if given[1] < 0 else given[1],
            null if given[2] < 0 else given[2],
        )
    finally:
        os.close(null)


def spawn_child(
    path: str,
    argv: Sequence[str],
    fds: Sequence[int],
    env: Mapping[str, str],
    *,
    flags: int = 0,
    cgroup: int = -1,
    keep_capabilities: bool = False,
    directory: str = "",
    bound: bool = False,
) -> Started:
    """This program as a `Spawner`; ``bound`` is that of `spawn`."""
    texts = [ffi.new("char[]", os.fsencode(text)) for text in argv]
    variables = [ffi.new("char[]", os.fsencode(f"{key}={value}")) for key, value in env.items()]
    keep = (
        ffi.new("int[]", fds),
        ffi.new("char[]", os.fsencode(directory)) if directory else ffi.NULL,
        ffi.new("char[]", os.fsencode(path)) if path else ffi.NULL,
        ffi.new("char *[]", [*texts, ffi.NULL]),
        ffi.new("char *[]", [*variables, ffi.NULL]),
    )
    caller = os.getpid() if bound else 0
    how = ffi.new("struct ed_spawn *", (keep[0], len(fds), flags, cgroup, int(keep_capabilities), caller, *keep[1:]))
    child = ffi.new("struct ed_child *")
    try:
        result = lib.ed_spawn(how, child)
    except BaseException:  # an interrupt, which Python notices as the call returns
        if child.pid > 0:
            pidfd.send_signal(child.pidfd, signal.SIGKILL)
            pidfd.reap(child.pidfd)
        raise
    if result < 0:
        raise failed("spawn", path, -result) if path else clone_error(-result)
    return Started(child.pid, child.pidfd)


def _tool_ended() -> LaunchError:
    return LaunchError("the tool ended without having started the container", step="launch")


def _launcher_ended(operations: Iterable[Operation]) -> LaunchError:
    message = "the launcher was killed before the container was ready"
    remedy = "raise the memory limit if it is small; the kernel's log says who killed it"
    if any(item.name == "seccomp" and item.args[2] == "now" for item in operations):
        remedy = (
            "without no_new_privileges the seccomp profile holds for the launcher, too: have it allow sendmsg, read"
        )
    return LaunchError(message, step="launch", remedy=remedy)


def _checked(result: int, step: str, path: str = "") -> int:
    if result < 0:
        raise failed(step, path, -result)
    return result
