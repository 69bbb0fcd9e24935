"""Terminal tables of the publications and the nights of a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from schemas.nights import Night
from schemas.publications import Publication, PublishedState


def publications_table(log: Sequence[Publication]) -> Table:
    """Return a table of publications, a row each; the last one is `prod`."""
    table = Table(
        "no", "at, UTC", "what", "gen", "version", "rows", "recall", title="publications", box=None, pad_edge=False
    )
    table.title_justify = "left"
    for record in log:
        state = record.state
        what = record.action if record.restores is None else f"{record.action} to {record.restores}"
        what += " (forced)" if record.is_forced else ""
        what += f": {record.note}" if record.note else ""
        shown = ("", "", "", "") if state is None else _shown(state)
        table.add_row(str(record.number), f"{record.at:%Y-%m-%d %H:%M}", what, *shown)
    return table


def nights_table(nights: Sequence[Night]) -> Table:
    """Return a table of nights, a row each, with why one ended early below it."""
    table = Table(
        "night", "at, UTC", "state", "new", "chg", "gone", "encoded", "reused", "rows", "min", box=None, pad_edge=False
    )
    table.title, table.title_justify = "nights", "left"
    for night in nights:
        counts = night.counts
        numbers = (counts.new, counts.changed, counts.vanished, counts.encoded, counts.reused, counts.rows)
        table.add_row(
            str(night.number),
            f"{night.started_at:%Y-%m-%d %H:%M}",
            night.state,
            *(f"{number:,}" for number in numbers),
            f"{night.minutes:.1f}",
        )
        said = [gate.said for gate in night.audit if not gate.passed] or ([night.error] if night.error else [])
        if said:
            table.caption = f"night {night.number}: {'; '.join(said)}"
            table.caption_justify = "left"
    return table


def _shown(state: PublishedState) -> tuple[str, str, str, str]:
    recalls = [f"{funnel.card.best.recall:.3f}" for funnel in state.funnels]
    return str(state.generation), str(state.version), f"{state.rows:,}", " ".join(recalls)
