"""One self-contained HTML page from results: numbers, tables, plots and answers, with every picture inside.

Owns how results look; measures nothing. A page is a list of sections, a section a list of parts; the job that knows the
results composes them. The page loads nothing from anywhere, so it can be mailed, archived, or opened offline.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator, PercentFormatter

from pipelines.storage.atomic_files import atomic_path

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
class Figures:
    """A row of large numbers, each with what it says: `("0.996", "recall@10 of the funnel")`."""

    items: Sequence[tuple[str, str]]
    kind: str = field(default="figures", init=False)


@dataclass(frozen=True)
class Grid:
    """A table; `marked` is the row to look at. One with a `fold` shows that text, and its rows when that is clicked.

    Numbers stand at the right and keep to one line; where `is_prose`, cells are words: they start at the left and wrap.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marked: int | None = None
    fold: str = ""
    is_prose: bool = False
    kind: str = field(default="grid", init=False)


@dataclass(frozen=True)
class Curve:
    """A measured share for each dim, or for each of whatever the plot's axis counts.

    Attributes:
        label: What the legend says.
        dims: Where on the axis.
        shares: What was measured there.
        is_dashed: Whether it is there for comparison.
        bounds: Lower and upper ends of each share's interval, drawn as a band.
        has_line: Whether neighbouring points belong together.
    """

    label: str
    dims: Sequence[float]
    shares: Sequence[float]
    is_dashed: bool = False
    bounds: tuple[Sequence[float], Sequence[float]] | None = None
    has_line: bool = True


@dataclass(frozen=True)
class Plot:
    """Shares by dims, or by anything else above 0, on a logarithmic axis.

    Attributes:
        title: What is seen.
        caption: What it means.
        curves: What was measured.
        axis: What the axis counts.
        base: Of the logarithm: 2 names whole numbers that points stand at, 10 names round numbers.
        floor: Where the shares' axis starts; None fits it to the points.
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
        """The drawing, as an inline SVG element."""
        return Markup(_draw(self))


@dataclass(frozen=True)
class Hit:
    """One answer: a title, what else is known, a picture where there is one."""

    title: str
    score: float
    note: str = ""
    png: bytes | None = None

    @property
    def src(self) -> str:
        """The picture as a data URL."""
        return data_url(self.png) if self.png else ""


@dataclass(frozen=True)
class Answers:
    """A question in words and its answers, best first."""

    question: str
    asked_of: str
    hits: Sequence[Hit]
    kind: str = field(default="answers", init=False)


@dataclass(frozen=True)
class Gallery:
    """A question, a picture or words, and the pictures that answer it: one row per number of dims."""

    question: Hit
    rows: Sequence[tuple[str, Sequence[Hit]]]
    kind: str = field(default="gallery", init=False)


Part = Figures | Grid | Plot | Answers | Gallery


@dataclass(frozen=True)
class Section:
    """A heading, a few words, and parts. Plots and answers that follow one another stand side by side."""

    title: str
    text: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Report:
    """A page."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    footer: str = ""


def data_url(png: bytes) -> str:
    """Put a PNG into an address, so that a page carries it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def write_report(report: Report, path: Path) -> None:
    """Write the page, whole or not at all. The same report gives the same bytes."""
    template = files("pipelines").joinpath("report.html.j2").read_text()
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    with atomic_path(path) as unfinished:
        unfinished.write_text(jinja.from_string(template).render(report=report))


def _draw(plot: Plot) -> str:
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
        axes.set_xscale("log", base=plot.base)
        axes.xaxis.set_minor_locator(NullLocator())
        if plot.base == 2:
            named = _named({dim for curve in plot.curves for dim in curve.dims})
            axes.set_xticks(named, [f"{dim:g}" for dim in named])
        else:
            axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.set_xlabel(plot.axis)
        if plot.floor is not None:
            axes.set_ylim(plot.floor, 1.04)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.legend(
            frameon=False,
            loc="best" if plot.floor is None else "lower right",
            fontsize=12 if len(plot.curves) < 6 else 9,
        )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :]


def _named(places: Set[float]) -> list[float]:
    """Return the whole places to name, ascending: the last always, one too close to the next named never."""
    named: list[float] = []
    for place in sorted((place for place in places if place == int(place)), reverse=True):
        if not named or place * 1.5 < named[-1]:
            named.append(place)
    return named[::-1]
