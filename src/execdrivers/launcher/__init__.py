"""The launcher: a small program that executes a plan and then becomes the command. For drivers.

It is freestanding (20 KB, no libc), lives in sealed memfds, and inherits nothing of the caller but the descriptors it
is given. A driver uses it as the first process of its containers, and so gets, whatever makes the container:

- a plan as data (`operation`, `process_operations`), which people can read and tests compare;
- a container that is created and not started (`Launch.ready`, `Launch.go`), with its pid as the host sees it;
- errors that name the step, and a missing command that is not an exit of the command;
- a terminal, a reaping init that tells how the command really ended, and reapers of what tools leave behind.

operations.py has the vocabulary, filesystems.py the mounts of a spec, process.py what concerns the process itself,
landlock.py an extra layer on it, hooks.py OCI's hooks,
launch.py the starting of a launcher and the talking with it, failures.py what it says went wrong, joined.py a launcher
for one more process, reaper.py one that cares for what a tool leaves behind, tool.py the
calling of tools, c/ the program and the caller's C.
"""

from __future__ import annotations

from execdrivers.launcher.hooks import HookPoints, run_left_poststop
from execdrivers.launcher.joined import join
from execdrivers.launcher.landlock import landlock_features, landlock_guarantee
from execdrivers.launcher.launch import LAUNCHER_PATH, Launch, Spawner, Started, UnderWay, spawn, spawn_launcher
from execdrivers.launcher.operations import Operation, Prepared, encode, operation
from execdrivers.launcher.process import (
    bounding_set,
    candidates,
    capability_sets,
    check_capabilities,
    environment_list,
    joining_capabilities,
    process_operations,
    rlimit_number,
)
from execdrivers.launcher.reaper import Reaper, sweep
from execdrivers.launcher.tool import ToolError, call, ending

__all__ = [
    "LAUNCHER_PATH",
    "HookPoints",
    "Launch",
    "Operation",
    "Prepared",
    "Reaper",
    "Spawner",
    "Started",
    "ToolError",
    "UnderWay",
    "bounding_set",
    "call",
    "candidates",
    "capability_sets",
    "check_capabilities",
    "encode",
    "ending",
    "environment_list",
    "join",
    "joining_capabilities",
    "landlock_features",
    "landlock_guarantee",
    "operation",
    "process_operations",
    "rlimit_number",
    "run_left_poststop",
    "spawn",
    "spawn_launcher",
    "sweep",
]
