"""The chroot driver: another root directory, another user, and nothing else that contains.

docs/writing-a-driver.md explains this file.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from execdrivers import __version__, defaults, kernel, pidfd, users
from execdrivers.driver import CreateRequest, Driver, Handle, Plan, Probe, Problem, Step
from execdrivers.errors import CommandNotExecutable, CommandNotFound, LaunchError, SpecError, UnsupportedFeature
from execdrivers.exit import Exit
from execdrivers.spec import ContainerSpec

__all__ = ["ChrootDriver", "ChrootHandle"]

#: What is enforced, and what is openly shared with the host. All else is refused by the engine.
FEATURES = frozenset({"rootfs", "user", "groups", "other-users", "cwd", "umask", "signal", "recover"}) | {
    f"namespace.host.{kind}" for kind in ("pid", "mount", "uts", "ipc", "network", "cgroup", "user", "time")
}
#: What the caller must be able to do, by bit number: capabilities(7).
NEEDED = {"CAP_SYS_CHROOT": 18, "CAP_SETUID": 7, "CAP_SETGID": 6, "CAP_KILL": 5}

_KILL_SECONDS = 10.0  # a process in uninterruptible sleep must not hold the caller for ever
_one_at_a_time = threading.Lock()


class ChrootDriver(Driver):
    """Plans, and makes handles; all that happens, happens in the handle."""

    name = "chroot"
    summary = "another root directory and user; no protection against a hostile process"
    strength = -1
    deviations: ClassVar[Mapping[str, str]] = {
        "TestEnvironment::test_signals_that_the_caller_ignores_are_not_ignored": "subprocess, which this driver is "
        "made of, resets no dispositions but those that Python itself has set",
    }

    def probe(self) -> Probe:
        effective = kernel.capabilities()
        lacking = [name for name, bit in NEEDED.items() if not effective >> bit & 1]
        problems = [Problem(f"this process lacks {', '.join(lacking)}", "run as root")] if lacking else []
        return Probe(available=not lacking, version=__version__, features=FEATURES, problems=tuple(problems))

    def plan(self, spec: ContainerSpec, id: str) -> Plan:
        for key, value in spec.driver_options.get(self.name, {}).items():
            raise SpecError(f'driver_options["chroot"]["{key}"]', value, "is no option of this driver", "it has none")
        os.close(open_rootfs(spec))
        user = users.resolve(spec.user, spec.rootfs, spec.additional_gids)
        environment = defaults.environment(spec, user.home, os.uname().nodename)
        steps = (
            Step("chroot", {"path": spec.rootfs}),
            Step("chdir", {"path": spec.cwd or "/"}),
            Step("umask", {"mask": f"{0o022 if spec.umask is None else spec.umask:03o}"}),
            Step("setsid"),
            # Never an empty list: some releases of Python would keep the caller's groups (CVE-2023-6507).
            Step("setgroups", {"gids": list(user.groups) or [user.gid]}),
            Step("setgid", {"gid": user.gid}),
            Step("setuid", {"uid": user.uid}),
            Step("exec", {"args": list(spec.args), "env": environment}),
        )
        return Plan(driver=self.name, steps=steps)

    def create(self, request: CreateRequest) -> ChrootHandle:
        handle = ChrootHandle(self.plan(request.spec, request.id))
        try:
            handle.kept.append(open_rootfs(request.spec))
            # The engine closes its own descriptors, so those kept until the start are copies.
            for fd in (request.stdio.stdin, request.stdio.stdout, request.stdio.stderr):
                handle.kept.append(os.dup(fd))
        except BaseException:
            handle.delete()
            raise
        return handle

    def recover(self, id: str, state: Mapping[str, Any], directory: str) -> ChrootHandle:
        handle = ChrootHandle(Plan(driver=self.name, steps=()))
        handle.session, handle.start_time = state["pid"], state["start_time"]
        fd = pidfd.open_checked(handle.session, handle.start_time)
        if fd is not None:
            handle.pid, handle.exit_fd = handle.session, fd
        return handle


class ChrootHandle(Handle):
    """The process and the session it leads. Until `start` there is none, only the plan and what it needs."""

    def __init__(self, plan: Plan) -> None:
        self.pid: int | None = None
        self.exit_fd = -1
        self.session: int | None = None
        self.start_time: int | None = None
        self.steps = {step.op: step.args for step in plan.steps}
        self.kept: list[int] = []  # the open root directory, stdin, stdout, stderr

    def start(self) -> None:
        try:
            self.pid = self.session = launch(self.steps, *self.kept)
        finally:
            self._close_kept()
        self.start_time = pidfd.start_time(self.pid)
        self.exit_fd = pidfd.open(self.pid)

    def signal(self, number: signal.Signals) -> None:
        if self.pid is None:
            raise ProcessLookupError("the process has ended, or was never started")
        pidfd.send_signal(self.exit_fd, number)

    def kill(self) -> None:
        deadline = time.monotonic() + _KILL_SECONDS
        while (groups := self._living_groups()) and time.monotonic() < deadline:
            for group in groups:
                try:
                    os.killpg(group, signal.SIGKILL)  # a whole group at one stroke: no fork slips through
                except ProcessLookupError:
                    pass  # ended meanwhile
            time.sleep(0.001)

    def exit(self) -> Exit:
        # First the others: once the first process is reaped, its pid is free to become the id of another session.
        self.kill()
        status = pidfd.wait_status(self.exit_fd)
        self.pid = self.session = None
        return Exit.from_wait_status(status)

    def delete(self) -> None:
        self.kill()
        if self.exit_fd >= 0:
            pidfd.wait_status(self.exit_fd)
        self.pid = self.session = None
        self.close()

    def close(self) -> None:
        self._close_kept()
        super().close()

    def state(self) -> Mapping[str, Any]:
        return {"pid": self.session, "start_time": self.start_time}

    def guarantees(self) -> Mapping[str, Any]:
        return {op: dict(self.steps[op]) for op in ("chroot", "setgroups", "setgid", "setuid") if op in self.steps}

    def _close_kept(self) -> None:
        while self.kept:
            os.close(self.kept.pop())

    def _living_groups(self) -> set[int]:
        """Process groups of the session that have a living process."""
        groups: set[int] = set()
        # A pid in use by another process proves that nobody is left in the session of that number.
        if not self.session or pidfd.start_time(self.session) not in (None, self.start_time):
            return groups
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()  # from the third on: proc_pid_stat(5)
            except OSError:
                continue  # ended meanwhile
            living = fields[0] not in b"ZX" or int(fields[17]) > 1  # the first thread may end before the others
            if living and int(fields[3]) == self.session:
                groups.add(int(fields[2]))
        return groups


def open_rootfs(spec: ContainerSpec) -> int:
    """The root directory, opened: what is checked now is what is entered later, wherever the path then leads."""
    if spec.rootfs is None:
        raise UnsupportedFeature("chroot", "rootfs.host", "rootfs", remedy="set rootfs, or use driver 'native'")
    try:
        return os.open(spec.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        problem = f"cannot be a root directory: {error.strerror}"
        raise SpecError("rootfs", spec.rootfs, problem, "give a directory that holds a root file system") from None


def launch(steps: Mapping[str, Mapping[str, Any]], rootfs: int, stdin: int, stdout: int, stderr: int) -> int:
    """Do what the plan says; the pid. Raises `LaunchError`.

    A thread that shares root, working directory and umask with no other thread enters the new root, and what it spawns
    inherits all three. So there is no Python code between fork and exec.
    """
    step, pid, failure = "unshare", 0, None

    def body() -> None:
        nonlocal step, pid, failure
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what this program has blocked is its own affair
            unshare_fs()
            step = "chroot"
            os.fchdir(rootfs)
            os.chroot(".")
            step = "chdir"
            os.chdir(steps["chdir"]["path"])
            os.umask(int(steps["umask"]["mask"], 8))
            step = "exec"
            process = subprocess.Popen(
                steps["exec"]["args"],
                env=steps["exec"]["env"],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                extra_groups=steps["setgroups"]["gids"],
                group=steps["setgid"]["gid"],
                user=steps["setuid"]["uid"],
            )
            pid = process.pid
            process.returncode = 0  # waiting is for the pidfd: Popen must neither reap nor warn that nobody did
        except OSError as error:
            failure = error

    with _one_at_a_time:
        # The collector could run a finalizer in the thread, and that import a module: from the container's root.
        collecting = gc.isenabled()
        gc.disable()
        thread = threading.Thread(target=body, name="execdrivers-chroot")
        try:
            thread.start()
            thread.join()
        except BaseException:  # a Ctrl-C while we wait must not leave a process that nobody knows of
            thread.join()
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
        finally:
            if collecting:
                gc.enable()
    if failure is not None:
        raise explain(failure, step, steps)
    return pid


def unshare_fs() -> None:
    """Give the calling thread a root, working directory and umask of its own: unshare(2), CLONE_FS."""
    if sys.version_info >= (3, 12):
        os.unshare(os.CLONE_FS)
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(0x200):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def explain(error: OSError, step: str, steps: Mapping[str, Mapping[str, Any]]) -> LaunchError:
    """The failure in terms of the container."""
    command, number = steps["exec"]["args"][0], error.errno or 0
    message = f"{step}: {error.strerror}"
    if step == "chdir":
        path = steps["chdir"]["path"]
        return LaunchError(
            f"{message}: {path}", step=step, path=path, errno=number, remedy="create it, or set another cwd"
        )
    if step != "exec" or error.filename is None:  # fork(2) or setuid(2) and the like: the command was not tried
        return LaunchError(message, step=step, errno=number)
    message = f"exec: {command}: {error.strerror}"
    if number in (errno.ENOENT, errno.ENOTDIR):
        remedy = "check its name, PATH, and that the rootfs has the interpreter or loader it asks for"
        return CommandNotFound(message, step=step, path=command, errno=number, remedy=remedy)
    if number in (errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR):
        remedy = "it must have mode +x and be a program for this machine, or a script that begins with #!"
        return CommandNotExecutable(message, step=step, path=command, errno=number, remedy=remedy)
    return LaunchError(message, step=step, path=command, errno=number)
