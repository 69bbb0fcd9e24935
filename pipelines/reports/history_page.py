"""The page of a table's nights: trends, what changed in answers, every night, and what was refused.

Owns the layout. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from pipelines.nightly.answers import Answer, AskedTwice, Comparison
from pipelines.reports.page import Answers, Figures, Gallery, Grid, Hit, Part, Report, Section
from pipelines.reports.plots import Trend
from schemas.nights import Night
from schemas.printable import counted
from schemas.publications import Publication

_RECALL = "recall in "
_OFTEN_ZERO = ("reused", "derived", "rejects")
_AGREEMENTS = ("overlap", "canary")


def history_page(
    base: str,
    nights: Sequence[Night],
    log: Sequence[Publication],
    compared: Comparison,
) -> Report:
    """Compose the page.

    Args:
        base: Address of the table.
        nights: The nights, the oldest first.
        log: The publications, the oldest first; the last one is `prod`.
        compared: Answers of `prod` and of what was published before it.
    """
    sections = [Section("At a glance", "", [Figures(_glance(nights, log))])]
    if plots := _trends(nights):
        sections.append(Section("Trends", "A mark is a night; nights with nothing to do are left out.", plots))
    sections.append(_changes(compared))
    if nights:
        sections.append(
            Section(
                "Nights",
                "The latest first; bound by: the stage of embedding that the others waited for.",
                [_nights(nights)],
            )
        )
    if refused := _refused(nights):
        text = "What did not pass, against which bound, and what shows it."
        sections.append(Section("What was refused, or failed", text, [refused]))
    if log:
        sections.append(Section("Publications", "The first row is what readers of prod see.", [_publications(log)]))
    span = f"; nights {nights[0].number} to {nights[-1].number}" if nights else ""
    return Report(f"Nights of {base.rpartition('/')[2]}", f"{base}{span}", sections, "Made by mlake history.")


def _glance(nights: Sequence[Night], log: Sequence[Publication]) -> list[tuple[str, str]]:
    found = [
        (f"{len(nights):,}", "nights"),
        (f"{sum(night.state == 'published' for night in nights):,}", "published"),
        (f"{sum(night.state in ('refused', 'failed') for night in nights):,}", "refused or failed"),
    ]
    shown, minutes = log[-1].state if log else None, sum(night.minutes for night in nights)
    if shown is not None:
        found += [(f"{shown.rows:,}", f"rows of prod, since {log[-1].at:%Y-%m-%d}")]
    found += [
        (f"{sum(night.counts.encoded for night in nights):,}", "rows encoded"),
        (f"{sum(night.counts.reused + night.counts.derived for night in nights):,}", "rows reused or derived"),
        (f"{minutes / 60:,.1f}", "hours") if minutes >= 60 else (f"{minutes:,.1f}", "minutes"),
    ]
    costs = [night.cost for night in nights if night.cost is not None]
    return [*found, (f"{sum(costs):,.2f}", "cost")] if costs else found


def _trends(nights: Sequence[Night]) -> list[Part]:
    worked = [night for night in nights if night.state != "nothing" and night.seconds]
    if len(worked) < 2:
        return []
    counts = {
        name: [getattr(night.counts, name) for night in worked] for name in ("encoded", "reused", "derived", "rejects")
    }
    steps = dict.fromkeys(step for night in worked for step in night.seconds)
    minutes = {step: [night.seconds.get(step, 0.0) / 60 for night in worked] for step in steps}
    rates = [
        night.counts.encoded / night.seconds["embed"] if night.counts.encoded and night.seconds.get("embed") else None
        for night in worked
    ]
    named = {gate.gate for night in worked for gate in night.audit if gate.measured is not None}
    recall = {gate: _of_gate(worked, gate, "measured") for gate in sorted(named) if gate.startswith(_RECALL)}
    bounds = {f"{gate}, bound": _of_gate(worked, gate, "bound") for gate in recall}
    lows = "Lower ends of 95 % intervals, and what they must reach."
    agreement = {gate: _of_gate(worked, gate, "measured") for gate in _AGREEMENTS if gate in named}
    parts = [
        _trend(worked, "Rows of each night", "What the shards of a night became.", counts, is_stacked=True),
        _trend(worked, "Rows of the table", "After the night.", {"rows": [night.counts.rows for night in worked]}),
        _trend(worked, "Minutes of each night", "By step.", minutes, is_stacked=True),
        _trend(worked, "Rows encoded per second", "Start-up included.", {"rows": rates}),
        _trend(worked, "Recall of the funnels", lows, recall | bounds, is_share=True, dashed=bounds),
        _trend(
            worked,
            "Agreement",
            "Overlap: nearest rows that are yesterday's. Canary: least cosine of rows encoded again.",
            agreement,
            is_share=True,
        ),
        _trend(worked, "Cost of each night", "By the price of an hour.", {"cost": [night.cost for night in worked]}),
    ]
    return [part for part in parts if part is not None]


def _trend(
    nights: Sequence[Night],
    title: str,
    caption: str,
    series: Mapping[str, Sequence[float | None]],
    *,
    is_stacked: bool = False,
    is_share: bool = False,
    dashed: Collection[str] = (),
) -> Trend | None:
    """Return a plot of the series that have values; None where none has two."""
    known = {
        label: values
        for label, values in series.items()
        if sum(value is not None for value in values) > 1 and (any(values) or not is_stacked)
    }
    places = [night.number for night in nights]
    trend = Trend(title, caption, places, known, is_stacked=is_stacked, is_share=is_share, dashed=dashed)
    return trend if known else None


def _of_gate(nights: Sequence[Night], gate: str, value: Literal["measured", "bound"]) -> list[float | None]:
    return [next((getattr(each, value) for each in night.audit if each.gate == gate), None) for night in nights]


def _changes(compared: Comparison) -> Section:
    title = "What changed in answers"
    if compared.before is None or compared.now is None or not compared.asked:
        return Section(title, compared.why_not, [])
    asked = compared.asked
    kept, most = sum(each.kept for each in asked), sum(max(len(each.before), len(each.now)) for each in asked)
    same = [each for each in asked if not each.is_changed]
    text = (
        f"{counted(len(asked), 'question')}, asked of publication {compared.before.number} "
        f"({compared.before.at:%Y-%m-%d}) and of publication {compared.now.number} ({compared.now.at:%Y-%m-%d}): "
        f"{kept} of {most} answers stayed."
    )
    if same:
        text += f" As they were: {'; '.join(_question(each) for each in same)}."
    parts: list[Part] = []
    for each in asked:
        if not each.is_changed:
            continue
        sides = ((compared.before, each.before), (compared.now, each.now))
        named = [(f"publication {record.number}", [_hit(answer) for answer in answers]) for record, answers in sides]
        if any(hit.png for _, hits in named for hit in hits):
            parts.append(Gallery(Hit(each.question, 1.0, each.row, each.png), named))
        else:
            said = f"the rows like {each.row}, " if each.row else ""
            parts += [Answers(each.question, f"{said}{name}", hits) for name, hits in named]
    return Section(title, text, parts)


def _question(asked: AskedTwice) -> str:
    return f"“{asked.question}”" + (f" ({asked.row})" if asked.row else "")


def _hit(answer: Answer) -> Hit:
    said = [answer.change, answer.words] if answer.change else [answer.words]
    return Hit(answer.id, answer.score, " · ".join(filter(None, said)), answer.png)


def _nights(nights: Sequence[Night]) -> Grid:
    counts = ("encoded", "reused", "derived", "rejects", "rows")
    shown = [name for name in counts if name not in _OFTEN_ZERO or any(getattr(n.counts, name) for n in nights)]
    has_cost = any(night.cost is not None for night in nights)
    shards = "shards new, changed, gone"
    heads = ["night", "began, UTC", "state", shards, *shown, "minutes", "bound by", *["cost"] * has_cost]
    rows = [
        [
            str(night.number),
            f"{night.started_at:%Y-%m-%d %H:%M}",
            night.state if night.publication is None else f"{night.state} as {night.publication}",
            f"{night.counts.new:,} · {night.counts.changed:,} · {night.counts.vanished:,}",
            *(f"{getattr(night.counts, name):,}" for name in shown),
            f"{night.minutes:,.1f}",
            night.bound_by,
            *(["" if night.cost is None else f"{night.cost:,.2f}"] * has_cost),
        ]
        for night in reversed(nights)
    ]
    return Grid(heads, rows)


def _refused(nights: Sequence[Night]) -> Grid | None:
    rows = [
        [f"{night.number}, {night.state}", gate.verdict, ", ".join(gate.examples)]
        for night in reversed(nights)
        for gate in night.audit
        if not gate.passed
    ]
    rows += [[f"{night.number}, {night.state}", night.error, ""] for night in reversed(nights) if night.error]
    return Grid(("night", "why", "shown by"), rows, is_prose=True) if rows else None


def _publications(log: Sequence[Publication]) -> Grid:
    rows = []
    for record in reversed(log):
        state = record.state
        shown = ["", "", "", ""]
        if state is not None:
            recalls = ", ".join(f"{funnel.card.best.recall:.3f}" for funnel in state.funnels)
            shown = [str(state.generation), str(state.version), f"{state.rows:,}", recalls]
        what = record.action if record.restores is None else f"{record.action} to {record.restores}"
        rows.append([str(record.number), f"{record.at:%Y-%m-%d %H:%M}", what, *shown, record.note])
    return Grid(("number", "at, UTC", "what", "generation", "version", "rows", "recall", "note"), rows, is_prose=True)
