"""The plots: bars for what contenders cost, curves for what grows; each as PNG and SVG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.amounts import amount, plain
from benchmarks.results import Measured, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

#: A contender with one of these words in its name is ours.
_OURS = {"native", "lxc", "oci", "chroot", "execdrivers"}
_ACCENT, _LIGHT_ACCENT, _FLOOR, _OTHERS = "#1f6fb2", "#8ab8dd", "#4d565f", "#b9c0c8"
_INK, _FAINT, _RULE = "#24292f", "#6e7781", "#e4e7eb"
#: Of the curves that are not ours.
_HUES = ("#4d565f", "#c2703d", "#5b8c5a", "#8d6a9f", "#b9a13b")
_STYLE: Any = {  # matplotlib has a type of literals for it
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": _RULE,
    "xtick.color": _FAINT,
    "ytick.color": _INK,
    "svg.hashsalt": "execdrivers",  # the same results give the same file
}
#: Bars of which the longest is this many times the shortest have a logarithmic axis.
_WIDE = 8


def draw(outcome: Outcome, directory: Path) -> bool:
    """Write ``NAME.png`` and ``NAME.svg``. False, and neither, where there is nothing to show."""
    measured = list(outcome.measured.values())
    if outcome.plot == "curves":
        measured = [contender for contender in measured if contender.x is not None]
    if not measured:
        return False
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = _curves(outcome, measured) if outcome.plot == "curves" else _bars(outcome, measured)
        figure.savefig(directory / f"{outcome.name}.png", dpi=200)
        figure.savefig(directory / f"{outcome.name}.svg", metadata={"Date": None})
    return True


def _bars(outcome: Outcome, measured: list[Measured]) -> Figure:
    """A bar to each median, the best on top, with a line over half of all samples and the value at its end."""
    more_is_better = outcome.unit == "B/s"
    shown = [(contender.name, spread) for contender in measured if (spread := contender.spread) is not None]
    shown.sort(key=lambda pair: pair[1].median, reverse=more_is_better)
    medians = [spread.median for _, spread in shown]
    logarithmic = min(medians) > 0 and max(medians) / min(medians) >= _WIDE
    figure, axes = _figure(outcome, height=1.25 + 0.36 * len(shown))
    start = min(medians) / 2 if logarithmic else 0
    if logarithmic:
        axes.set_xscale("log")
    places = range(len(shown))
    colours = [_colour(name) for name, _ in shown]
    axes.barh(places, [value - start for value in medians], left=start, height=0.62, color=colours, zorder=2)
    for place, (name, spread) in zip(places, shown, strict=True):
        axes.plot([spread.low, spread.high], [place, place], color=_INK, linewidth=1, solid_capstyle="butt", zorder=3)
        axes.annotate(
            amount(spread.median, outcome.unit),
            (max(spread.high, spread.median), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            weight="bold" if _is_ours(name) else "normal",
        )
    axes.set_yticks(places, [name for name, _ in shown])
    for label, (name, _) in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_fontweight("bold" if _is_ours(name) else "normal")
    axes.set_ylim(len(shown) - 0.4, -0.6)
    highest = max(spread.high for _, spread in shown)
    room = 0.18  # for the longest one's value
    axes.set_xlim(start, highest * (highest / start) ** room if logarithmic else highest * (1 + room))
    axes.tick_params(axis="y", length=0, pad=6)
    axes.grid(axis="x", color=_RULE, linewidth=0.8, zorder=0)
    _in_units(axes, "x", outcome.unit)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(_FAINT)
    best = "more is better" if more_is_better else "less is better"
    scale = ", logarithmic" if logarithmic else ""
    _titles(figure, outcome, f"medians{scale}; {best}; the line is half of all samples")
    return figure


def _curves(outcome: Outcome, measured: list[Measured]) -> Figure:
    """A curve for each group through the medians, named at its end if there are several; the band is half of all."""
    groups: dict[str, list[Measured]] = {}
    for contender in measured:
        groups.setdefault(contender.group or contender.name, []).append(contender)
    figure, axes = _figure(outcome, height=4.2)
    hues = iter(_HUES * len(groups))
    ends = []
    for group, points in groups.items():
        points.sort(key=lambda point: point.x or 0)
        spreads = [spread for point in points if (spread := point.spread) is not None]
        xs = [point.x for point in points if point.x is not None]
        ours = any(_is_ours(point.name) for point in points)
        colour = _ACCENT if ours else next(hues)
        axes.fill_between(
            xs, [each.low for each in spreads], [each.high for each in spreads], color=colour, alpha=0.15, linewidth=0
        )
        medians = [each.median for each in spreads]
        axes.plot(xs, medians, color=colour, marker="o", markersize=4.5, linewidth=2.2 if ours else 1.6, zorder=3)
        ends.append((medians[-1], xs[-1], group, colour, ours))
    values = sorted({point.x for point in measured if point.x is not None})
    positive = [value for value in values if value > 0]
    if positive and positive[-1] / positive[0] >= 50:
        axes.set_xscale("symlog", linthresh=positive[0])
    axes.set_xticks(values, [plain(value, "") for value in values])
    axes.minorticks_off()
    axes.set_xlabel(outcome.x)
    axes.set_ylim(0, 1.12 * max(spread.high for point in measured if (spread := point.spread)))
    axes.grid(axis="y", color=_RULE, linewidth=0.8, zorder=0)
    _in_units(axes, "y", outcome.unit)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(axis="y", length=0, labelcolor=_FAINT)
    if len(ends) > 1:
        _name_curves(axes, ends)
    else:
        for x, value in zip(xs, medians, strict=True):
            text = amount(value, outcome.unit)
            axes.annotate(text, (x, value), xytext=(0, 8), textcoords="offset points", ha="center", weight="bold")
    _titles(figure, outcome, "medians; the band is half of all samples")
    return figure


def _name_curves(axes: Axes, ends: list[tuple[float, float, str, str, bool]]) -> None:
    """Each at its end, moved up where it would cover the one below."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.055
    above = low
    for value, x, group, colour, ours in sorted(ends):
        place = max(value, above)
        above = place + gap
        axes.annotate(
            group,
            (x, place),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            weight="bold" if ours else "normal",
            annotation_clip=False,
        )


