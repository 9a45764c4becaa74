"""runc and crun: what takes OCI bundles. The configuration is that of their own ``spec``."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from benchmarks.peers.commandline import CommandLine, environment, failure
from benchmarks.peers.leftovers import cgroup_parent, state_directory
from benchmarks.sampling import Failed
from benchmarks.scenario import Place

__all__ = ["Bundles"]


@attrs.frozen
class Bundles:
    """Of one runtime, in one place."""

    place: Place
    runtime: str
    config: Mapping[str, Any]
    #: What its containers are called, with a number.
    label: str
    _numbers: itertools.count[int] = attrs.field(factory=itertools.count, init=False)

    @classmethod
    def of(cls, runtime: str, place: Place) -> Bundles:
        """By the runtime's own configuration, with the place's root file system. Raises `Failed`."""
        directory = place.scratch / f"{runtime}-spec"
        directory.mkdir()
        done = subprocess.run([runtime, "spec"], cwd=directory, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{runtime} spec: {failure(done)}")
        config = json.loads((directory / "config.json").read_text())
        config["process"]["terminal"] = False
        config["root"]["path"] = place.rootfs
        # Ours mounts no cgroups unasked either; of v1 it is a dozen mounts.
        config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
        return cls(place, runtime, config, runtime)

    @property
    def command(self) -> list[str]:
        """The runtime, with a place of its own for its state."""
        return [self.runtime, "--root", str(self.place.once(state_directory) / self.label)]

    def new(self, args: Sequence[str]) -> tuple[str, str]:
        """A bundle that runs a command: its directory, and an id for its container."""
        id = f"{self.label}-{next(self._numbers)}"
        cgroup = f"/{self.place.once(cgroup_parent)}/{id}"
        process = {**self.config["process"], "args": list(args)}
        config = {**self.config, "process": process, "linux": {**self.config["linux"], "cgroupsPath": cgroup}}
        directory = self.place.scratch / id
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        return str(directory), id

    def run(self) -> CommandLine:
        """The command ``run``."""

        def command(args: Sequence[str]) -> list[str]:
            directory, id = self.new(args)
            return [*self.command, "run", "--bundle", directory, id]

        return command
