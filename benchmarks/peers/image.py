"""The root file system as an image, for Docker and Podman."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from benchmarks.peers.commandline import environment, failure
from benchmarks.sampling import Failed

__all__ = ["NAME", "load"]

NAME = "execdrivers-bench"

#: Seconds that it may take, the start of a daemon included.
_PATIENCE = 60.0


def load(client: Sequence[str], rootfs: str) -> None:
    """Have ``client`` import the root file system under `NAME`. Raises `Failed`."""
    command = [*client, "import", "-", NAME]
    with subprocess.Popen(["tar", "-C", rootfs, "-c", "."], stdout=subprocess.PIPE) as tar:
        done = subprocess.run(
            command, stdin=tar.stdout, env=environment(), capture_output=True, text=True, timeout=_PATIENCE
        )
    if done.returncode:
        raise Failed(f"{client[0]} import: {failure(done)}")
