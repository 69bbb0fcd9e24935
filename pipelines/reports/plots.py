"""Plots of shares by dims or costs, and of values night by night, drawn as SVG elements.

Owns the look of plots. matplotlib is imported when the first plot is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

from markupsafe import Markup

from schemas.errors import DependencyMissing

_COLOURS = ("#0f766e", "#d9480f", "#4c51bf", "#a16207", "#6b7280", "#be185d", "#0369a1", "#65a30d")
_LEAST_SPAN = 0.02  # of an axis of shares, so that no noise looks like a fall
_MARKED: dict[str, Any] = {"marker": "o", "linewidth": 2.2, "markersize": 6.5, "markeredgecolor": "white"}
_INK, _FAINT = "#1f2937", "#d6d3cd"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "matryoshka-lake",
    "font.family": "sans-serif",
    "font.size": 12,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#ebe8e1",
}


@dataclass(frozen=True)
class Curve:
    """Shares at several dims, or at several values of another axis.

    Attributes:
        label: Text of the legend.
        dims: Positions on the axis.
        shares: Measured share at each position, 0 to 1.
        is_dashed: Whether the line is dashed, as baselines are.
        bounds: Lower and upper bounds of each share's interval, drawn as a band.
        has_line: Whether a line connects the points.
    """

    label: str
    dims: Sequence[float]
    shares: Sequence[float]
    is_dashed: bool = False
    bounds: tuple[Sequence[float], Sequence[float]] | None = None
    has_line: bool = True


@dataclass(frozen=True)
class Plot:
    """Curves over a logarithmic axis of dims, or of other values above 0.

    Attributes:
        title: Heading.
        caption: Explanation below the plot.
        curves: The curves.
        axis: Label of the axis.
        base: Base of the logarithm: 2 labels the whole numbers that have points, 10 labels round numbers.
        floor: Lowest share of the vertical axis; None fits the axis to the points.
    """

    title: str
    caption: str
    curves: Sequence[Curve]
    axis: str = "dims"
    base: Literal[2, 10] = 2
    floor: float | None = 0.0
    kind: str = field(default="plot", init=False)

    @property
    def svg(self) -> Markup:
        """The plot as an inline SVG element.

        Raises:
            DependencyMissing: matplotlib is not installed.
        """
        return Markup(_drawn(partial(_draw_curves, plot=self)))


@dataclass(frozen=True)
class Trend:
    """Values of several series at numbered places, such as nights: stacked bars, or lines.

    Attributes:
        title: Heading.
        caption: Explanation below the plot.
        places: Numbers of the places, ascending.
        series: Values by the label of their series; None leaves a gap.
        is_stacked: Whether the values are bars on each other; otherwise they are lines.
        is_share: Whether the values are shares of 1.
        dashed: Series that are drawn as dashed lines without marks, as bounds are.
        axis: Label of the axis.
    """

    title: str
    caption: str
    places: Sequence[int]
    series: Mapping[str, Sequence[float | None]]
    is_stacked: bool = False
    is_share: bool = False
    dashed: Collection[str] = ()
    axis: str = "night"
    kind: str = field(default="plot", init=False)

    @property
    def svg(self) -> Markup:
        """The plot as an inline SVG element.

        Raises:
            DependencyMissing: matplotlib is not installed.
        """
        return Markup(_drawn(partial(_draw_trend, trend=self)))


def check_plots() -> None:
    """Check that plots can be drawn. A long job calls it first, so that it does not fail at its end.

    Raises:
        DependencyMissing: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise DependencyMissing("reports and plots need matplotlib; run: pip install 'matryoshka-lake[report]'")


def _drawn(draw: Callable[[Any], None]) -> str:
    """Return a figure as SVG, on whose axes a function draws."""
    check_plots()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.2, 3.7), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        draw(axes)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :]


def _draw_curves(axes: Any, plot: Plot) -> None:
    for place, curve in enumerate(plot.curves):
        colour = _COLOURS[place % len(_COLOURS)]
        axes.plot(
            curve.dims,
            curve.shares,
            linestyle="" if not curve.has_line else "--" if curve.is_dashed else "-",
            color=colour,
            label=curve.label,
            **_MARKED,
        )
        if curve.bounds is not None:
            axes.fill_between(curve.dims, *curve.bounds, color=colour, alpha=0.15, linewidth=0)
    _label_axes(axes, plot)
    axes.legend(
        frameon=False,
        loc="best" if plot.floor is None else "lower right",
        fontsize=12 if len(plot.curves) < 6 else 9,
    )


def _draw_trend(axes: Any, trend: Trend) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    bottom = [0.0] * len(trend.places)
    for number, (label, values) in enumerate(trend.series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        if trend.is_stacked:
            heights = [value or 0.0 for value in values]
            axes.bar(trend.places, heights, 0.8, bottom, color=colour, label=label)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        else:
            known = [(place, value) for place, value in zip(trend.places, values, strict=True) if value is not None]
            look: dict[str, Any] = {"linestyle": "--"} if label in trend.dashed else _MARKED
            axes.plot(*zip(*known, strict=True), color=colour, label=label, **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(trend.places[0] - 0.6, trend.places[-1] + 0.6)
    axes.set_xlabel(trend.axis)
    if trend.is_share:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, high - _LEAST_SPAN), high)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.4g}" if value < 1e4 else _short(value))
        )
    if len(trend.series) > 1:
        axes.legend(frameon=False, loc="best", fontsize=12 if len(trend.series) < 6 else 9)


def _short(value: float) -> str:
    """Write a number from a thousand on in five characters: 120k, 3.5M."""
    unit, size = next(each for each in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if value >= each[1])
    return f"{value / size:.4g}{unit}"


def _label_axes(axes: Any, plot: Plot) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator, PercentFormatter

    axes.set_xscale("log", base=plot.base)
    axes.xaxis.set_minor_locator(NullLocator())
    if plot.base == 2:
        labelled = _labelled({dim for curve in plot.curves for dim in curve.dims})
        axes.set_xticks(labelled, [f"{dim:g}" for dim in labelled])
    else:
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_xlabel(plot.axis)
    if plot.floor is not None:
        axes.set_ylim(plot.floor, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _labelled(places: Set[float]) -> list[float]:
    """Return the whole numbers to label, ascending: always the last, and none too close to the next one."""
    labelled: list[float] = []
    for place in sorted((place for place in places if place == int(place)), reverse=True):
        if not labelled or place * 1.5 < labelled[-1]:
            labelled.append(place)
    return labelled[::-1]
