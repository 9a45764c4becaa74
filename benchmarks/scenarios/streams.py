"""How fast a container's output arrives."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.inprocess import in_process
from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Place, Scenario

__all__ = ["SCENARIOS"]

_MB = 1 << 20


def _contender(name: str, function: str, **options: object) -> Contender:
    return Contender(name=name, measure=in_process(f"benchmarks.throughput:{function}", **options), batch=3)


def _pipes(place: Place) -> Sequence[Contender]:
    of = {"rootfs": place.rootfs, "size": (8 if place.quick else 256) * _MB}
    return [
        _contender("native, captured", "capture", **of),
        _contender("native, to a callback", "callback", **of),
        _contender("subprocess, captured", "plain_pipe", **of),
    ]


def _terminals(place: Place) -> Sequence[Contender]:
    of = {"rootfs": place.rootfs, "size": (1 if place.quick else 32) * _MB}
    return [
        _contender("native, terminal", "terminal", **of),
        _contender("plain terminal", "plain_terminal", **of),
    ]


def _logs(place: Place) -> Sequence[Contender]:
    of = {"rootfs": place.rootfs, "size": (4 if place.quick else 64) * _MB}
    return [
        _contender("native, detached", "log", **of),
        _contender("subprocess, to a file", "plain_file", **of),
    ]


_PROGRAM = "The program is busybox's `dd`, which writes zeros, 64 KB at a time; its start and end count as well."

SCENARIOS = (
    Scenario(
        name="pipes",
        seconds=15,
        title="Standard output through pipes",
        about="256 MB, captured whole in memory or handed to a function piece by piece, over `subprocess.run` with "
        f"`capture_output` of the same program without a container. {_PROGRAM}",
        unit="B/s",
        contenders=_pipes,
        rounds=10,
        comparisons=(
            Comparison(
                title="captured, over subprocess",
                of="native, captured",
                over="subprocess, captured",
                target=0.9,
                at_least=True,
            ),
            Comparison(title="to a callback, over subprocess", of="native, to a callback", over="subprocess, captured"),
        ),
    ),
    Scenario(
        name="terminals",
        seconds=30,
        title="Standard output through a terminal",
        about="32 MB, over the same program without a container at a terminal that is read by `os.read`; a terminal "
        f"passes on at most 4 KB at a time. {_PROGRAM}",
        unit="B/s",
        contenders=_terminals,
        rounds=10,
        comparisons=(Comparison(title="over a plain terminal", of="native, terminal", over="plain terminal"),),
    ),
    Scenario(
        name="logs",
        seconds=20,
        title="Standard output to a detached container's log",
        about="64 MB, until the container has ended and its monitor has written all of it to the log, each line with "
        "its time; over the same program without a container that writes to a file itself, and so moves nothing "
        f"through a pipe. {_PROGRAM}",
        unit="B/s",
        contenders=_logs,
        rounds=10,
        comparisons=(Comparison(title="over a plain file", of="native, detached", over="subprocess, to a file"),),
    ),
)
