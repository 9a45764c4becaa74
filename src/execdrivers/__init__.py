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
    from execdrivers import aio as aio
    from execdrivers.completed import CompletedContainer as CompletedContainer
    from execdrivers.container import Container as Container
    from execdrivers.driver import INTERFACE_VERSION as INTERFACE_VERSION
    from execdrivers.driver import CreateRequest as CreateRequest
    from execdrivers.driver import Driver as Driver
    from execdrivers.driver import ExecRequest as ExecRequest
    from execdrivers.driver import Handle as Handle
    from execdrivers.driver import Notice as Notice
    from execdrivers.driver import Plan as Plan
    from execdrivers.driver import Probe as Probe
    from execdrivers.driver import Problem as Problem
    from execdrivers.driver import ProcessHandle as ProcessHandle
    from execdrivers.driver import Stdio as Stdio
    from execdrivers.driver import Step as Step
    from execdrivers.engine import Engine as Engine
    from execdrivers.engine import run as run
    from execdrivers.errors import CommandNotExecutable as CommandNotExecutable
    from execdrivers.errors import CommandNotFound as CommandNotFound
    from execdrivers.errors import ContainerError as ContainerError
    from execdrivers.errors import ContainerExists as ContainerExists
    from execdrivers.errors import ContainerNotFound as ContainerNotFound
    from execdrivers.errors import ContainerTimeout as ContainerTimeout
    from execdrivers.errors import DriverUnavailable as DriverUnavailable
    from execdrivers.errors import ExecDriverError as ExecDriverError
    from execdrivers.errors import InvalidState as InvalidState
    from execdrivers.errors import LaunchError as LaunchError
    from execdrivers.errors import OperationError as OperationError
    from execdrivers.errors import PluginError as PluginError
    from execdrivers.errors import SpecError as SpecError
    from execdrivers.errors import StoreError as StoreError
    from execdrivers.errors import UnknownDriver as UnknownDriver
    from execdrivers.errors import UnsupportedFeature as UnsupportedFeature
    from execdrivers.errors import VetoError as VetoError
    from execdrivers.events import Event as Event
    from execdrivers.eventstream import EventStream as EventStream
    from execdrivers.exit import Exit as Exit
    from execdrivers.garbage import Garbage as Garbage
    from execdrivers.hookspecs import hookimpl as hookimpl
    from execdrivers.monitor.attachment import Attachment as Attachment
    from execdrivers.monitor.log import LogEntry as LogEntry
    from execdrivers.monitor.log import LogOptions as LogOptions
    from execdrivers.process import ExecProcess as ExecProcess
    from execdrivers.registry import Registry as Registry
    from execdrivers.spec import Capabilities as Capabilities
    from execdrivers.spec import ContainerSpec as ContainerSpec
    from execdrivers.spec import Device as Device
    from execdrivers.spec import Hook as Hook
    from execdrivers.spec import Hooks as Hooks
    from execdrivers.spec import IdMapping as IdMapping
    from execdrivers.spec import Landlock as Landlock
    from execdrivers.spec import Mount as Mount
    from execdrivers.spec import Resources as Resources
    from execdrivers.spec import Rlimit as Rlimit
    from execdrivers.stats import Stats as Stats
    from execdrivers.stats import cpu_percent as cpu_percent
    from execdrivers.stdio import DEVNULL as DEVNULL
    from execdrivers.stdio import PIPE as PIPE
    from execdrivers.stdio import STDOUT as STDOUT
    from execdrivers.terminal import Terminal as Terminal

#: Public name → module that defines it.
_HOME = {
    name: module
    for module, names in {
        "completed": "CompletedContainer",
        "container": "Container",
        "driver": "INTERFACE_VERSION CreateRequest Driver ExecRequest Handle Notice Plan Probe Problem ProcessHandle "
        "Step Stdio",
        "engine": "Engine run",
        "errors": "CommandNotExecutable CommandNotFound ContainerError ContainerExists ContainerNotFound "
        "ContainerTimeout DriverUnavailable ExecDriverError InvalidState LaunchError OperationError PluginError "
        "SpecError StoreError UnknownDriver UnsupportedFeature VetoError",
        "events": "Event",
        "eventstream": "EventStream",
        "exit": "Exit",
        "garbage": "Garbage",
        "hookspecs": "hookimpl",
        "monitor.attachment": "Attachment",
        "monitor.log": "LogEntry LogOptions",
        "process": "ExecProcess",
        "registry": "Registry",
        "spec": "Capabilities ContainerSpec Device Hook Hooks IdMapping Landlock Mount Resources Rlimit",
        "stats": "Stats cpu_percent",
        "stdio": "DEVNULL PIPE STDOUT",
        "terminal": "Terminal",
    }.items()
    for name in names.split()
}

__all__ = ["__version__", "aio", *_HOME]  # noqa: PLE0604 - all are str


def __getattr__(name: str) -> Any:
    if name == "aio":
        import execdrivers.aio

        return execdrivers.aio
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
