"""The driver interface, version 1: what a driver is given and what it must answer.

A driver turns a `ContainerSpec` into a contained process. The engine does the rest for every driver alike:
policy hooks, the check of asked-for features, stdio, timeouts, the store. So a driver sees only specs whose
features its `probe` declared, and file descriptors that are ready to be used.
"""

from __future__ import annotations

import abc
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from execdrivers.errors import UnsupportedFeature
from execdrivers.exit import Exit

if TYPE_CHECKING:
    from execdrivers.launcher import Spawner
    from execdrivers.spec import ContainerSpec, Resources
    from execdrivers.stats import Stats

__all__ = [
    "INTERFACE_VERSION",
    "CreateRequest",
    "Driver",
    "ExecRequest",
    "Handle",
    "Notice",
    "Plan",
    "Probe",
    "Problem",
    "ProcessHandle",
    "Stdio",
    "Step",
]

#: (major, minor). A plugin of another major version is refused; a higher minor only adds.
INTERFACE_VERSION: tuple[int, int] = (1, 2)


@attrs.frozen
class Problem:
    """Why something is not to be had here, and what would fix it."""

    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


@attrs.frozen(kw_only=True)
class Probe:
    """A driver's answer to: can you run here, and what can you enforce?

    ``features`` are names from `execdrivers.features.FEATURES`; ``missing`` says why a feature the driver knows of
    cannot be had on this host. ``problems`` says why the driver is not available at all. ``facts`` is free-form JSON
    for people (kernel, cgroup layout, tools found).
    """

    available: bool
    version: str
    features: frozenset[str] = frozenset()
    missing: Mapping[str, Problem] = attrs.field(factory=dict)
    problems: tuple[Problem, ...] = ()
    facts: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Step:
    """One step of a plan: a verb and its JSON arguments."""

    op: str
    args: Mapping[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return " ".join([self.op, *(f"{key}={_plain(value)}" for key, value in self.args.items())])


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value if value and value.isprintable() and not set(value) & set(" '\"=") else repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value)


