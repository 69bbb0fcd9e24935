"""Plots of shares by dims or costs, drawn as SVG elements.

Owns the look of plots. matplotlib is imported when the first plot is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from markupsafe import Markup

from schemas.errors import DependencyMissing

_COLOURS = ("#0f766e", "#d9480f", "#4c51bf", "#a16207", "#6b7280", "#be185d", "#0369a1", "#65a30d")
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
        return Markup(_draw(self))


def check_plots() -> None:
    """Check that plots can be drawn. A long job calls it first, so that it does not fail at its end.

    Raises:
        DependencyMissing: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise DependencyMissing("reports and plots need matplotlib; run: pip install 'matryoshka-lake[report]'")


def _draw(plot: Plot) -> str:
    check_plots()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.2, 3.7), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        for place, curve in enumerate(plot.curves):
            colour = _COLOURS[place % len(_COLOURS)]
            axes.plot(
                curve.dims,
                curve.shares,
                marker="o",
                linestyle="" if not curve.has_line else "--" if curve.is_dashed else "-",
                color=colour,
                label=curve.label,
                linewidth=2.2,
                markersize=6.5,
                markeredgecolor="white",
            )
            if curve.bounds is not None:
                axes.fill_between(curve.dims, *curve.bounds, color=colour, alpha=0.15, linewidth=0)
        _label_axes(axes, plot)
        axes.legend(
            frameon=False,
            loc="best" if plot.floor is None else "lower right",
            fontsize=12 if len(plot.curves) < 6 else 9,
        )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :]


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
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _labelled(places: Set[float]) -> list[float]:
    """Return the whole numbers to label, ascending: always the last, and none too close to the next one."""
    labelled: list[float] = []
    for place in sorted((place for place in places if place == int(place)), reverse=True):
        if not labelled or place * 1.5 < labelled[-1]:
            labelled.append(place)
    return labelled[::-1]
