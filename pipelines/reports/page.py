"""One self-contained HTML page: figures, tables, plots, search results and images.

Owns the layout of a page. A report is a list of sections, a section a list of parts; the caller composes them. The
page loads nothing from elsewhere, so it can be mailed, archived, or opened offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from pipelines.reports.plots import Plot, Trend
from pipelines.storage.atomic_files import atomic_path
from schemas.html import data_url


@dataclass(frozen=True)
class Figures:
    """A row of large numbers, each with its meaning: `("0.996", "recall@10 of the funnel")`."""

    items: Sequence[tuple[str, str]]
    kind: str = field(default="figures", init=False)


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        heads: Column headings.
        rows: Cells, row by row.
        caption: Text above the table.
        marked: Index of the row to highlight.
        fold: Where set, only this text is shown until it is clicked.
        is_prose: Whether cells are sentences, which wrap and are aligned left; numbers stand right and do not wrap.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marked: int | None = None
    fold: str = ""
    is_prose: bool = False
    kind: str = field(default="grid", init=False)


@dataclass(frozen=True)
class Hit:
    """One search result: a title, a score, a note, and an image where there is one."""

    title: str
    score: float
    note: str = ""
    png: bytes | None = None

    @property
    def src(self) -> str:
        """The image as a data URL."""
        return data_url(self.png) if self.png else ""


@dataclass(frozen=True)
class Answers:
    """A query in words and its results, best first."""

    question: str
    asked_of: str
    hits: Sequence[Hit]
    kind: str = field(default="answers", init=False)


@dataclass(frozen=True)
class Gallery:
    """A query, an image or words, and the images found: one row per number of dims."""

    question: Hit
    rows: Sequence[tuple[str, Sequence[Hit]]]
    kind: str = field(default="gallery", init=False)


Part = Figures | Grid | Plot | Trend | Answers | Gallery


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, and parts. Consecutive plots and answers stand side by side."""

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


def write_report(report: Report, path: Path) -> None:
    """Write the page atomically. The same report gives the same bytes.

    Raises:
        DependencyMissing: The report has plots, and matplotlib is not installed.
    """
    template = files("pipelines.reports").joinpath("page.html.j2").read_text()
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    with atomic_path(path) as unfinished:
        unfinished.write_text(jinja.from_string(template).render(report=report))
