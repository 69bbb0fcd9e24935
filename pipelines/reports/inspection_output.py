"""Show an inspection: as tables in a terminal, or as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from pipelines.reports.page import Figures, Grid, Part, Report, Section
from schemas.inspection import Inspection
from schemas.printable import counted


def print_inspection(found: Inspection, console: Console) -> None:
    """Print an inspection, at any width of the terminal."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(found):
        facts.add_row(name, value)
    console.print(facts)
    for title, heads, rows in _tables(found):
        if not rows:
            continue
        console.print()
        grid = Table(*heads, title=title, title_justify="left", box=None, pad_edge=False)
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
    if found.next:
        console.print("\nnext")
        for sentence in found.next:
            console.print(f"  {sentence}", soft_wrap=True)


def inspection_page(found: Inspection) -> Report:
    """Return the page of an inspection."""
    figures = [
        (f"{found.rows:,}", "rows"),
        (f"{found.shards:,}", "shards"),
        (decimal(found.bytes), "of columns"),
        (str(found.dims[-1]), "dims"),
        (f"{sum(each.samples for each in found.rejects):,}", "rejected samples"),
        (f"{found.versions:,}", "versions"),
    ]
    head: list[Part] = [Figures(figures), Grid(("", ""), _facts(found), is_prose=True)]
    sections = [Section("The table", "", head)]
    if found.next:
        sections.append(Section("What to do next", "", [Grid(("",), [[each] for each in found.next], is_prose=True)]))
    sections += [
        Section(title.capitalize(), "", [Grid(heads, rows, is_prose=True)])
        for title, heads, rows in _tables(found)
        if rows
    ]
    return Report(found.uri.rpartition("/")[2], f"{found.uri}, version {found.version}", sections)


def _facts(found: Inspection) -> list[tuple[str, str]]:
    rotated = ", rotated" if found.is_rotated else ""
    prod = found.prod
    published = (
        "nothing is published"
        if prod is None
        else f"publication {prod.number} of {prod.at:%Y-%m-%d %H:%M} UTC: generation {prod.generation}, "
        f"version {prod.version}, {counted(prod.rows, 'row')}"
    )
    tags = ", ".join(f"{name} → {version}" for name, version in sorted(found.tags.items()))
    since = f"{found.first_version_at:%Y-%m-%d %H:%M} to {found.last_version_at:%Y-%m-%d %H:%M} UTC"
    return [
        ("table", f"{found.uri}, version {found.version}"),
        ("rows", f"{found.rows:,} of {counted(found.shards, 'shard')}, in {counted(found.fragments, 'fragment')}"),
        ("space", f"{found.encoder} {found.revision}{rotated}; fingerprint {found.space}"),
        ("dims", f"{', '.join(map(str, found.dims))}; columns for {', '.join(map(str, found.prefix_dims)) or 'none'}"),
        ("versions", f"{found.versions:,}, {since}"),
        ("tags", tags or "none"),
        ("prod", published),
    ]


def _tables(found: Inspection) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    yield (
        "columns",
        ("column", "type", "size", "share"),
        [[c.name, c.type, decimal(c.bytes), f"{c.bytes / max(1, found.bytes):.0%}"] for c in found.columns],
    )
    yield (
        "indexes",
        ("index", "column", "type", "rows", "not indexed"),
        [[i.name, i.column, i.type, f"{i.rows:,}", f"{i.unindexed_rows:,}"] for i in found.indexes],
    )
    yield (
        "funnels",
        ("home", "k", "recall", "95 % interval", "rows then", "rows now", "holds"),
        [
            [
                f.home,
                _number(f.k),
                "" if f.recall is None else f"{f.recall:.4f}",
                "" if f.low is None or f.high is None else f"{f.low:.4f} to {f.high:.4f}",
                _number(f.rows_then),
                f"{f.rows_now:,}",
                "no" if f.problem else "yes",
            ]
            for f in found.funnels
        ],
    )
    yield "rejects", ("reason", "samples"), [[r.reason, f"{r.samples:,}"] for r in found.rejects]
    yield (
        "last runs",
        ("run", "job", "state", "started, UTC", "rows", "cut texts", "cut tokens"),
        [
            [
                r.run,
                r.job,
                r.state,
                f"{r.started_at:%Y-%m-%d %H:%M}",
                _number(r.rows),
                _number(r.cut_texts),
                _share(r.cut_tokens, r.text_tokens),
            ]
            for r in found.runs
        ],
    )


def _share(part: int | None, whole: int | None) -> str:
    return "" if part is None or not whole else f"{part / whole:.1%}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
