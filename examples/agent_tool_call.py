"""An agent's tool call: run a shell command that a language model wrote, and tell the model how it went.

The command sees the host's files read-only, has no network, and works in a private /tmp, or in a workspace that is kept
between calls. Whatever it does, the answer comes within the timeout and is a small JSON object. Several commands run at
once, in one thread.

    python agent_tool_call.py 'ls /usr | head -3'
    python agent_tool_call.py --workspace DIRECTORY 'make 2>&1' 'git log --oneline | head'
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import sys
from typing import Any

import execdrivers
from execdrivers import aio

TIMEOUT = 10.0  # seconds
OUTPUT_LIMIT = 16 * 1024  # bytes of stdout and of stderr that the model gets to see
AT_ONCE = 8  # commands; more wait for their turn


class HeadAndTail:
    """Keeps the beginning and the end of an output, and counts what is left out: errors tend to come last."""

    def __init__(self, limit: int) -> None:
        self.left_out = 0
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()

    def __call__(self, data: bytes) -> None:
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room < len(data) else b""
        excess = max(0, len(self._tail) - self._half)
        self.left_out += excess
        del self._tail[:excess]

    def text(self) -> str:
        """What was kept, the gap named."""
        gap = f"\n[{self.left_out} bytes left out]\n".encode() if self.left_out else b""
        return (self._head + gap + self._tail).decode(errors="replace")


class ToolCall:
    """One call: the options to run it with, and the answer for the model."""

    def __init__(self, command: str, workspace: str | None = None) -> None:
        self.args = ["sh", "-c", command]
        self._out, self._err = HeadAndTail(OUTPUT_LIMIT), HeadAndTail(OUTPUT_LIMIT)
        self.options: dict[str, Any] = {
            **limits(),
            "cwd": "/tmp",
            "init": True,  # the command may leave processes behind, or be sent signals
            "stdin": execdrivers.DEVNULL,
            "stdout": self._out,
            "stderr": self._err,
            "timeout": TIMEOUT,
        }
        if workspace is not None:
            owner = os.stat(workspace)
            self.options |= {
                "cwd": "/tmp/workspace",
                "user": f"{owner.st_uid}:{owner.st_gid}",
                "mounts": [{"type": "bind", "source": os.path.abspath(workspace), "destination": "/tmp/workspace"}],
            }

    def answer(self, exit: execdrivers.Exit) -> dict[str, object]:
        """What the model gets to see."""
        return {
            "ok": exit.ok,
            "reason": exit.reason,
            "returncode": exit.returncode,
            "detail": str(exit),
            "stdout": self._out.text(),
            "stderr": self._err.text(),
            "truncated": bool(self._out.left_out or self._err.left_out),
        }


@functools.cache
def limits() -> dict[str, Any]:
    """Of memory, processes and processor, where there are cgroups for them: by default only root can make these."""
    wanted = {"memory": "512M", "memory_swap": "512M", "pids": 128, "cpus": 1.0}
    features = execdrivers.Registry().probe("native").features
    return wanted if {"cgroup.memory", "cgroup.swap", "cgroup.pids", "cgroup.cpu"} <= features else {}


def call_tool(command: str, workspace: str | None = None) -> dict[str, object]:
    """Run the command contained; never raises for what the command does."""
    call = ToolCall(command, workspace)
    try:
        return call.answer(execdrivers.run(call.args, **call.options).exit)
    except (execdrivers.ContainerTimeout, execdrivers.LaunchError) as error:
        return call.answer(error.exit)


async def call_tool_async(command: str, workspace: str | None = None) -> dict[str, object]:
    """The same for an event loop. Cancelling it kills the command."""
    call = ToolCall(command, workspace)
    try:
        return call.answer((await aio.run(call.args, **call.options)).exit)
    except (execdrivers.ContainerTimeout, execdrivers.LaunchError) as error:
        return call.answer(error.exit)


async def call_tools(commands: list[str], workspace: str | None = None) -> list[dict[str, object]]:
    """Several calls at once; the answers are in the order of the commands."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(command: str) -> dict[str, object]:
        async with turn:
            return await call_tool_async(command, workspace)

    return await asyncio.gather(*map(one, commands))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run commands of a language model, contained.")
    parser.add_argument("--workspace", metavar="DIRECTORY", help="where the commands work, writable and kept")
    parser.add_argument("commands", metavar="COMMAND", nargs="+")
    given = parser.parse_args(argv)
    if len(given.commands) == 1:
        print(json.dumps(call_tool(given.commands[0], given.workspace), indent=2))
    else:
        print(json.dumps(asyncio.run(call_tools(given.commands, given.workspace)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
