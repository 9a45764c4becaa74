"""A small real driver for tests of the engine: plain processes of the host, each in a process group of its own.

It contains nothing and says so by its features; what the engine relies on is all there: a pidfd, true exits, a
terminal, recovery, and a process that dies by itself when its maker is killed before the start.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from execdrivers import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerSpec,
    CreateRequest,
    Driver,
    Engine,
    ExecRequest,
    Exit,
    Handle,
    Plan,
    Probe,
    ProcessHandle,
    Registry,
    Resources,
    Step,
    hookimpl,
    pidfd,
)

#: Waits for a line on descriptor 3, then becomes the command.
_WAITER = 'read -r go <&3 || exit 125; exec 3<&-; exec "$@"'


class HostProcess(ProcessHandle):
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_fd = pidfd.open(pid)

    def signal(self, number: signal.Signals) -> None:
        pidfd.send_signal(self.exit_fd, number)

    def exit(self) -> Exit:
        status = pidfd.wait_status(self.exit_fd)
        return Exit.from_wait_status(status)


class HostHandle(Handle):
    def __init__(self, state: Mapping[str, Any], exit_fd: int, go: int = -1, args: Sequence[str] = ()) -> None:
        self._state = dict(state)
        self._go = go
        self._others: list[HostProcess] = []
        self._args = args
        self.pid = state["pid"] if exit_fd >= 0 else None
        self.exit_fd = exit_fd

    def start(self) -> None:
        command = self._args[0]
        if not shutil.which(command):
            if os.path.exists(command):
                raise CommandNotExecutable(f"cannot execute {command}", step="exec", path=command, errno=13)
            raise CommandNotFound(f"there is no command {command}", step="exec", path=command, errno=2)
        go, self._go = self._go, -1
        os.write(go, b"\n")
        os.close(go)

    def signal(self, number: signal.Signals) -> None:
        if self.exit_fd < 0:
            raise ProcessLookupError
        pidfd.send_signal(self.exit_fd, number)

    def kill(self) -> None:
        for process in self._others:
            if process.exit_fd >= 0:
                process.signal(signal.SIGKILL)
        try:
            os.killpg(self._state["pid"], signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def exit(self) -> Exit:
        status = pidfd.wait_status(self.exit_fd) if self.exit_fd >= 0 else None
        return Exit.from_wait_status(status)

    def delete(self) -> None:
        if self.exit_fd >= 0:
            self.kill()
            import select

            poll = select.poll()
            poll.register(self.exit_fd, select.POLLIN)
            poll.poll()
            pidfd.wait_status(self.exit_fd)
            os.close(self.exit_fd)
        if self._go >= 0:
            os.close(self._go)
        self.pid, self.exit_fd, self._go = None, -1, -1

    def exec(self, request: ExecRequest) -> HostProcess:
        given = request.stdio.stdin, request.stdio.stdout, request.stdio.stderr
        actions = [(os.POSIX_SPAWN_DUP2, fd, 200 + number) for number, fd in enumerate(given)]
        actions += [(os.POSIX_SPAWN_DUP2, 200 + number, number) for number in range(3)]
        actions += [(os.POSIX_SPAWN_CLOSE, 200 + number) for number in range(3)]
        command, environment = request.spec.args, {"PATH": os.environ["PATH"], **request.spec.env}
        try:
            pid = os.posix_spawnp(command[0], command, environment, file_actions=actions)
        except FileNotFoundError as error:
            raise CommandNotFound(str(error), step="exec", path=command[0], errno=2) from None
        self._others.append(process := HostProcess(pid))
        return process

    def pause(self) -> None:
        group, stopped = self._state["pid"], os.WSTOPPED | os.WNOWAIT | os.WNOHANG
        while True:  # on return it stands still
            os.killpg(group, signal.SIGSTOP)
            for _ in range(100):
                if os.waitid(os.P_PID, group, stopped):
                    return
                time.sleep(0.001)
            # A shell waits for its child to execute (vfork), and that child stands still already: again.
            os.killpg(group, signal.SIGCONT)

    def resume(self) -> None:
        os.killpg(self._state["pid"], signal.SIGCONT)

    def update(self, resources: Resources) -> None:
        import resource

        assert self.pid is not None
        if resources.pids is not None:
            resource.prlimit(self.pid, resource.RLIMIT_NPROC, (resources.pids, resources.pids))

    def state(self) -> Mapping[str, Any]:
        return self._state

    def guarantees(self) -> Mapping[str, Any]:
        return {"contained": False}

    def pids(self) -> Sequence[int]:
        return [self._state["pid"]]


FEATURES = frozenset({"rootfs.host", "tty", "pids", "stop-signal", "exec", "pause", "update", "cgroup.pids", "cwd"})


class HostDriver(Driver):
    name = "host"
    summary = "plain processes, for tests"

    def probe(self) -> Probe:
        return Probe(available=True, version="1", features=FEATURES)

    def plan(self, spec: ContainerSpec, id: str) -> Plan:
        return Plan(driver=self.name, steps=(Step("exec", {"id": id, "argv": list(spec.args)}),))

    def create(self, request: CreateRequest) -> HostHandle:
        read, go = os.pipe()
        terminal = None
        actions: list[tuple[Any, ...]] = []
        if request.spec.tty:
            actions.append((os.POSIX_SPAWN_DUP2, read, 3))
            terminal, slave = os.openpty()
            actions.append((os.POSIX_SPAWN_OPEN, 0, os.ttyname(slave), os.O_RDWR, 0))
            actions += [(os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2)]
        else:
            # Doubled above the standard ones first, lest one overwrite another.
            given = request.stdio.stdin, request.stdio.stdout, request.stdio.stderr, read
            actions += [(os.POSIX_SPAWN_DUP2, fd, 200 + number) for number, fd in enumerate(given)]
            actions += [(os.POSIX_SPAWN_DUP2, 200 + number, number) for number in range(4)]
            actions += [(os.POSIX_SPAWN_CLOSE, 200 + number) for number in range(4)]
        argv = ["sh", "-c", _WAITER, "sh", *request.spec.args]
        environment = {"PATH": os.environ["PATH"], **request.spec.env}
        # setsid makes a process group as well.
        pid = os.posix_spawn("/bin/sh", argv, environment, file_actions=actions, setsid=True)
        os.close(read)
        if terminal is not None:
            os.close(slave)
        state = {"pid": pid, "start_time": pidfd.start_time(pid)}
        handle = HostHandle(state, pidfd.open(pid), go, request.spec.args)
        handle.terminal = terminal
        return handle

    def recover(self, id: str, state: Mapping[str, Any], directory: str) -> HostHandle:
        return HostHandle(state, pidfd.open_checked(state["pid"], state["start_time"]) or -1)


class HostPlugin:
    @hookimpl
    def execdrivers_register_drivers(self) -> list[type[Driver]]:
        return [HostDriver]


@pytest.fixture
def registry() -> Registry:
    """Only the driver of this file."""
    registry = Registry(built_in={}, entry_points=False)
    registry.register(HostPlugin())
    return registry


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The state root of ``engine``."""
    return tmp_path / "state"


