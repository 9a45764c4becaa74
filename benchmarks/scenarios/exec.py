"""One more process in a container that runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from benchmarks import floor, inside, living
from benchmarks.inprocess import in_process
from benchmarks.peers import commandline
from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Place, Scenario

__all__ = ["SCENARIOS"]


@attrs.frozen
class _Running:
    """A container of the native driver's that runs until the scenario ends."""

    name: str
    pid: int
    environment: dict[str, str]


def _running(place: Place) -> _Running:
    container = place.stack.enter_context(inside.running(place.rootfs))
    assert container.pid is not None
    variables = Path(f"/proc/{container.pid}/environ").read_text().split("\0")
    environment = dict(variable.split("=", 1) for variable in variables if variable)
    return _Running(container.name, container.pid, environment)


def _floor(place: Place) -> floor.Built:
    return floor.build_exec(place.scratch)


def _take_native(place: Place, count: int) -> Sequence[float]:
    running = place.once(_running)
    return in_process("benchmarks.inside:executions", name=running.name)(count)


def _take_floor(place: Place, count: int) -> Sequence[float]:
    running = place.once(_running)
    return floor.executions(place.once(_floor), count, running.pid, ["/bin/true"], running.environment)


def _nsenter(place: Place) -> list[str]:
    return ["nsenter", "--all", "--target", str(place.once(_running).pid)]


def _tool(place: Place, name: str, prefix: Callable[[], list[str]], install: str) -> Contender:
    program = name.split()[0]
    if lacking := commandline.missing(program, install):
        return Contender(name=name, lacking=lacking)

    def take(count: int) -> Sequence[float]:
        return commandline.measure([*prefix(), "/bin/true"], count)

    return Contender(name=name, measure=take, batch=10)


def _contenders(place: Place) -> Sequence[Contender]:
    return [
        Contender(name="native", measure=functools.partial(_take_native, place), batch=40),
        Contender(name="C floor", measure=functools.partial(_take_floor, place), batch=40),
        _tool(place, "nsenter", lambda: _nsenter(place), "apt-get install util-linux"),
        _tool(place, "lxc-attach", lambda: place.once(living.of_lxc).execute, "apt-get install lxc"),
        _tool(place, "runc exec", lambda: place.once(living.of_runc).execute, "apt-get install runc"),
        _tool(place, "docker exec", lambda: place.once(living.of_docker).execute, "apt-get install docker.io"),
        _tool(place, "podman exec", lambda: place.once(living.of_podman).execute, "apt-get install podman"),
    ]


SCENARIOS = (
    Scenario(
        name="exec",
        seconds=50,
        title="One more process in a running container",
        about="From the call to the exit of `true`, in a container that runs already. The C floor does what "
        "`Container.exec` does, in the same container: joins all its namespaces, seen by nobody there until it has no "
        "more than the container's capabilities, with a session and a keyring of its own, no new privileges, and the "
        "default filter of system calls. `nsenter`, in the same container too, only joins its namespaces, with all "
        "capabilities. The others enter containers that their own tools have started: `lxc-attach` and `runc exec` "
        "without such a filter; `docker exec` and `podman exec` call runc.",
        contenders=_contenders,
        comparisons=(
            Comparison(title="native exec over the C floor", of="native", over="C floor", target=1.25),
            Comparison(title="nsenter over native exec", of="nsenter", over="native"),
            Comparison(title="lxc-attach over native exec", of="lxc-attach", over="native"),
            Comparison(title="runc exec over native exec", of="runc exec", over="native"),
            Comparison(title="docker exec over native exec", of="docker exec", over="native"),
        ),
    ),
)
