"""An agent's tool call: run a shell command that a language model wrote, and tell the model how it went.

The command sees the host's files read-only, has no network, and works in a private /tmp. Whatever it does, the answer
comes within the timeout and is a small JSON object.

    python agent_tool_call.py 'ls /usr | head -3'
"""

from __future__ import annotations

import json
import sys

import execdrivers

TIMEOUT = 10.0  # seconds
OUTPUT_LIMIT = 16 * 1024  # bytes of stdout and of stderr that the model gets to see


def call_tool(command: str) -> dict[str, object]:
    """Run the command contained; never raises for what the command does."""
    try:
        result = execdrivers.run(
            ["sh", "-c", command],
            cwd="/tmp",
            stdin=execdrivers.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            output_limit=OUTPUT_LIMIT,
        )
    except execdrivers.ContainerTimeout as late:
        return {"ok": False, "reason": "timeout", "stdout": late.stdout or "", "stderr": late.stderr or ""}
    except execdrivers.LaunchError as error:
        return {"ok": False, "reason": "launch-failed", "stdout": "", "stderr": str(error)}
    return {
        "ok": result.exit.ok,
        "reason": result.exit.reason,
        "returncode": result.returncode,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "truncated": result.stdout_truncated or result.stderr_truncated,
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} COMMAND")
    print(json.dumps(call_tool(sys.argv[1]), indent=2))
