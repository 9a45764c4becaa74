"""Our drivers as an importer calls them: what `benchmarks.inprocess` runs, and which of them can take part."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator

import execdrivers
from benchmarks.inprocess import in_process
from benchmarks.sampling import Contender
from benchmarks.scenario import Place
from execdrivers import DEVNULL, ContainerSpec, Engine, Stdio, apparmor, pidfd
from execdrivers.launcher import Launch, Prepared, spawn_launcher
from execdrivers.registry import default_registry
from execdrivers_native import host
from execdrivers_native.compile import compile

__all__ = ["contenders", "lacking", "launches", "phase", "run", "run_together"]

#: Driver → samples a round.
_BATCHES = {"native": 40, "chroot": 40, "lxc": 10, "oci": 10}

#: Turns for nothing, in which modules are imported and the host is looked at.
_WARM_UP = 3


def lacking(driver: str) -> str:
    """Why it cannot run here, and what would help; "" where it can."""
    problems = default_registry().probe(driver).problems
    return "; ".join(f"{problem.reason} ({problem.remedy})" for problem in problems)


def contenders(place: Place, function: str, **options: object) -> Iterator[Contender]:
    """The drivers, measured by one of the functions below, with these options."""
    for driver, batch in _BATCHES.items():
        if place.wants(driver):
            measure = in_process(f"benchmarks.drivers:{function}", driver=driver, rootfs=place.rootfs, **options)
            yield Contender(name=driver, measure=measure, lacking=lacking(driver), batch=batch)


def run(count: int, *, driver: str, rootfs: str) -> Iterator[float]:
    """Seconds from the call of ``execdrivers.run`` to its return, for each of ``count`` containers."""
    for turn in range(-_WARM_UP, count):
        before = time.perf_counter()
        execdrivers.run(["/bin/true"], rootfs=rootfs, driver=driver, check=True)
        after = time.perf_counter()
        if turn >= 0:
            yield after - before


def launches(count: int, *, rootfs: str) -> Iterator[float]:
    """Seconds that each of ``count`` containers of the native driver takes by its launcher alone, by a ready plan."""
    launch = _launcher(rootfs)
    for turn in range(-_WARM_UP, count):
        before = time.perf_counter()
        launch()
        after = time.perf_counter()
        if turn >= 0:
            yield after - before


def _launcher(rootfs: str) -> Callable[[], None]:
    """What launches a container by a plan that is ready: no engine, no driver, no record of it."""
    plan = compile(ContainerSpec(["/bin/true"], rootfs=rootfs), "bare", host.look())
    operations = Prepared(plan.operations)
    if plan.profile:
        apparmor.check(plan.profile)

    def launch() -> None:
        launch = Launch(operations)
        child = spawn_launcher(launch, Stdio(0, 1, 2), flags=plan.clone_flags)
        launch.say_go()
        pidfd.wait(child.pidfd)
        status = pidfd.wait_status(child.pidfd)
        os.close(child.pidfd)
        launch.close()
        assert status == 0, status

    return launch


def phase(count: int, *, driver: str, rootfs: str, root: str, name: str) -> Iterator[float]:
    """Seconds of one phase of each of ``count`` containers: create, start, wait or delete; ``root`` is the store's."""
    spec = ContainerSpec(["/bin/true"], rootfs=rootfs)
    with Engine(root) as engine:
        for turn in range(-_WARM_UP, count):
            before = time.perf_counter()
            container = engine.create(spec, driver=driver, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
            times = {"create": time.perf_counter() - before}
            for act in (container.start, container.wait, container.delete):
                before = time.perf_counter()
                act()
                times[act.__name__] = time.perf_counter() - before
            if turn >= 0:
                yield times[name]


def run_together(count: int, *, threads: int, each: int, rootfs: str, bare: bool = False) -> Iterator[float]:
    """Seconds per container as so many threads start ``each`` containers of the native driver, one after the other.

    ``count`` times: from the moment when all threads are let go to the end of the last. ``bare``: as in `launches`.
    """
    whole = functools.partial(execdrivers.run, ["/bin/true"], rootfs=rootfs, driver="native", check=True)
    start: Callable[[], object] = _launcher(rootfs) if bare else whole

    def work() -> None:
        gate.wait()
        for _ in range(each):
            start()

    for turn in range(-1, count):
        gate = threading.Barrier(threads + 1)
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        gate.wait()
        before = time.perf_counter()
        for worker in workers:
            worker.join()
        after = time.perf_counter()
        if turn >= 0:
            yield (after - before) / (threads * each)
