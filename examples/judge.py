"""A judge of programming contests: run submissions on each test's input, many at once, and say how each did.

Processor time and memory are what the kernel has counted for the whole submission, all its processes together: a
verdict does not depend on what else the machine does. That takes cgroups, so root.

    python judge.py 'tr a-z A-Z' 'while :; do :; done'
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from dataclasses import dataclass

import execdrivers
from execdrivers import aio

TESTS = [("hello\n", "HELLO\n"), ("", ""), ("a1b2\n" * 1000, "A1B2\n" * 1000)]


@dataclass(frozen=True)
class Limits:
    """What a submission may use on one test."""

    cpu: float = 1.0  # seconds of processor time
    idle: float = 3.0  # seconds, for one that waits instead of computing
    memory: int = 64 << 20  # bytes
    output: int = 64 << 10  # bytes


@dataclass(frozen=True)
class Result:
    """How a submission did on one test."""

    verdict: str
    cpu: float  # seconds
    memory: int  # bytes, at the highest


async def judge(engine: aio.Engine, command: str, given: str, expected: str, limits: Limits) -> Result:
    """Run a submission on one test."""
    spec = execdrivers.ContainerSpec.build(
        ["sh", "-c", command],
        cwd="/tmp",
        memory=limits.memory,
        memory_swap=limits.memory,
        pids=16,
        rlimits={"nofile": 64, "core": 0},
    )
    async with await engine.create(
        spec,
        stdin=given.encode(),
        stdout=execdrivers.PIPE,
        stderr=execdrivers.DEVNULL,
        accounting=True,  # its cgroups count from its first instruction to its last
    ) as container:
        await container.start()
        watch = asyncio.ensure_future(kill_in_time(container, limits))
        output = bytearray()
        async for _, data in container.stream():
            output += data
            if len(output) > limits.output:
                break
        idle = watch.done() and watch.result()
        watch.cancel()
        await container.kill()
        exit = await container.wait()
        used = await container.stats()
    cpu, memory = used.cpu.usage / 1e9, used.memory.peak or 0
    if len(output) > limits.output:
        verdict = "output limit exceeded"
    elif cpu > limits.cpu:
        verdict = "time limit exceeded"
    elif exit.reason == "oom":
        verdict = "memory limit exceeded"
    elif idle:
        verdict = "idleness limit exceeded"
    elif not exit.ok:
        verdict = f"runtime error ({exit})"
    else:
        verdict = "accepted" if output.decode(errors="replace") == expected else "wrong answer"
    return Result(verdict, cpu, memory)


async def kill_in_time(container: aio.Container, limits: Limits) -> bool:
    """Kill it when its processor time is used up, looked at when that can be so at the earliest; or when it is idle.

    Idle is who has used less than a hundredth of a processor for so long: on a busy machine everybody waits. Whether
    that was it.
    """
    idle, since, before = False, time.monotonic(), 0.0
    while not idle and (used := (await container.stats()).cpu.usage / 1e9) <= limits.cpu:
        left = since + limits.idle - time.monotonic()
        if left <= 0:
            idle = used - before < limits.idle / 100
            since, before = time.monotonic(), used
        else:
            await asyncio.sleep(min(left, max(0.005, (limits.cpu - used) / (os.cpu_count() or 1))))
    await container.kill()
    return idle


async def judge_all(commands: list[str], limits: Limits, at_once: int) -> list[list[Result]]:
    """All submissions on all tests; for each submission the results in the order of the tests."""
    turn = asyncio.Semaphore(at_once)

    async def one(command: str, given: str, expected: str) -> Result:
        async with turn:
            return await judge(engine, command, given, expected, limits)

    async with aio.Engine() as engine:
        return [
            list(results)
            for results in await asyncio.gather(
                *(asyncio.gather(*(one(command, *test) for test in TESTS)) for command in commands)
            )
        ]


def main(argv: list[str] | None = None) -> int:
    default = Limits()
    parser = argparse.ArgumentParser(description="Judge submissions: they are to turn lower case into upper case.")
    parser.add_argument("--cpu", type=float, default=default.cpu, metavar="SECONDS")
    parser.add_argument("--idle", type=float, default=default.idle, metavar="SECONDS")
    parser.add_argument("--memory", type=int, default=default.memory >> 20, metavar="MEGABYTES")
    parser.add_argument(
        "--at-once", type=int, default=os.cpu_count(), metavar="N", help="how many run at the same time"
    )
    parser.add_argument("commands", metavar="COMMAND", nargs="+")
    given = parser.parse_args(argv)
    limits = Limits(cpu=given.cpu, idle=given.idle, memory=given.memory << 20)
    everything = asyncio.run(judge_all(given.commands, limits, given.at_once))
    for command, results in zip(given.commands, everything, strict=True):
        print(f"$ {command}")
        for number, result in enumerate(results, 1):
            print(f"test {number}: {result.verdict:26} {result.cpu:6.3f} s {result.memory / 1e6:6.1f} MB")
    return 0 if all(result.verdict == "accepted" for results in everything for result in results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except execdrivers.ExecDriverError as error:
        sys.exit(f"{os.path.basename(__file__)}: {error}")
