"""OCI hooks: commands at six points of a container's life, each with the container's state on its input.

prestart, create_runtime, poststart and poststop run on the host, by the calling program; create_container and
start_container run in the container, by the launcher (c/hooks.c). Source: OCI runtime specification, config.md,
"POSIX-platform Hooks", and runtime.md, "State" and "Lifecycle".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from execdrivers.driver import Step
from execdrivers.errors import LaunchError
from execdrivers.launcher.failures import hook_error
from execdrivers.launcher.operations import Operation, operation
from execdrivers.launcher.tool import ToolError, call
from execdrivers.spec import ContainerSpec, Hook, Hooks

__all__ = ["HookPoints", "run_left_poststop"]

#: The container's status, as hooks at a point are told it.
_STATUS = {
    "prestart": "creating",
    "create_runtime": "creating",
    "create_container": "creating",
    "start_container": "created",
    "poststart": "running",
    "poststop": "stopped",
}


@attrs.frozen
class HookPoints:
    """The hooks of one container, and what they are told of it. ``bundle`` is a directory with its ``config.json``."""

    hooks: Hooks
    id: str
    bundle: str
    annotations: Mapping[str, str]

    def inside(self, point: str) -> Iterator[Operation]:
        """Those that the launcher runs, as operations. It tells them the pid as it is in the container."""
        state = self._state(point)[:-1] + ', "pid": '
        for hook in getattr(self.hooks, point):
            yield operation("hook", point, *_command(hook), hook.timeout or 0, state)

    def run(self, point: str, pid: int | None = None) -> None:
        """Run those that run on the host, one after the other; ``pid`` is the container's first process.

        Raises `LaunchError` for the first that fails, is not there, or takes longer than its timeout.
        """
        for hook in getattr(self.hooks, point):
            _run(point, hook, self.bundle, self._state(point, pid))

    def run_all(self, point: str, pid: int | None = None) -> None:
        """As `run`, but one that fails is logged and the others run all the same: for poststart and poststop."""
        for hook in getattr(self.hooks, point):
            try:
                _run(point, hook, self.bundle, self._state(point, pid))
            except LaunchError as error:
                import logging

                logging.getLogger("execdrivers").warning("container %r: %s", self.id, error)

    def write_bundle(self, spec: ContainerSpec) -> None:
        """Write the bundle's ``config.json``, which hooks look for. Raises `SpecError` for what OCI has no word for."""
        if spec.rootfs is None:
            spec = spec.replace(rootfs="/", readonly=not spec.ephemeral)
        with open(f"{self.bundle}/config.json", "w", encoding="ascii") as file:
            json.dump(spec.to_oci(), file)

    def steps(self, point: str) -> Iterator[Step]:
        """Those on the host, as steps of the plan that people see."""
        for hook in getattr(self.hooks, point):
            path, args, env = _command(hook)
            step: dict[str, Any] = {"point": point, "path": path, "args": list(args), "env": list(env)}
            yield Step("hook", {**step, "timeout": hook.timeout or 0})

    def leave_poststop(self) -> str:
        """Leave the poststop hooks in the bundle, for whichever program deletes the container; "" when there are none.

        Returns the name for `run_left_poststop`, which no other container of the same id has.
        """
        if not self.hooks.poststop:
            return ""
        name = f"poststop-{os.urandom(6).hex()}.json"
        left = {"hooks": Hooks(poststop=self.hooks.poststop).to_dict(), "id": self.id, "bundle": self.bundle}
        with open(f"{self.bundle}/{name}", "x", encoding="ascii") as file:
            json.dump({**left, "annotations": dict(self.annotations)}, file)
        return name

    def _state(self, point: str, pid: int | None = None) -> str:
        from execdrivers import oci

        return json.dumps(oci.state(self.id, _STATUS[point], self.bundle, self.annotations, pid))


def run_left_poststop(directory: str, name: str) -> None:
    """Run the poststop hooks that `HookPoints.leave_poststop` left, unless another program has; failures are logged."""
    if not name:
        return
    path = f"{directory}/{name}"
    try:
        with open(path, encoding="ascii") as file:
            left = json.load(file)
        os.unlink(path)  # who removes it runs them
    except FileNotFoundError:
        return
    points = HookPoints(Hooks.from_dict(left["hooks"]), left["id"], left["bundle"], left["annotations"])
    points.run_all("poststop")


def _command(hook: Hook) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return hook.path, hook.args or (hook.path,), tuple(f"{key}={value}" for key, value in hook.env.items())


def _run(point: str, hook: Hook, directory: str, state: str) -> None:
    """One hook, by the calling program."""
    path, args, _ = _command(hook)
    given = os.memfd_create("state", os.MFD_CLOEXEC)
    try:
        os.write(given, state.encode("ascii"))
        os.lseek(given, 0, os.SEEK_SET)
        call(args, hook.timeout, env=hook.env, stdin=given, path=path, directory=directory)
    except ToolError as failure:
        raise hook_error(point, path, str(failure), failure.errno) from None
    finally:
        os.close(given)
