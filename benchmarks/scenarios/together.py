"""Several containers started at once, by one program."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import floor
from benchmarks.inprocess import in_process
from benchmarks.sampling import Contender
from benchmarks.scenario import Comparison, Place, Scenario

__all__ = ["SCENARIOS"]

_AT_ONCE = 8
#: Containers that each of them starts for one sample.
_EACH = 10
_NATIVE = f"native from {_AT_ONCE} threads"
_LAUNCHER = f"native's launcher alone from {_AT_ONCE} threads"
_FLOOR = f"C floor {_AT_ONCE} at once"


def _contenders(place: Place) -> Sequence[Contender]:
    native = in_process("benchmarks.drivers:run_together", threads=_AT_ONCE, each=_EACH, rootfs=place.rootfs)

    def c_floor(count: int) -> Sequence[float]:
        return [floor.together(place.floor, _AT_ONCE, _EACH, place.rootfs, ["/bin/true"]) for _ in range(count)]

    bare = in_process("benchmarks.drivers:run_together", threads=_AT_ONCE, each=_EACH, rootfs=place.rootfs, bare=True)
    return [
        Contender(name=_FLOOR, measure=c_floor, batch=3),
        Contender(name=_NATIVE, measure=native, batch=3),
        Contender(name=_LAUNCHER, measure=bare, batch=3),
    ]


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="together",
        seconds=8,
        title=f"{_AT_ONCE} at once",
        about=f"""\
Seconds per container, the inverse of throughput: {_AT_ONCE} threads of one Python program, or {_AT_ONCE} processes of
the C floor, each start {_EACH} containers that run `true`, one after the other. The whole time is divided by their
number. The launcher alone is as in start: Python threads that do nothing but launch a plan that is ready.""",
        contenders=_contenders,
        rounds=25,
        comparisons=(
            Comparison(
                title=f"throughput of native from {_AT_ONCE} threads over the C floor's",
                of=_FLOOR,
                over=_NATIVE,
                target=0.85,
                at_least=True,
            ),
            Comparison(
                title=f"throughput of native's launcher alone from {_AT_ONCE} threads over the C floor's",
                of=_FLOOR,
                over=_LAUNCHER,
            ),
        ),
    ),
)
