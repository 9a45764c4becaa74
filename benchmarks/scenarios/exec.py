"""One more process in a container that runs."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from benchmarks import floor, inside
from benchmarks.inprocess import in_process
from benchmarks.peers import commandline, runc
from benchmarks.sampling import Contender, Failed
from benchmarks.scenario import Comparison, Place, Scenario

__all__ = ["SCENARIOS"]

_SLEEP = ["/bin/sleep", "1000000000"]


@attrs.frozen
class _Running:
    """A container of the native driver's that runs until the scenario ends."""

    root: Path
    name: str
    pid: int
    environment: dict[str, str]


def _running(place: Place) -> _Running:
    root = place.scratch / "state"
    container = place.stack.enter_context(inside.running(root, place.rootfs))
    assert container.pid is not None
    variables = Path(f"/proc/{container.pid}/environ").read_text().split("\0")
    environment = dict(variable.split("=", 1) for variable in variables if variable)
    return _Running(root, container.name, container.pid, environment)


def _floor(place: Place) -> floor.Built:
    return floor.build_exec(place.scratch)


def _take_native(place: Place, count: int) -> Sequence[float]:
    running = place.once(_running)
    return in_process("benchmarks.inside:executions", root=str(running.root), name=running.name)(count)


def _take_floor(place: Place, count: int) -> Sequence[float]:
    running = place.once(_running)
    return floor.executions(place.once(_floor), count, running.pid, ["/bin/true"], running.environment)


# --- other tools' containers, and how to execute something in them ------------------------------------------------


def _nsenter(place: Place) -> list[str]:
    return ["nsenter", "--all", "--target", str(place.once(_running).pid)]


def _lxc(place: Place) -> list[str]:
    directory = place.scratch / "lxc"
    (directory / "box").mkdir(parents=True)
    lines = [
        f"lxc.rootfs.path = dir:{place.rootfs}",
        "lxc.mount.auto = proc:mixed sys:ro",
        "lxc.net.0.type = empty",
        "lxc.apparmor.profile = unconfined",
        "lxc.init.cmd = " + " ".join(_SLEEP),
    ]
    config = directory / "box/config"
    config.write_text("\n".join(lines) + "\n")
    of = ["--name", "box", "--lxcpath", str(directory)]
    _call("lxc-start", *of, "--rcfile", str(config))
    place.stack.callback(_call, "lxc-stop", *of, "--kill")
    return ["lxc-attach", *of, "--"]


def _runc(place: Place) -> list[str]:
    bundles = place.once(runc.bundles)
    directory, id = bundles.new(_SLEEP)
    _call(*bundles.command, "run", "--detach", "--bundle", directory, id)
    place.stack.callback(_call, *bundles.command, "delete", "--force", id)
    return [*bundles.command, "exec", id]


def _call(*argv: str) -> None:
    """Run a tool that leaves a container behind, which is not to hold a pipe of ours. Raises `Failed`."""
    null = subprocess.DEVNULL
    done = subprocess.run(argv, env=commandline.environment(), stdin=null, stdout=null, stderr=null)
    if done.returncode:
        raise Failed(f"{argv[0]} {argv[1]}: exit status {done.returncode}")


def _tool(place: Place, name: str, prefix: Callable[[Place], list[str]], install: str) -> Contender:
    program = name.split()[0]
    if commandline.which(program) is None:
        return Contender(name=name, lacking=f"{program} is not installed; {install}")

    def take(count: int) -> Sequence[float]:
        return commandline.measure([*place.once(prefix), "/bin/true"], count)

    return Contender(name=name, measure=take, batch=10)


def _contenders(place: Place) -> Sequence[Contender]:
    return [
        Contender(name="native", measure=functools.partial(_take_native, place), batch=40),
        Contender(name="C floor", measure=functools.partial(_take_floor, place), batch=40),
        _tool(place, "nsenter", _nsenter, "apt-get install util-linux"),
        _tool(place, "lxc-attach", _lxc, "apt-get install lxc"),
        _tool(place, "runc exec", _runc, "apt-get install runc"),
    ]


SCENARIOS = (
    Scenario(
        name="exec",
        title="One more process in a running container",
        about="From the call to the exit of `true`, in a container that runs already. The C floor does what "
        "`Container.exec` does, in the same container: joins all its namespaces, seen by nobody there until it has no "
        "more than the container's capabilities, with a session and a keyring of its own, no new privileges, and the "
        "default filter of system calls. `nsenter`, in the same container too, only joins its namespaces, with all "
        "capabilities. `lxc-attach` and `runc exec` enter containers of LXC's and runc's, without such a filter.",
        contenders=_contenders,
        comparisons=(
            Comparison(title="native exec over the C floor", of="native", over="C floor", target=1.25),
            Comparison(title="nsenter over native exec", of="nsenter", over="native"),
            Comparison(title="lxc-attach over native exec", of="lxc-attach", over="native"),
            Comparison(title="runc exec over native exec", of="runc exec", over="native"),
        ),
    ),
)
