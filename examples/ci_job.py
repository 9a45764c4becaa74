"""A job runner: run the steps of a job one after the other in a checkout, print their output as it comes, stop at the
first that fails.

Each step is a detached container, so a job does not depend on its runner: when that is killed, or restarted by the
machine's service manager, the step runs on and is logged. Started again with the same arguments the runner finds it,
prints its output from the first line on, and goes on. Control-C ends the job.

    python ci_job.py CHECKOUT 'make lint' 'make test'

The checkout is writable, at its usual path; everything else that the steps see of the host is read-only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys

import execdrivers


def step_spec(checkout: str, step: str) -> execdrivers.ContainerSpec:
    """A step, run as the owner of the checkout."""
    owner = os.stat(checkout)
    return execdrivers.ContainerSpec.build(
        ["sh", "-c", step],
        cwd=checkout,
        user=f"{owner.st_uid}:{owner.st_gid}",
        env={"CI": "true", "PATH": os.defpath, "HOME": "/tmp"},
        mounts=[{"type": "bind", "source": checkout, "destination": checkout}],
        init=True,
    )


def begun(engine: execdrivers.Engine, name: str, spec: execdrivers.ContainerSpec) -> execdrivers.Container:
    """The container of a step: the one that an earlier runner has left, running or ended, or a new one."""
    try:
        return engine.get(name)
    except execdrivers.ContainerNotFound:
        container = engine.create(spec, name=name, detach=True, log=execdrivers.LogOptions(max_size="50M", max_files=2))
        container.start()
        return container


def follow(container: execdrivers.Container) -> execdrivers.Exit:
    """Print what the step writes, from its first line on, and wait for its end."""
    begin_of_line = True
    for entry in container.logs(follow=True):
        print("  | " * begin_of_line + entry.data.decode(errors="replace"), end="", flush=True)
        begin_of_line = not entry.partial
    if not begin_of_line:
        print(flush=True)
    return container.wait()


def run_job(engine: execdrivers.Engine, job: str, checkout: str, steps: list[str]) -> int:
    """Run the steps, or what is left of them; the exit status is that of the step that failed, or 0."""
    engine.recover()  # concludes what has ended with no runner there
    engine.gc()  # a step that was being made when the last runner was killed is made anew
    status = 0
    names = [f"{job}-{number}" for number in range(1, len(steps) + 1)]
    try:
        for name, step in zip(names, steps, strict=True):
            print(f"$ {step}", flush=True)
            container = begun(engine, name, step_spec(checkout, step))
            exit = follow(container)
            took = (container.finished_at or 0) - (container.started_at or 0)
            print(f"  {exit} after {took:.2f} s", flush=True)
            if not exit.ok:
                status = exit.status
                break
    finally:  # the job is over, or somebody has interrupted it; not so when the runner is killed
        for name in names:
            try:
                engine.delete(name, force=True)
            except execdrivers.ContainerNotFound:
                break
    return status


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the steps of a job in containers that outlive this program.")
    parser.add_argument("--job", metavar="NAME", help="default: made of the checkout and the steps")
    parser.add_argument("--root", metavar="DIRECTORY", help="where containers are recorded; default: execdrivers' own")
    parser.add_argument("checkout", metavar="CHECKOUT")
    parser.add_argument("steps", metavar="STEP", nargs="+")
    given = parser.parse_args(argv)
    checkout = os.path.abspath(given.checkout)
    digest = hashlib.sha256("\0".join([checkout, *given.steps]).encode()).hexdigest()
    with execdrivers.Engine(given.root) as engine:
        return run_job(engine, given.job or f"job-{digest[:12]}", checkout, given.steps)


if __name__ == "__main__":
    sys.exit(main())
