"""The report: Markdown, beside which `plots` lie. All of it comes from a run's results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.amounts import amount, number, plain
from benchmarks.results import Figure, Outcome, Results
from benchmarks.statistics import CONFIDENCE, Estimate, ratio

__all__ = ["compared", "estimate", "markdown", "targets"]

_PERCENT = f"{CONFIDENCE:.0%}".replace("%", " %")
_METHOD = f"""\
Samples are taken in rounds in which all contenders have their turn, in another order each time; a round is a fresh
process where a program of its own takes the samples. The median is of all samples, and half of them are in the range
beside it. A ratio is one of medians, with the interval in which it is with {_PERCENT} confidence, by the bootstrap over
whole rounds. Milliseconds are this machine's own; the ratios are what can be carried elsewhere."""


def markdown(results: Results, drawn: frozenset[str], earlier: Results | None = None) -> str:
    """The whole page. ``drawn``: the scenarios that have a plot. ``earlier``: a run to compare this one with."""
    parts = ["# Benchmarks", _preamble(results)]
    if any(figure.target is not None for figure in results.figures()):
        parts += ["## Targets", targets(results)]
    if earlier is not None:
        parts += [f"## Compared with the run of {earlier.began}", compared(results, earlier)]
    for outcome in results.outcomes:
        parts += _scenario(outcome, outcome.name in drawn)
    parts += _missing(results)
    parts += ["## The machine", _machine(results)]
    return "\n\n".join(parts) + "\n"


def targets(results: Results) -> str:
    """All figures that have a target, and whether it is met."""
    rows = [
        [figure.scenario, figure.title, _target(figure), estimate(figure.estimate, figure.unit), _verdict(figure)]
        for figure in results.figures()
        if figure.target is not None
    ]
    return _table(["scenario", "figure", "target", f"measured ({_PERCENT} interval)", "met"], rows, "llrrl")


def compared(results: Results, earlier: Results) -> str:
    """Figure by figure: whether the two runs' intervals overlap."""
    before = {(figure.scenario, figure.title): figure.estimate for figure in earlier.figures()}
    rows = []
    count = agreeing = 0
    for figure in results.figures():
        then = before.get((figure.scenario, figure.title))
        if then is None and figure.estimate is None:
            continue
        answer = "not measured in both"
        if then is not None and figure.estimate is not None:
            agrees = figure.estimate.agrees(then)
            answer = "yes" if agrees else "**no**"
            count += 1
            agreeing += agrees
        rows.append(
            [figure.scenario, figure.title, estimate(then, figure.unit), estimate(figure.estimate, figure.unit), answer]
        )
    summary = f"{agreeing} of {count} figures agree: their {_PERCENT} intervals overlap."
    return summary + "\n\n" + _table(["scenario", "figure", "then", "now", "agree"], rows, "llrrl")


def estimate(value: Estimate | None, unit: str) -> str:
    """With its interval: ``1.23 (1.20 to 1.26)``."""
    if value is None:
        return "not measured"
    return f"{amount(value.value, unit)} ({amount(value.low, unit)} to {amount(value.high, unit)})"


def _preamble(results: Results) -> str:
    machine = results.machine
    load = machine.get("load", {})
    minutes = f"{results.seconds / 60:.0f} minutes" if results.seconds >= 90 else f"{results.seconds:.0f} seconds"
    cpu = f"{machine.get('cpu', 'unknown')}{', virtual' if machine.get('virtual') else ''}"
    where = f"{machine.get('cpus', '?')} CPUs ({cpu}), {machine.get('kernel', 'an unknown kernel')}"
    lines = [f"Written by `make bench`, which began {results.began} and took {minutes}, on {where}.", _METHOD]
    if results.quick:
        lines.append("**A quick run: it shows that everything works, and its numbers are worth nothing.**")
    if load.get("busy"):
        lines.append(
            f"**The machine was busy**: others used {load['begin']['used']:.0%} of its processors before the run, "
            f"{load['end']['used']:.0%} after it, and its hypervisor {load['stolen']:.0%} during it."
        )
    return "\n\n".join(lines)


