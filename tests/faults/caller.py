"""Faults of the calling program: killed at any time, its system calls failing, its resources used up."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from typing import Any
from unittest import mock

from execdrivers import DEVNULL, Engine, ExecDriverError
from execdrivers.launcher import Launch, operation
from execdrivers_native import start
from execdrivers_native.compile import compile
from execdrivers_native.host import look

from ..fuzz import plans  # noqa: TID252 - not a package that can be named
from .campaign import Fault, Laboratory
from .inject import number

__all__ = ["Callers"]

#: What the caller asks the kernel for while it makes a container, and what may come of it.
CALLS: dict[str, tuple[str, ...]] = {
    "memfd_create": ("EMFILE", "ENOMEM"),
    "socketpair": ("EMFILE", "ENOBUFS"),
    "clone3": ("EAGAIN", "ENOMEM"),
    "mkdir": ("ENOSPC", "EACCES"),
    "openat": ("EMFILE", "ENFILE"),
    "write": ("ENOSPC", "EIO"),
    "rename": ("ENOSPC",),
    "renameat": ("ENOSPC",),
    "recvmsg": ("ENOMEM",),
    "sendto": ("ENOBUFS",),
    "fcntl": ("ENOMEM",),
    "setsockopt": ("ENOMEM",),
    "flock": ("ENOLCK",),
    "pipe2": ("EMFILE",),
}
_EACH = 6
_NAME = "caller"


class Callers:
    """Programs, forked from this one, that make one container each, which would run for long."""

    def __init__(self, laboratory: Laboratory) -> None:
        self._laboratory = laboratory
        self._root = laboratory.scratch / "callers"

    # --- killed

    def operations(self, plan: str) -> list[str]:
        """Names of the plan's operations up to the execution."""
        spec = plans.spec(self._laboratory.rootfs, plan, "sleep", "100")
        return [item.step().op for item in compile(spec, _NAME, look()).operations[:-1]]

    def kill_after(self, plan: str, index: int) -> Fault:
        """The caller is killed while the launcher stands behind that operation; then the container is deleted."""

        def launch(operations: Any, *args: Any, points: Any = None, **more: Any) -> Launch:
            given = list(operations)
            given.insert(index + 1, operation("sync", "faults"))
            return Launch(given, *args, points={**(points or {}), "faults": _die}, **more)

        def program() -> None:
            with mock.patch.object(start, "Launch", launch):
                self._make(plan)

        return self._killed(plan, f"after operation {index + 1}", self.operations(plan)[index], program)

    def kill_at(self, plan: str, call: str, at: int) -> Fault:
        """The caller is killed as it makes that system call."""
        inject = f"-einject={call}:signal=SIGKILL:when={at}"
        return self._killed(plan, call, "", lambda: self._make(plan), (inject,))

    def _killed(
        self, plan: str, call: str, step: str, program: Callable[[], object], inject: tuple[str, ...] = ()
    ) -> Fault:
        before = self._laboratory.snapshot()
        pid, told = self._fork(program, inject)
        _, status = os.waitpid(pid, 0)
        told()
        finding = "" if os.WIFSIGNALED(status) or inject else f"it was not killed: {status}"
        with Engine(root=self._root) as engine:
            for each in engine.list():
                engine.delete(each.name, force=True)
        if orphans := _reap(5):
            finding = f"processes live on: {orphans}"
        left = self._laboratory.left(before) + glob("*", root_dir=self._root)
        return Fault(plan, call, 0, "SIGKILL", step, "; ".join([*filter(None, [finding]), *left]))

    # --- failing

    def calls(self, plan: str) -> Iterator[tuple[str, int]]:
        """(call, the how-manieth of its name) that a caller makes."""
        log = self._laboratory.scratch / "calls"
        pid, told = self._fork(lambda: self._make(plan), ("-o", str(log)))
        os.waitpid(pid, 0)
        told()
        counts = Counter(line.split("(")[0] for line in log.read_text(errors="replace").splitlines())
        for call in CALLS:
            places = {1 + round(i * (counts[call] - 1) / (_EACH - 1)) for i in range(_EACH)} if counts[call] else ()
            yield from ((call, at) for at in sorted(places))

    def fail(self, plan: str, call: str, at: int, error: str) -> Fault:
        """That system call of the caller's fails."""
        inject = f"-einject={call}:error={error}:when={at}"
        return self._tried(plan, call, at, error, lambda: self._make(plan), (inject,))

    def few_descriptors(self, plan: str, more: int) -> Fault:
        """Only so many descriptors can be had."""

        def program() -> None:
            limit = max(map(int, os.listdir("/proc/self/fd"))) + more
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            self._make(plan)

        return self._tried(plan, f"descriptors: {more}", 0, "EMFILE", program)

    def full_store(self, plan: str, inodes: int) -> Fault:
        """The store is a file system with room for so many files."""
        self._root.mkdir(exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"nr_inodes={inodes},mode=700", "tmpfs", str(self._root)], check=True
        )
        try:
            return self._tried(plan, f"files of the store: {inodes - 1}", 0, "ENOSPC", lambda: self._make(plan))
        finally:
            subprocess.run(["umount", str(self._root)], check=True)

    def no_processes(self, plan: str) -> Fault:
        """The caller's cgroup takes no further process."""
        cgroup = Path(f"/sys/fs/cgroup/pids/ed-faults-{os.getpid()}")
        cgroup.mkdir()
        try:

            def program() -> None:
                (cgroup / "cgroup.procs").write_text("0")
                (cgroup / "pids.max").write_text("1")
                self._make(plan)

            return self._tried(plan, "pids.max: 1", 0, "EAGAIN", program)
        finally:
            cgroup.rmdir()

    def _tried(
        self,
        plan: str,
        call: str,
        at: int,
        error: str,
        program: Callable[[], object],
        inject: tuple[str, ...] = (),
    ) -> Fault:
        before = self._laboratory.snapshot()
        pid, told = self._fork(program, inject)
        os.waitpid(pid, 0)
        outcome = told()
        finding = ""
        if outcome is None:
            finding = "the caller was killed"
        elif outcome["error"] and not (outcome["ours"] and os.strerror(number(error)) in outcome["error"]):
            finding = outcome["error"]
        elif outcome["descriptors"]:
            finding = f"descriptors left: {outcome['descriptors']}"
        if orphans := _reap(5):
            finding = f"processes live on: {orphans}"
        left = self._laboratory.left(before) + glob("*", root_dir=self._root)
        step = "" if outcome is None else outcome["step"]
        return Fault(plan, call, at, error, step or "(none)", "; ".join([*filter(None, [finding]), *left]))

    # --- the program

    def _make(self, plan: str) -> None:
        spec = plans.spec(self._laboratory.rootfs, plan, "sleep", "100")
        stdio: dict[str, Any] = {} if spec.tty else {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
        with Engine(root=self._root) as engine:
            container = engine.create(spec, driver="native", name=_NAME, **stdio)
            container.start()
            container.delete(force=True)

    def _fork(self, program: Callable[[], object], inject: tuple[str, ...]) -> tuple[int, Callable[[], Any]]:
        """The pid of a program that begins when it is traced, and a function for what it tells in the end."""
        begin, tell = os.pipe(), os.pipe()
        with contextlib.suppress(ExecDriverError):
            self._make("default")  # all is loaded, so that only what belongs to the container is called
        pid = os.fork()
        if pid == 0:
            os.close(begin[1])
            os.close(tell[0])
            try:
                before = set(os.listdir("/proc/self/fd"))
                os.read(begin[0], 1)
                _attempt(program, tell[1], before)
            finally:
                os._exit(1)
        os.close(begin[0])
        os.close(tell[1])
        if inject:
            subprocess_ = subprocess.Popen(
                ["strace", "-qqq", *(() if inject[0] == "-o" else ("-o", "/dev/null")), *inject, "-p", str(pid)],
                stderr=subprocess.DEVNULL,
            )
            while f"TracerPid:\t{subprocess_.pid}\n" not in Path(f"/proc/{pid}/status").read_text():
                pass
        os.close(begin[1])

        def told() -> Any:
            with os.fdopen(tell[0]) as file:
                text = file.read()
            if inject:
                subprocess_.wait(20)
            return json.loads(text) if text else None

        return pid, told


def _attempt(program: Callable[[], object], tell: int, before: set[str]) -> None:
    """Run it and tell what came of it, and which descriptors it has left besides those before."""
    outcome: dict[str, Any] = {"error": "", "step": ""}
    try:
        program()
    except BaseException as error:
        outcome = {
            "error": repr(error),
            "ours": isinstance(error, ExecDriverError),
            "step": getattr(error, "step", "") or getattr(error, "operation", ""),
        }
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1:] * 2)
    with contextlib.suppress(OSError):
        outcome["descriptors"] = _left(before)
    if "descriptors" not in outcome:  # the fault hit us
        outcome["descriptors"] = _left(before)
    text = json.dumps(outcome).encode()
    try:
        os.write(tell, text)
    except OSError:
        os.write(tell, text)  # the fault hit us


def _left(before: set[str]) -> list[str]:
    """The descriptors there are more, but for the launcher that the next launch will have."""
    more = {}
    for fd in sorted(set(os.listdir("/proc/self/fd")) - before):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            more[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return [fd for fd, target in more.items() if not target.startswith("/memfd:execdrivers-launcher ")]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _reap(patience: float) -> list[int]:
    """Reap what has come to us as orphans; the pids of those that live on."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.005)
        except ChildProcessError:
            return []
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]
