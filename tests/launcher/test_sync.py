"""Points of a plan at which the launcher waits while its caller does something."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from execdrivers import ContainerSpec, Stdio, defaults, pidfd, seccomp
from execdrivers.launcher import Launch, Operation, operation, spawn_launcher
from execdrivers.launcher._launcher import lib

_NULL = Stdio(-1, -1, -1)


def _run(operations: list[Operation], points: dict[str, Callable[[], object]]) -> int:
    """The exit code of a launcher that executes these."""
    launch = Launch(operations, points=points)
    child = spawn_launcher(launch, _NULL)
    try:
        launch.started()
        launch.ready()
        launch.go()
    finally:
        launch.close()
        pidfd.wait(child.pidfd)
        status = pidfd.wait_status(child.pidfd)
        os.close(child.pidfd)
    return os.waitstatus_to_exitcode(status)


def test_the_caller_acts_at_each_point_before_and_after_ready() -> None:
    order: list[str] = []
    operations = [
        operation("sync", "first"),
        operation("sync", "second"),
        operation("ready"),
        operation("sync", "late"),
        operation("exec", 0, ("/bin/true",), ("true",), ()),
    ]
    assert _run(operations, {name: lambda name=name: order.append(name) for name in ("late", "second", "first")}) == 0
    assert order == ["first", "second", "late"]


def test_what_a_point_raises_ends_the_launch() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _run([operation("sync", "point"), operation("ready")], {"point": fail})


def test_a_caller_that_is_gone_is_no_end_of_an_init() -> None:
    """What it cannot tell that the command runs it does not tell, under the filter that it has by then."""
    compiled = seccomp.compile(ContainerSpec(["true"]), defaults.CAPABILITIES)
    assert compiled is not None
    script = ("sh", "-c", "sleep 0.2; exit 7")
    launch = Launch(
        [
            operation("no_new_privileges"),
            operation("seccomp", compiled.program, compiled.flags, "last"),
            operation("ready"),
            operation("exec", 1, ("/bin/sh",), script, ("PATH=/usr/bin:/bin",)),
        ]
    )
    child = spawn_launcher(launch, _NULL)
    launch.ready()
    assert lib.ed_go(launch._control) == 0
    launch.close()
    pidfd.wait(child.pidfd)
    assert os.waitstatus_to_exitcode(pidfd.wait_status(child.pidfd)) == 7
    os.close(child.pidfd)
