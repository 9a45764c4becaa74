"""A judge of programming contests: run a submission on each test's input and compare what it prints.

python judge.py 'tr a-z A-Z'
"""

from __future__ import annotations

import os
import sys

import execdrivers
from execdrivers.spec import SpecFields

TESTS = [("hello\n", "HELLO\n"), ("", ""), ("a1b2\n" * 1000, "A1B2\n" * 1000)]
TIME_LIMIT = 2.0  # seconds

FIELDS: SpecFields = {"rlimits": {"nofile": 64, "core": 0}}
if os.geteuid() == 0:  # limits of memory and processes live in cgroups, which by default only root can make
    FIELDS |= {"memory": "64M", "memory_swap": "64M", "pids": 16}


def judge(command: str, given: str, expected: str) -> str:
    """The verdict on one test, in the usual words."""
    try:
        result = execdrivers.run(
            ["sh", "-c", command],
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT,
            output_limit=2 * len(expected) + 1024,
            **FIELDS,
        )
    except execdrivers.ContainerTimeout:
        return "time limit exceeded"
    if result.exit.reason == "oom":
        return "memory limit exceeded"
    if not result.exit.ok:
        return f"runtime error ({result.exit})"
    if result.stdout_truncated:
        return "output limit exceeded"
    return "accepted" if result.stdout == expected else "wrong answer"


def main(command: str) -> int:
    verdicts = [judge(command, given, expected) for given, expected in TESTS]
    for number, verdict in enumerate(verdicts, 1):
        print(f"test {number}: {verdict}")
    return 0 if set(verdicts) == {"accepted"} else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} COMMAND")
    sys.exit(main(sys.argv[1]))
