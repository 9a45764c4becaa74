"""The start of a container on its caller's side: what is opened before, and done while the launcher waits."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from execdrivers import cgroups, pidfd
from execdrivers.errors import LaunchError
from execdrivers.launcher import Launch, Operation, Started, spawn_launcher
from execdrivers.launcher.ids import open_user_namespace
from execdrivers.launcher.operations import NAMESPACE_FLAGS
from execdrivers.launcher.trees import Tree
from execdrivers_native import namespaces
from execdrivers_native.plan import CREATE_HOOKS, ENTERED, MAPPED, NativePlan

if TYPE_CHECKING:
    from execdrivers.cgroups import CgroupDir
    from execdrivers.driver import Stdio
    from execdrivers.launcher import Spawner
    from execdrivers_native.handle import NativeHandle

__all__ = ["Start"]


class Start:
    """One launch of a compiled plan, up to the point where it waits to be let go."""

    def __init__(
        self,
        compiled: NativePlan,
        made: Sequence[CgroupDir],
        agent: Callable[[int, int], object] | None = None,
        operations: Callable[[], Iterable[Operation]] | None = None,
    ) -> None:
        """``agent`` is that of `Launch`; ``operations`` makes those of the plan, where they are others. Raises
        `SpecError` and `LaunchError`; nothing is open then."""
        self._compiled = compiled
        self._made = made
        self._descriptors: list[int] = []
        self._cgroup = -1
        self._lent = False
        points = {ENTERED: self._entered, MAPPED: self._mapped, CREATE_HOOKS: self._create_hooks}
        self.launch = Launch(operations or compiled.operations, points=points, agent=agent)
        try:
            if compiled.joined:
                self._descriptors.extend(namespaces.open_all(compiled.joined))
            if made:
                self._cgroup = self._open_cgroup()
            if compiled.trees:
                self._open_trees()
        except BaseException:
            self.close()
            raise

    def spawn(self, stdio: Stdio, handle: NativeHandle, by: Spawner | None = None) -> None:
        """Start the launcher, of which the handle takes hold; ``by`` is that of `spawn_launcher`. Raises `LaunchError`;
        nothing is left then."""
        compiled = self._compiled
        self._handle = handle
        child = spawn_launcher(
            self.launch,
            stdio,
            flags=compiled.clone_flags,
            cgroup=self._cgroup,
            keep_capabilities="user" in compiled.namespaces and not compiled.joined,
            more=self._descriptors,
            by=by,
            beside=not self._made,  # else it has cpusets to follow
        )
        self._close_descriptors()
        handle.hold(child)

    def begin(self, stdio: Stdio, *, alone: bool) -> Started:
        """Start the launcher of a plan without descriptors and points, which it gets later (`give`). ``alone``: no
        other is begun meanwhile, so that there is a processor for its network namespace to be made here, where that
        may be. Raises `LaunchError`."""
        self._lent = alone and self._compiled.lends_network
        flags = self._compiled.clone_flags & ~(NAMESPACE_FLAGS["network"] if self._lent else 0)
        return self.launch.begin(stdio, flags=flags, beside=True, alone=alone)

    def give(self, plan: bytes) -> bool:
        """Give it the plan, encoded, and the namespace that it was not started in; whether this thread could make that.
        Raises `LaunchError`."""
        self.launch.give(plan, network=self._lent)
        return not self._lent or self.launch.give_network()

    def abandon(self, child: Started) -> None:
        """Have the launcher that has begun end."""
        pidfd.send_signal(child.pidfd, signal.SIGKILL)
        pidfd.reap(child.pidfd)
        self.launch.close()

    def ready(self) -> None:
        """Wait until all is done but the command. Raises `LaunchError`."""
        self.launch.started()
        self.launch.ready()

    def close(self) -> None:
        """Let go of what was opened, when it has come to nothing."""
        self.launch.close()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for fd in (*self._descriptors, *([self._cgroup] if self._cgroup >= 0 else [])):
            os.close(fd)
        self._descriptors.clear()
        self._cgroup = -1

    def _open_cgroup(self) -> int:
        """The one of v2 to be born in. What joins others is moved afterwards: in their cgroup namespace its own cannot
        be entered."""
        unified = next((cgroup.path for cgroup in self._made if cgroup.version == 2), None)
        if unified is None or self._compiled.joined:
            return -1
        return os.open(unified, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _open_trees(self) -> None:
        mappings: dict[Tree, int] = {}
        try:
            for tree in self._compiled.trees:
                key = Tree(source="", uids=tree.uids, gids=tree.gids)
                if tree.uids and key not in mappings:
                    mappings[key] = open_user_namespace(tree.uids, tree.gids)
                self._descriptors.append(tree.open(mappings.get(key, -1)))
        finally:
            for fd in mappings.values():
                os.close(fd)

    def _entered(self) -> None:
        """The process that has joined the namespaces is the container's first."""
        assert self.launch.entered is not None
        if "pid" in self._compiled.joined:
            self._handle.hold_inside(self.launch.entered)
        else:
            self._handle.hold(self.launch.entered)
        pid = self.launch.entered.pid
        cgroups.move([cgroup for cgroup in self._made if cgroup.version == 2], lambda: (pid,))

    def _mapped(self) -> None:
        """The launcher is in its user namespace, and has not the host's rights any more."""
        pid = self.launch.pid
        assert pid is not None
        if self._compiled.maps is not None:
            self._compiled.maps.write(pid)
        for name, data in self._compiled.outside.items():
            path = f"/proc/{pid}/{name}"
            try:
                with open(path, "w", encoding="ascii") as file:
                    file.write(data)
            except OSError as error:
                message = f"write-outside: cannot write {data!r} to {path}: {error.strerror}"
                raise LaunchError(message, step="write-outside", path=path, errno=error.errno or 0) from error
        for number, hard in self._compiled.raised.items():
            _raise_limit(pid, number, hard)

    def _create_hooks(self) -> None:
        """Root and mounts are made, in the container's namespaces; the host's tree is still there."""
        hooks = self._compiled.hooks
        assert hooks is not None
        for point in ("prestart", "create_runtime"):
            hooks.run(point, self.launch.pid)


def _raise_limit(pid: int, number: int, hard: int) -> None:
    """As far as we may: what is lacking then the launcher finds out, and says."""
    import resource

    soft, present = resource.prlimit(pid, number)
    if present != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > present):
        with contextlib.suppress(PermissionError):
            resource.prlimit(pid, number, (soft, hard))