def _target(figure: Figure) -> str:
    assert figure.target is not None
    return f"{'≥' if figure.at_least else '≤'} {plain(figure.target, figure.unit)}"


def _verdict(figure: Figure) -> str:
    if figure.met is None:
        return "not measured"
    answer = "yes" if figure.met else "**no**"
    return answer if figure.certain else f"{answer}, within the interval"


def _scenario(outcome: Outcome, drawn: bool) -> list[str]:
    parts = [f"## {outcome.title}", outcome.about]
    if outcome.error:
        parts.append(f"**Failed**: {_line(outcome.error)}")
    if drawn:
        parts.append(f"![{outcome.title}]({outcome.name}.svg)")
    if outcome.contenders:
        parts.append(_contenders(outcome))
    if figures := outcome.figures():
        rows = [
            [
                figure.title,
                estimate(figure.estimate, figure.unit),
                _target(figure) if figure.target is not None else "",
                _verdict(figure) if figure.target is not None else "",
            ]
            for figure in figures
        ]
        parts.append(_table(["figure", f"measured ({_PERCENT} interval)", "target", "met"], rows, "lrrl"))
    return parts


def _contenders(outcome: Outcome) -> str:
    base = outcome.base
    rows = []
    for contender in outcome.contenders:
        spread = contender.spread
        name = f"**{contender.name}**" if contender is base else contender.name
        if contender.error:
            name += f" (failed: {_line(contender.error)})"
        if spread is None:
            rows.append([name, "missing" if contender.lacking else "", "", "", ""])
            continue
        assert base is not None
        times = "1" if contender is base else estimate(ratio(contender.rounds, base.rounds), "")
        half = f"{amount(spread.low, outcome.unit)} to {amount(spread.high, outcome.unit)}"
        rows.append([name, amount(spread.median, outcome.unit), half, times, str(spread.count)])
    over = f"over {base.name} ({_PERCENT} interval)" if base else "ratio"
    return _table(["", "median", "half of all", over, "samples"], rows, "lrrrr")


def _missing(results: Results) -> list[str]:
    """Who could not take part, each reason once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for outcome in results.outcomes:
        for contender in outcome.contenders:
            if contender.lacking:
                reasons.setdefault((contender.name, contender.lacking), []).append(outcome.name)
    if not reasons:
        return []
    lines = [f"- **{name}** ({', '.join(where)}): {_line(why)}" for (name, why), where in reasons.items()]
    return ["## Missing here", "\n".join(lines)]


def _machine(results: Results) -> str:
    machine = results.machine
    load = machine.get("load")
    rows = [
        ["commit", machine.get("commit", "")],
        ["kernel", machine.get("kernel", "")],
        ["processor", machine.get("cpu", "")],
        ["CPUs", f"{machine.get('cpus', '')}{' (virtual)' if machine.get('virtual') else ''}"],
        ["memory", amount(machine["memory"], "B") if "memory" in machine else ""],
        ["cgroups", machine.get("cgroups", "")],
        ["state root", machine.get("state", "")],
        ["Python", machine.get("python", "")],
        *([name, version] for name, version in machine.get("versions", {}).items()),
    ]
    if load:
        for when in ("begin", "end"):
            one = load[when]
            text = f"{number(one['load_1min'])}; others used {one['used']:.0%} of the processors"
            rows.append([f"load at the {when}", text])
        rows.append(["time stolen by the hypervisor", f"{load['stolen']:.1%}"])
    rows.append(
        ["time taken", ", ".join(f"{outcome.name} {outcome.seconds:.0f} s" for outcome in results.outcomes)],
    )
    return _table(["", ""], rows, "ll")


def _line(text: str) -> str:
    """A message of several lines as one that a table can hold."""
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])