@attrs.frozen(kw_only=True)
class Plan:
    """What a driver will do for a spec, as data. ``str()`` is for people, `to_dict` for programs and tests.

    The same spec on the same host gives the same plan; making one runs nothing.
    """

    driver: str
    steps: tuple[Step, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form: ``{"driver": …, "steps": [{"op": …, …}, …]}``."""
        return {"driver": self.driver, "steps": [{"op": step.op, **step.args} for step in self.steps]}

    def __str__(self) -> str:
        return "\n".join(str(step) for step in self.steps)


@attrs.frozen
class Stdio:
    """The three file descriptors the command gets as 0, 1 and 2. The engine owns and closes them.

    Not used when the spec asks for a ``tty``: then the driver makes a terminal and `Handle.terminal` is its master.
    """

    stdin: int
    stdout: int
    stderr: int


@attrs.frozen(kw_only=True)
class CreateRequest:
    """All that `Driver.create` is given.

    ``directory`` is the container's own directory in the store: the driver may keep files below it; the engine removes
    it after `Handle.delete`. What is given for it may be a function that makes it when it is first asked for, and
    raises `StoreError` then.

    ``accounting``: what the container uses is to be counted from its birth, for `Handle.stats`, also where nothing is
    limited; as far as that can be had.

    ``intend`` records a `Handle.state` of what is about to be made: when the program is killed before `Driver.create`
    has returned, `Driver.recover` is given it, to delete what there is of it. Raises `StoreError`.

    ``spawner`` is to be the parent of all processes that the driver makes for the container, where that is to outlive
    this program (feature ``detach``): it is passed on to `execdrivers.launcher`. None: this program is.

    ``born`` is given where the container is to be started as soon as it is made, and there is no need to wait with that
    for `Handle.start`: a driver may call it, once, with the handle, when the first process is there, so that its
    `Handle.state` finds it again, and may from then on let the command be executed. `Handle.start` then waits for what
    came of that, and raises what `Driver.create` else would have. It raises `StoreError`: then undo all, as ever. Who
    wraps another driver's handle passes on None.
    """

    id: str
    spec: ContainerSpec
    stdio: Stdio
    _directory: str | Callable[[], str]
    accounting: bool = False
    intend: Callable[[Mapping[str, Any]], object] = lambda state: None
    spawner: Spawner | None = None
    born: Callable[[Handle], object] | None = None

    @property
    def directory(self) -> str:
        """The container's own directory. Raises `StoreError` where it is made now, and cannot be."""
        return self._directory if isinstance(self._directory, str) else self._directory()


@attrs.frozen(kw_only=True)
class ExecRequest:
    """All that `Handle.exec` is given: one more process for a running container.

    ``spec`` is the container's own with what concerns the process (``args``, ``env``, ``cwd``, ``user``, ``tty``,
    ``capabilities`` …) as asked for; what concerns the container in it is in force already. ``id`` is unique among the
    processes of the container. ``directory`` is the container's own, as in `CreateRequest`.

    ``admit`` is given to a handle that says that it `Handle.admits`: it keeps other programs from changing the
    container until `Handle.exec` returns, and heeds what they have done to it before. To be called once, before the
    process is in the container or can be seen there. What it raises (`InvalidState`, `ContainerNotFound`, `StoreError`)
    `Handle.exec` raises, and leaves nothing.
    """

    id: str
    spec: ContainerSpec
    stdio: Stdio
    directory: str
    admit: Callable[[], object] | None = None


class Driver(abc.ABC):
    """A way to contain a process. One instance serves all threads of a program."""

    #: Registered name, unique among drivers.
    name: ClassVar[str]
    #: One line for ``execdrivers drivers``.
    summary: ClassVar[str] = ""
    #: The interface version the driver was written for.
    interface_version: ClassVar[tuple[int, int]] = INTERFACE_VERSION
    #: ``auto`` takes the available driver of the greatest strength; below 0: never taken by ``auto``.
    strength: ClassVar[int] = 0
    #: Where it knowingly differs: "TestArea::test_name" of the conformance kit, perhaps with "[parameter]" → why.
    deviations: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def probe(self) -> Probe:
        """Whether and what the driver can do here, found out by looking or trying; no side effect remains."""

    @abc.abstractmethod
    def plan(self, spec: ContainerSpec, id: str) -> Plan:
        """What `create` and `start` would do for this spec; runs nothing, needs no privilege.

        Raises `SpecError` for what only this driver can see to be wrong.
        """

    @abc.abstractmethod
    def create(self, request: CreateRequest) -> Handle:
        """Make the container up to, not including, the execution of its command.

        On any error nothing is left behind and `SpecError` or `LaunchError` is raised.
        """

    @abc.abstractmethod
    def recover(self, id: str, state: Mapping[str, Any], directory: str) -> Handle:
        """The handle again, from what `Handle.state` gave, perhaps in another process after a crash.

        Works for a container that has ended as well: then `Handle.pid` is None and `Handle.delete` still cleans up.
        """


@attrs.frozen(kw_only=True)
class Notice:
    """A descriptor that tells something of a running container; who got it closes it.

    ``type``: the type of the event. ``events``: the poll(2) mask to wait for: POLLIN, an eventfd(2) that does not block
    and is read; POLLPRI, a file of the kernel's. ``count_fd``: a file with a line ``oom_kill N``, read again from its
    start each time: the event is that N has grown, also a moment later. -1: every notice is an event.
    """

    type: Literal["oom", "memory_pressure"]
    fd: int
    events: int
    count_fd: int = -1

    def close(self) -> None:
        """Close its descriptors. Once."""
        for fd in {self.fd, self.count_fd} - {-1}:
            os.close(fd)


class ProcessHandle(abc.ABC):
    """A driver's hold on one process in a container: the first (`Handle`), or one that `Handle.exec` has started."""

    #: Pid as the host sees it; None once it has ended.
    pid: int | None
    #: Readable (poll(2)) when the process has ended; a pidfd where there is one. -1 when there is none left.
    exit_fd: int
    #: Master side of the process's terminal when the spec asked for a tty, else None. The engine closes it.
    terminal: int | None = None
    #: Listener of the process's seccomp filter, once started, when a rule says SCMP_ACT_NOTIFY and no ``listenerPath``
    #: is given (feature ``seccomp.notify``), else None. `close` closes it.
    seccomp_listener: int | None = None
    #: Sockets on which launchers tell how the process ended (`Launch.channel`, `Reaper.channel`), once started: for who
    #: waits in this program's place (feature ``detach``). The handle keeps and closes them.
    channels: Sequence[int] = ()

    @abc.abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process. Raises ProcessLookupError when it has ended."""

    @abc.abstractmethod
    def exit(self) -> Exit:
        """How it ended; called once `exit_fd` is readable. Waits for nothing but what ends with it."""

    def close(self) -> None:
        """Let go of the handle's descriptors; the process, once started, lives on. May be called twice."""
        if self.exit_fd >= 0:
            os.close(self.exit_fd)
            self.exit_fd = -1
        if self.seccomp_listener is not None:
            os.close(self.seccomp_listener)
            self.seccomp_listener = None


class Handle(ProcessHandle):
    """A driver's hold on one container. Methods may be called from any thread, but the engine serialises them.

    ``pid``, ``exit_fd``, ``terminal``, `signal` and `exit` are about its first process; `exit` comes before `delete`.
    `close` is called instead of `delete` where the container is to live on without this program.
    """

    #: Whether `exec` calls `ExecRequest.admit` itself, so that it can prepare before; else that is done already.
    admits: ClassVar[bool] = False

    def identity(self) -> tuple[int, int] | None:
        """Pid and start time (`execdrivers.pidfd.start_time`) of the first process; None when there is none."""
        from execdrivers.record import identity

        return identity(self.pid)

    @abc.abstractmethod
    def start(self) -> None:
        """Execute the command. Raises `LaunchError` (`CommandNotFound`, `CommandNotExecutable`) when that fails."""

    def go(self) -> None:
        """As `start`, for who has no use for the moment when the command is executed: where that was let go before
        (`CreateRequest.born`) a driver need not wait for it. What `start` would have raised then `exit` raises."""
        self.start()

    @abc.abstractmethod
    def kill(self) -> None:
        """Kill every process of the container, paused or not. No error when there is none."""

    @abc.abstractmethod
    def delete(self) -> None:
        """Kill what still lives, free all the driver made outside ``directory``, close the handle's descriptors.

        May be called in any state and more than once.
        """

    @abc.abstractmethod
    def state(self) -> Mapping[str, Any]:
        """What `Driver.recover` needs, as JSON."""

    def guarantees(self) -> Mapping[str, Any]:
        """What is in force for this container, as JSON: namespaces, capabilities, limits, seccomp …"""
        return {}

    def pids(self) -> Sequence[int]:
        """The host's pids of all processes in the container (feature ``pids``)."""
        raise self._unsupported("pids")

    def stats(self) -> Stats:
        """What the container uses now (feature ``stats``); called before `exit`, which may be at its end."""
        raise self._unsupported("stats")

    def notices(self) -> Sequence[Notice]:
        """What tells of the container's memory while it runs (feature ``events``); none where nothing would."""
        return ()

    def exec(self, request: ExecRequest) -> ProcessHandle:
        """Run one more process in the container (feature ``exec``); it ends with the container at the latest.

        Called while the container runs. Raises `LaunchError` (`CommandNotFound`, `CommandNotExecutable`) when the
        process cannot be brought to execute its command; nothing is left then.
        """
        raise self._unsupported("exec")

    def pause(self) -> None:
        """Freeze every process of the container; on return they stand still (feature ``pause``)."""
        raise self._unsupported("pause")

    def resume(self) -> None:
        """Let a paused container go on (feature ``pause``). No error when it is not paused."""
        raise self._unsupported("pause")

    def update(self, resources: Resources) -> None:
        """Set the limits that ``resources`` gives; those it leaves unset stay (feature ``update``).

        Raises `OperationError` with the kernel's reason when one is refused; `pause` and `resume` do so too.
        """
        raise self._unsupported("update")

    def _unsupported(self, feature: str, alternatives: Iterable[str] = ()) -> UnsupportedFeature:
        return UnsupportedFeature(type(self).__name__, feature, "", alternatives=alternatives)