def _figure(outcome: Outcome, height: float) -> tuple[Figure, Axes]:
    """Of the width of a page, with room for the titles above."""
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    below_titles = (0.01, 0.01, 0.98, 1 - 0.68 / height)
    figure = NewFigure(figsize=(8, height), layout=ConstrainedLayoutEngine(rect=below_titles))
    return figure, figure.add_subplot()


def _titles(figure: Figure, outcome: Outcome, note: str) -> None:
    height = figure.get_figheight()
    figure.text(0.015, 1 - 0.12 / height, outcome.title.replace("`", ""), va="top", size=13, weight="bold")
    missing = [contender.name for contender in outcome.contenders if contender.lacking]
    if missing:
        note += f"; not here: {', '.join(missing)}"
    figure.text(0.015, 1 - 0.42 / height, note, va="top", size=9, color=_FAINT)


def _in_units(axes: Axes, which: str, unit: str) -> None:
    """Ticks at round amounts: of bytes at powers of two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() == "log":
        decades = math.log10(high / low)
        axis.set_major_locator(
            LogLocator(base=2, numticks=8) if unit == "B" else LogLocator(subs=(1, 2, 5) if decades < 2 else (1,))
        )
    elif unit == "B":
        axis.set_major_locator(MultipleLocator(2 ** round(math.log2((high - low) / 5))))
    else:
        axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value, unit) if value else "0"))
    axis.set_tick_params(length=0)


def _is_ours(name: str) -> bool:
    return not _OURS.isdisjoint(name.replace(",", " ").split())


def _colour(name: str) -> str:
    """Of a bar."""
    if _is_ours(name):
        return _LIGHT_ACCENT if name in ("lxc", "oci", "chroot") else _ACCENT
    return _FLOOR if "floor" in name else _OTHERS
