"""``python -m benchmarks``: ours and what others use, measured side by side; a report with plots of what came of it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import inmemory
from benchmarks.results import Results
from benchmarks.scenario import Scenario

_HERE = Path(__file__).resolve().parent


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: that it works, not what it measures")
    parser.add_argument("--rounds", metavar="FACTOR", type=float, default=1, help="so many times the usual rounds")
    parser.add_argument("--drivers", metavar="A,B", help="only contenders with these words in their names")
    parser.add_argument("--scenarios", metavar="A,B", help="only these scenarios")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the report there (default: benchmarks/out)")
    parser.add_argument("--json", metavar="FILE", help="write the results there too; -: to standard output")
    parser.add_argument("--compare", metavar="FILE", type=Path, help="with an earlier run's results.json")
    parser.add_argument(
        "--from", metavar="FILE", type=Path, dest="source", help="report that results.json; measure nothing"
    )
    parser.add_argument("--list", action="store_true", help="the scenarios, and about how long each takes")
    parser.add_argument("--profile", action="store_true", help="where the time of one start goes, in microseconds")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report. 1 where something failed, 2 for a wrong command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _options(arguments)
    if problem := _problem(options):
        print(f"benchmarks: {problem}", file=sys.stderr)
        return 1
    if options.profile:
        inmemory.ensure(arguments)
        return _profile()
    if options.source:
        results = Results.load(options.source)
    else:
        from benchmarks.scenarios import ALL

        scenarios = _chosen(options.scenarios, ALL)
        if isinstance(scenarios, str):
            print(f"benchmarks: {scenarios}", file=sys.stderr)
            return 2
        if options.list:
            _list(scenarios)
            return 0
        state = inmemory.ensure(arguments)
        results = _measure(scenarios, options)
        results.machine["state"] = state
    _show(results, options)
    return int(results.failed)


def _problem(options: argparse.Namespace) -> str:
    """Why it cannot run here, and what helps."""
    needed = ("cattrs", "matplotlib", "numpy", "pyperf", "tqdm")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        return f"not installed: {', '.join(missing)} (`make bench` installs them, or pip install '.[bench]')"
    if os.geteuid() != 0 and not (options.list or options.source):
        return (
            "run as root: the C floor makes its namespaces without a user namespace, limits take cgroups, and most of "
            "the others work for root alone"
        )
    return ""


def _chosen(names: str | None, scenarios: Sequence[Scenario]) -> Sequence[Scenario] | str:
    """Those of these names, in the order of the report; or what is wrong with the names."""
    if names is None:
        return scenarios
    wanted = set(names.split(","))
    known = [scenario.name for scenario in scenarios]
    if unknown := wanted.difference(known):
        return f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(known)}"
    return [scenario for scenario in scenarios if scenario.name in wanted]


def _list(scenarios: Sequence[Scenario]) -> None:
    from benchmarks.progress import expected

    for scenario in scenarios:
        print(f"{scenario.name:<16}{scenario.seconds:>5.0f} s  {scenario.title}")
    print(f"in all about {expected(scenarios, 1) / 60:.0f} minutes")


def _profile() -> int:
    import contextlib

    from benchmarks import timeline
    from benchmarks.scenario import Place

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        print(timeline.main(Place(Path(scratch), stack)), end="")
    return 0


def _measure(scenarios: Sequence[Scenario], options: argparse.Namespace) -> Results:
    from benchmarks import machine
    from benchmarks.progress import Progress, expected
    from benchmarks.running import run

    results = Results(began=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), quick=options.quick)
    wanted = frozenset(options.drivers.lower().split(",")) if options.drivers else None
    results.machine = machine.facts()
    watch = machine.Watch()
    watch.begin()
    began = time.monotonic()
    with Progress(expected(scenarios, options.rounds)).shown() as begin:
        for scenario in scenarios:
            advance = begin(scenario, scenario.seconds * options.rounds)
            outcome = run(scenario, wanted=wanted, rounds=options.rounds, quick=options.quick, advance=advance)
            results.outcomes.append(outcome)
            _say(f"{outcome.name:<16}{outcome.seconds:>6.0f} s{'  failed' if outcome.failed else ''}")
    results.seconds = round(time.monotonic() - began, 1)
    results.machine["load"] = watch.end()
    return results


def _say(line: str) -> None:
    """On standard error, above the bar."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def _show(results: Results, options: argparse.Namespace) -> None:
    """Write the report, and say in short what is in it."""
    from benchmarks import plots, report

    out = options.out or _HERE / "out"
    out.mkdir(parents=True, exist_ok=True)
    earlier = Results.load(options.compare) if options.compare else None
    drawn = frozenset(outcome.name for outcome in results.outcomes if plots.draw(outcome, out))
    text = results.dumps()
    (out / "results.json").write_text(text)
    (out / "report.md").write_text(report.markdown(results, drawn, earlier))
    talk = sys.stdout
    if options.json == "-":
        sys.stdout.write(text)
        talk = sys.stderr
    elif options.json:
        Path(options.json).write_text(text)
    print(report.targets(results), file=talk)
    if earlier:
        print("\n" + report.compared(results, earlier), file=talk)
    for outcome in results.outcomes:
        for name, error in [("", outcome.error), *((one.name, one.error) for one in outcome.contenders)]:
            if error:
                print(f"failed: {outcome.name}{': ' if name else ''}{name}: {error}", file=talk)
    print(f"\nthe report: {out / 'report.md'}", file=talk)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # daemons and containers are ended as by an interrupt
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
