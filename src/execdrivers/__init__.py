"""One Python interface to every way Linux can contain a process.

    >>> import execdrivers
    >>> execdrivers.run(["id", "-u"], capture_output=True, text=True).stdout
    '65534\\n'

`run` reads like `subprocess.run`; `Engine` gives live containers; `ContainerSpec` is what to run and how contained.
The public names load on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from execdrivers.container import Container
    from execdrivers.driver import (
        INTERFACE_VERSION,
        CreateRequest,
        Driver,
        Handle,
        Plan,
        Probe,
        Problem,
        Step,
        Stdio,
    )
    from execdrivers.engine import CompletedContainer, Engine, run
    from execdrivers.errors import (
        CommandNotExecutable,
        CommandNotFound,
        ContainerError,
        ContainerExists,
        ContainerNotFound,
        ContainerTimeout,
        DriverUnavailable,
        ExecDriverError,
        InvalidState,
        LaunchError,
        PluginError,
        SpecError,
        StoreError,
        UnknownDriver,
        UnsupportedFeature,
        VetoError,
    )
    from execdrivers.events import Event
    from execdrivers.exit import Exit
    from execdrivers.hookspecs import hookimpl
    from execdrivers.registry import Registry
    from execdrivers.spec import (
        Capabilities,
        ContainerSpec,
        Device,
        Hook,
        Hooks,
        IdMapping,
        Mount,
        Resources,
        Rlimit,
    )
    from execdrivers.stdio import DEVNULL, PIPE, STDOUT
    from execdrivers.terminal import Terminal

#: Public name → module that defines it.
_HOME = {
    name: module
    for module, names in {
        "container": "Container",
        "driver": "INTERFACE_VERSION CreateRequest Driver Handle Plan Probe Problem Step Stdio",
        "engine": "CompletedContainer Engine run",
        "errors": "CommandNotExecutable CommandNotFound ContainerError ContainerExists ContainerNotFound "
        "ContainerTimeout DriverUnavailable ExecDriverError InvalidState LaunchError PluginError SpecError StoreError "
        "UnknownDriver UnsupportedFeature VetoError",
        "events": "Event",
        "exit": "Exit",
        "hookspecs": "hookimpl",
        "registry": "Registry",
        "spec": "Capabilities ContainerSpec Device Hook Hooks IdMapping Mount Resources Rlimit",
        "stdio": "DEVNULL PIPE STDOUT",
        "terminal": "Terminal",
    }.items()
    for name in names.split()
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 - all are str


def __getattr__(name: str) -> Any:
    try:
        module = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'execdrivers' has no attribute {name!r}") from None
    from importlib import import_module

    value = getattr(import_module(f"execdrivers.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