@pytest.fixture
def engine(no_leaks: None, registry: Registry, root: Path) -> Iterator[Engine]:
    """An engine on the driver of this file, leak-checked."""
    with Engine(root, registry=registry) as engine:
        yield engine
    assert not root.exists() or glob("*", root_dir=root) == []


@pytest.fixture
def make(engine: Engine) -> Callable[..., Any]:
    """A shell command → a container, with stdout piped unless told otherwise."""

    def make(command: str, **options: Any) -> Any:
        spec = ContainerSpec(["sh", "-c", command], **options.pop("spec", {}))
        return engine.create(spec, **{"stdout": -1, **options})

    return make


@pytest.fixture
def program(tmp_path: Path, root: Path) -> Callable[[str], list[str]]:
    """Python text → argv of another program, with ``engine`` on the same root and ``sh(command)`` → spec."""
    head = f"""
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("host_driver", {__file__!r})
host = importlib.util.module_from_spec(spec); spec.loader.exec_module(host)
from execdrivers import ContainerSpec, Engine, Registry
registry = Registry(built_in={{}}, entry_points=False); registry.register(host.HostPlugin())
engine = Engine({str(root)!r}, registry=registry)
sh = lambda command: ContainerSpec(["sh", "-c", command])
"""

    def program(text: str) -> list[str]:
        import sys

        return [sys.executable, "-c", head + text]

    return program
