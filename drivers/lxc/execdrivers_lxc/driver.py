"""The LXC driver itself: what it can enforce here, and the making of containers."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from execdrivers import cgroups, pidfd, seccomp
from execdrivers.driver import CreateRequest, Driver, Plan, Probe
from execdrivers.errors import LaunchError
from execdrivers.launcher import Launch, Started
from execdrivers_lxc import locks, probe, tools
from execdrivers_lxc.config import Config, render
from execdrivers_lxc.handle import Container, LxcHandle, all_cgroups, remove_traces
from execdrivers_lxc.rootfs import make

if TYPE_CHECKING:
    from execdrivers.cgroups import Layout
    from execdrivers.spec import ContainerSpec

__all__ = ["LxcDriver"]

#: Seconds that LXC may take to tidy up after a start that has failed.
_GRACE = 1.0


class LxcDriver(Driver):
    """Renders a configuration and has lxc-start make the container."""

    name = "lxc"
    summary = "LXC's tools (lxc-start, lxc-attach …) make the container"
    strength = 30

    @cached_property
    def host(self) -> probe.Host:
        """Facts of the host, looked up at first use."""
        return probe.look()

    def probe(self) -> Probe:
        return probe.probe(self.host)

    def plan(self, spec: ContainerSpec, id: str) -> Plan:
        return render(spec, id, self.host).plan(self.host.tools.get("lxc-start", "lxc-start"))

    def create(self, request: CreateRequest) -> LxcHandle:
        layout = self.host.cgroups
        cgroup = _free_cgroup(request.id, layout)
        config = render(request.spec, request.id, self.host, request.directory, cgroup, accounting=request.accounting)
        request.intend(_intended(config))
        _write(config)
        _make_places(config)
        agent = seccomp.agent(request.spec, request.id, request.directory)
        launch = Launch(config.operations, None if request.spec.tty else request.stdio, agent=agent)
        monitor = None
        try:
            argv = config.argv(self.host.tools["lxc-start"])
            with locks.held():
                monitor = tools.start(argv, launch.descriptors, cgroup=self.host.cgroup, by=request.spawner)
                launch.started()
                _await_launcher(launch, monitor, config)
            return self._handle(config, request.directory, launch, monitor)
        except BaseException:
            launch.close()
            if monitor is not None:
                _end(monitor)
            remove_traces(request.id, request.directory, all_cgroups(config.cgroup, layout), layout)
            raise

    def _handle(self, config: Config, directory: str, launch: Launch, monitor: Started) -> LxcHandle:
        assert launch.pid is not None
        try:
            exit_fd = pidfd.open(launch.pid)
        except OSError:
            text = "the container was killed before it was ready"
            raise LaunchError(f"lxc-start: {text}", step="lxc-start") from None
        made = all_cgroups(config.cgroup, self.host.cgroups)
        container = Container(
            id=config.id,
            pid=launch.pid,
            start_time=pidfd.start_time(launch.pid),
            monitor=monitor.pid,
            monitor_start_time=pidfd.start_time(monitor.pid),
            own_pids=config.own_pids,
            notes_oom=config.notes_oom,
            accounting=config.accounting,
            cgroup=config.cgroup,
            inodes={cgroup.path: cgroup.inode for cgroup in made},
            guarantees=config.guarantees,
        )
        return LxcHandle(container, directory, self.host, exit_fd=exit_fd, monitor_fd=monitor.pidfd, launch=launch)

    def recover(self, id: str, state: Mapping[str, Any], directory: str) -> LxcHandle:
        return LxcHandle(Container(**state), directory, self.host)


def _intended(config: Config) -> Mapping[str, Any]:
    """The state of a container that LXC is about to make."""
    container = Container(
        id=config.id,
        pid=0,
        start_time=None,
        monitor=0,
        monitor_start_time=None,
        own_pids=True,
        notes_oom=False,
        accounting=False,
        cgroup=config.cgroup,
        inodes={},
        guarantees=config.guarantees,
    )
    return container.state()


def _free_cgroup(id: str, layout: Layout) -> str:
    """A name that no other has: an engine of another store may have a container of the same name."""
    usual = name = f"{cgroups.parent()}/{id}"
    number = 1
    while all_cgroups(name, layout):
        number += 1
        name = f"{usual}-{number}"
    return name


def _write(config: Config) -> None:
    """LXC's files: a directory named as the container, with its configuration."""
    home = f"{config.path}/{config.id}"
    os.makedirs(home, mode=0o700, exist_ok=True)
    if config.layer:
        os.makedirs(config.layer, mode=0o700, exist_ok=True)
    with open(f"{home}/config", "wb") as file:
        file.write(config.text)


def _make_places(config: Config) -> None:
    for top, path, directory in config.missing:
        try:
            make(top, path, directory=directory)
        except OSError as error:
            text = f"mkdir: {top}{path}: {error.strerror}"
            remedy = "make the place of the mount in the rootfs beforehand"
            raise LaunchError(text, step="mkdir", path=top + path, errno=error.errno or 0, remedy=remedy) from None


def _await_launcher(launch: Launch, monitor: Started, config: Config) -> None:
    """Wait until all but the execution of the command is done. Raises `LaunchError`; LXC tells why where it can."""
    try:
        launch.ready(tools.TIMEOUT, tool=monitor.pidfd)
    except LaunchError as error:
        if error.step != "launch":
            raise
        reasons = ": ".join(tools.log_errors(config.log))
        if not reasons:
            raise
        raise tools.launch_error("lxc-start", reasons) from None


def _end(monitor: Started) -> None:
    """Have LXC tidy up after what it could not start, and kill it when it does not."""
    # The launcher gives up as its socket closes, and with it the container ends.
    if not pidfd.wait(monitor.pidfd, _GRACE):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(monitor.pid, signal.SIGKILL)
        pidfd.wait(monitor.pidfd)
    pidfd.wait_status(monitor.pidfd)
    os.close(monitor.pidfd)
