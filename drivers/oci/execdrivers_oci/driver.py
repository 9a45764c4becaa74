"""The OCI driver itself: what it can enforce here, and the making of containers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers import cgroups, kernel
from execdrivers.driver import CreateRequest, Driver, Plan, Probe, Problem, Step
from execdrivers.errors import SpecError, UnsupportedFeature
from execdrivers.features import required
from execdrivers.launcher import bounding_set
from execdrivers_oci import bundle, mounts, runtime
from execdrivers_oci.features import features
from execdrivers_oci.handle import Container, OciHandle, discard
from execdrivers_oci.process import Process, command_line
from execdrivers_oci.tool import TIMEOUT, Tool

if TYPE_CHECKING:
    from execdrivers.cgroups import Layout
    from execdrivers.spec import ContainerSpec
    from execdrivers_oci.runtime import Runtime

__all__ = ["OciDriver"]

#: CAP_SYS_ADMIN, as a mask.
_SYS_ADMIN = 1 << 21
#: The conformance kit's tests of hooks that runc fails.
_RUNC_HOOKS = {
    "TestHooks::test_it_is_given_what_the_spec_says_and_nothing_else[create_container]": (
        "runc hands on the descriptors that it preserves for the launcher"
    ),
    "TestHooks::test_it_is_given_what_the_spec_says_and_nothing_else[start_container]": (
        "runc hands on the descriptors that it preserves for the launcher"
    ),
    "TestHooks::test_one_that_fails_late_is_no_failure[poststart]": "runc takes a failing poststart hook for a failure",
    "TestHooks::test_one_that_fails_late_is_no_failure[poststop]": "runc runs no hook after a failing one",
}
_CREATE = ("create",)
_RUN = ("run", "--detach")
#: Stands in plans for the container's directory in the store.
_DIRECTORY = "DIRECTORY"


class OciDriver(Driver):
    """Writes a bundle and has an OCI runtime make the container."""

    name = "oci"
    summary = "an OCI runtime (runc, crun, youki) makes the container"
    strength = 20

    @property
    def deviations(self) -> Mapping[str, str]:  # type: ignore[override] # it depends on the runtime
        """Tests of the conformance kit that this driver's runtime fails, and why."""
        found, _ = runtime.find("", self.layout)
        no_mounts = "a runtime needs mounts on /proc and /dev: refused without"
        reasons = {
            "TestMounts::test_nothing_but_what_the_spec_lists": no_mounts,
            "TestMounts::test_only_proc": no_mounts,
        }
        if found and not found.poststart_in_time:
            early = "runc before 1.2 runs poststart hooks at the creation"
            reasons["TestHooks::test_state_is_on_its_input[poststart]"] = early
            reasons["TestHooks::test_moments_in_order"] = early
            reasons["TestHooks::test_one_that_fails_stops_the_launch[start_container]"] = early
        if found and found.name == "runc":
            reasons |= _RUNC_HOOKS
        if found and not found.shares_mounts:
            reasons["TestMountOptions::test_propagation[rshared]"] = "crun makes all mounts private: refused"
        if found and not found.keeps_tmpfs_mode:
            reasons["TestMounts::test_tmpfs"] = "runc before 1.1.9 keeps the mode of what a tmpfs covers: refused"
        return reasons

    @cached_property
    def layout(self) -> Layout:
        """Where this host's cgroups are, looked up at first use."""
        return cgroups.look()

    def probe(self) -> Probe:
        found, passed_over = runtime.find("", self.layout)
        problems = (*(() if found else passed_over), *_host_problems(self.layout))
        if found is None or problems:
            return Probe(available=False, version=found.version if found else "", problems=problems)
        enforced, missing = features(found, self.layout)
        facts = {
            "runtime": found.path,
            "name": found.name,
            "version": found.version,
            "spec": found.spec_version,
            "cgroups": self.layout.kind,
            "passed over": [problem.reason for problem in passed_over],
        }
        return Probe(available=True, version=str(found), features=enforced, missing=missing, facts=facts)

    def plan(self, spec: ContainerSpec, id: str) -> Plan:
        compiled = bundle.compile(spec, id, self.layout, bounding_set())
        found, _ = runtime.find(_wanted(spec), self.layout)
        if found:
            mounts.check(spec, found)
        tool = Tool(found.path if found else _wanted(spec) or runtime.KNOWN[0], _DIRECTORY)
        console = f"{_DIRECTORY}/create.sock" if spec.tty else ""
        verb = _verb(spec, found)
        create = command_line(tool, (*verb, "--bundle", _DIRECTORY), id, "create", console)
        calls = [create, tool.argv("start", "start", id)] if verb == _CREATE else [create]
        steps = (
            Step("config.json", compiled.config),
            *(Step("run", {"args": list(call)}) for call in calls),
            *(item.step() for item in compiled.operations),
        )
        return Plan(driver=self.name, steps=steps)

    def create(self, request: CreateRequest) -> OciHandle:
        spec, layout = request.spec, self.layout
        used = self._runtime(spec)
        mounts.check(spec, used)
        compiled = bundle.compile(spec, request.id, layout, bounding_set(), self._free_cgroup(spec, request.id))
        timeout = spec.driver_options.get("oci", {}).get("timeout", TIMEOUT)
        tool = Tool(used.path, request.directory, timeout)
        untidy = not used.tidy or bool(spec.hooks.poststop)
        with open(f"{request.directory}/config.json", "w") as file:
            file.write(json.dumps(compiled.config))  # at once: several times as fast as json.dump
        request.intend(_intended(request.id, used.path, timeout, compiled))
        process = None
        try:
            verb = _verb(spec, used)
            args = (*verb, "--bundle", request.directory)
            process = Process(tool, args, request.id, compiled.operations, request.stdio, by=request.spawner)
            assert process.pid is not None
            container = Container(
                id=request.id,
                runtime=used.path,
                timeout=timeout,
                pid=process.pid,
                reaper=process.reaper,
                start_time=process.start_time,
                own_pids=compiled.own_pids,
                untidy=untidy,
                cgroups=cgroups.find(compiled.cgroup, layout),
                guarantees={"runtime": str(used), **compiled.guarantees},
            )
            return OciHandle(container, request.directory, layout=layout, process=process, started=verb != _CREATE)
        except BaseException:
            if process is not None:
                process.abandon()
            if untidy:
                discard(tool, request.id)
            made = cgroups.find(compiled.cgroup, layout)
            cgroups.kill(made)
            cgroups.remove(made)
            raise

    def _free_cgroup(self, spec: ContainerSpec, id: str) -> str:
        """One that nobody has. Its processes will be killed at the end, so that it must be the container's alone."""
        wanted = bundle.cgroup_of(spec, id)
        left = cgroups.find(wanted, self.layout)
        if not left:
            return wanted
        if spec.cgroups_path is None:
            return f"{wanted}.{os.urandom(4).hex()}"  # a container of another engine has the same name
        raise SpecError(
            "cgroups_path", spec.cgroups_path, f"exists: {left[0].path}", "name one that does not, or rmdir it"
        )

    def _runtime(self, spec: ContainerSpec) -> Runtime:
        """The one that the spec, or the environment, names, or the first that will do."""
        wanted = _wanted(spec)
        found, problems = runtime.find(wanted, self.layout)
        if found is None:
            remedy = "; ".join(problem.remedy for problem in problems)
            field = 'driver_options["oci"]["runtime"]'
            raise SpecError(field, wanted, f"cannot be used: {problems[0].reason}", remedy)
        if wanted:
            # The engine has compared the spec with the features of another.
            enforced, missing = features(found, self.layout)
            for feature, field in required(spec).items():
                if feature not in enforced:
                    problem = missing.get(feature, Problem(f"{found} does not"))
                    raise UnsupportedFeature(self.name, feature, field, reason=problem.reason, remedy=problem.remedy)
        return found

    def recover(self, id: str, state: Mapping[str, Any], directory: str) -> OciHandle:
        container = Container.from_dict(state)
        if container.pid is None and container.cgroup:
            # Without their inodes, as another's may have the name by now, they are removed only if they are empty.
            left = [attrs.evolve(cgroup, inode=0) for cgroup in cgroups.find(container.cgroup, self.layout)]
            container = attrs.evolve(container, cgroups=tuple(left))
        return OciHandle(container, directory, layout=self.layout)


