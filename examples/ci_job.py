"""A CI job: run the steps one after the other in a checkout, print their output as it comes, stop at the first failure.

The checkout is writable, at its usual path; everything else that the steps see of the host is read-only.

    python ci_job.py CHECKOUT 'make lint' 'make test'
"""

from __future__ import annotations

import os
import sys
import time

import execdrivers


def run_step(engine: execdrivers.Engine, checkout: str, step: str) -> execdrivers.Exit:
    """Run one step as the owner of the checkout and pass its output on, each line marked."""
    checkout = os.path.abspath(checkout)
    owner = os.stat(checkout)
    spec = execdrivers.ContainerSpec.build(
        ["sh", "-c", step],
        cwd=checkout,
        user=f"{owner.st_uid}:{owner.st_gid}",
        env={"CI": "true", "PATH": os.defpath, "HOME": "/tmp"},
        mounts=[{"type": "bind", "source": checkout, "destination": checkout}],
    )
    with engine.create(
        spec, stdin=execdrivers.DEVNULL, stdout=execdrivers.PIPE, stderr=execdrivers.STDOUT
    ) as container:
        container.start()
        assert container.stdout
        for line in container.stdout:
            print(f"  | {line.decode(errors='replace')}", end="", flush=True)
        return container.wait()


def main(checkout: str, steps: list[str]) -> int:
    with execdrivers.Engine() as engine:
        for step in steps:
            print(f"$ {step}", flush=True)
            begin = time.monotonic()
            exit = run_step(engine, checkout, step)
            print(f"  {exit} after {time.monotonic() - begin:.2f} s", flush=True)
            if not exit.ok:
                return exit.status
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} CHECKOUT STEP...")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
