"""Containers that outlive the program that made them: what stands by them, and what it leaves.

A monitor is a small C program (launcher/c/monitor.c), one for each detached container: the parent of its first
process, or of the tool that makes it. It holds the container's stdio, writes its log, serves who is attached, and
leaves the exit.

process.py has the maker's hold on a monitor, log.py the log's form, reader.py its reading, attachment.py who is
attached, ended.py the exit. docs/detached.md tells what happens when which of them dies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from execdrivers.monitor.attachment import Attachment
    from execdrivers.monitor.ended import Ended, read_exit
    from execdrivers.monitor.log import LogEntry, LogOptions, read_log
    from execdrivers.monitor.process import Monitor, Watch

__all__ = ["Attachment", "Ended", "LogEntry", "LogOptions", "Monitor", "Watch", "read_exit", "read_log"]

#: Public name → module that defines it. Who reads an exit need not load what starts a monitor.
_HOME = {
    "Attachment": "attachment",
    "Ended": "ended",
    "LogEntry": "log",
    "LogOptions": "log",
    "Monitor": "process",
    "Watch": "process",
    "read_exit": "ended",
    "read_log": "log",
}


def __getattr__(name: str) -> Any:
    try:
        module = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'execdrivers.monitor' has no attribute {name!r}") from None
    from importlib import import_module

    return getattr(import_module(f"execdrivers.monitor.{module}"), name)