def _intended(id: str, runtime: str, timeout: float, compiled: bundle.Bundle) -> Mapping[str, Any]:
    """The state of a container that the runtime is about to make."""
    container = Container(
        id=id,
        runtime=runtime,
        timeout=timeout,
        pid=None,
        start_time=None,
        reaper=(0, None),
        own_pids=True,
        untidy=True,
        cgroups=(),
        cgroup=compiled.cgroup,
        guarantees=compiled.guarantees,
    )
    return container.to_dict()


def _verb(spec: ContainerSpec, used: Runtime | None) -> tuple[str, ...]:
    """What makes a container whose launcher waits: it is spared a call where the runtime may start it at once.

    The launcher waits for its streams then. With a terminal it has none to wait for; and hooks have their moments.
    """
    at_once = used is not None and used.leaves_all
    return _CREATE if not at_once or spec.tty or spec.hooks.start_container or spec.hooks.poststart else _RUN


def _wanted(spec: ContainerSpec) -> str:
    return str(spec.driver_options.get("oci", {}).get("runtime", ""))


def _host_problems(layout: Layout) -> Iterator[Problem]:
    if os.geteuid() != 0 or not kernel.capabilities() & _SYS_ADMIN:
        yield Problem("without privilege a runtime can neither make cgroups nor set other users", "run as root")
        return
    yield from cgroups.problems(layout)
