"""The page of nights: what it shows of them, and what it leaves out."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from pipelines.nightly.answers import Answer, AskedTwice, Comparison
from pipelines.reports.history_page import history_page
from pipelines.reports.page import Figures, Gallery, Grid, write_report
from pipelines.reports.plots import Trend
from schemas.nights import Night, NightCounts, NightState
from schemas.publications import GateResult, Publication, PublishedState

BEGAN = dt.datetime(2026, 11, 1, 2, tzinfo=dt.UTC)


def a_night(number: int, state: NightState = "published", **changes: object) -> Night:
    gates = (
        GateResult(gate="recall in memory", passed=True, measured=0.9 + number / 100, bound=0.89),
        GateResult(gate="overlap", passed=state != "refused", measured=0.5, bound=0.9, said="x", examples=("/a.tar",)),
    )
    facts = {
        "counts": NightCounts(new=2, encoded=1000 * number, reused=7, rows=5000 * number),
        "seconds": {"plan": 1.0, "embed": 50.0, "audit": 9.0},
        "audit": gates,
        "price_per_hour": 6.0,
        "bound_by": "read",
        "publication": number if state == "published" else None,
    }
    night = Night(number=number, run="r", state=state, started_at=BEGAN + dt.timedelta(days=number))
    return night.model_copy(update=facts | changes)


def a_publication(number: int) -> Publication:
    state = PublishedState(
        generation=1,
        version=number,
        table_id="t",
        space="0" * 16,
        encoder="wordllama",
        rows=5000 * number,
        shards=2,
        rejects=0,
    )
    return Publication(number=number, id=f"{number}", action="publish", at=BEGAN, state=state)


def test_a_page_shows_counts_rates_costs_bounds_and_what_changed(tmp_path: Path) -> None:
    nothing = a_night(3, "nothing", audit=(), seconds={"plan": 0.6}, counts=NightCounts(rows=10_000))
    nights = [a_night(1), a_night(2), nothing, a_night(4, "refused"), a_night(5)]
    answers = [Answer("a", "an apple", 0.9), Answer("b", "a boat", 0.8, change="new")]
    same = AskedTwice("stocks", "", None, answers, answers)
    changed = AskedTwice("fruit", "row-1", None, [Answer("c", "a cat", 0.7, change="gone"), answers[0]], answers)
    log = [a_publication(1), a_publication(2)]
    report = history_page("/lake/t.lance", nights, log, Comparison(log[0], log[1], (same, changed)))
    sections = {section.title: section for section in report.sections}

    (glance,) = sections["At a glance"].parts
    assert isinstance(glance, Figures)
    figures = {label: value for value, label in glance.items}
    assert (figures["nights"], figures["published"], figures["refused or failed"]) == ("5", "3", "1")
    assert figures["cost"] == f"{4 * 6 / 60:.2f}"
    assert figures["rows of prod, since 2026-11-01"] == "10,000"

    trends = {part.title: part for part in sections["Trends"].parts if isinstance(part, Trend)}
    assert all(trend.places == [1, 2, 4, 5] for trend in trends.values()), "a night with nothing to do has no mark"
    assert trends["Rows encoded per second"].series == {"rows": [20.0, 40.0, 80.0, 100.0]}
    recall = trends["Recall of the funnels"]
    assert recall.series["recall in memory"] == pytest.approx([0.91, 0.92, 0.94, 0.95])
    assert recall.series["recall in memory, bound"] == [0.89] * 4
    assert trends["Cost of each night"].series["cost"] == pytest.approx([0.1] * 4)

    (grid,) = sections["Nights"].parts
    assert isinstance(grid, Grid)
    assert grid.rows[0][:4] == ["5", "2026-11-06 02:00", "published as 5", "2 · 0 · 0"]
    assert "derived" not in grid.heads, "no night has derived anything"
    (refused,) = sections["What was refused, or failed"].parts
    assert isinstance(refused, Grid)
    assert refused.rows == [["4, refused", "overlap: x; measured 0.5, bound 0.9", "/a.tar"]]

    changes = sections["What changed in answers"]
    assert "3 of 4 answers stayed. As they were: “stocks”." in changes.text
    path = tmp_path / "nights.html"
    write_report(report, path)
    page = path.read_text()
    assert page.count("the rows like row-1, publication") == 2
    assert "gone · a cat" in page
    assert page.count("<svg") == len(trends)
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ), "it loads nothing from elsewhere"


def test_rows_with_pictures_are_a_gallery_and_one_night_has_no_trend() -> None:
    answers = [Answer("a", "", 0.9, b"png", "new")]
    asked = AskedTwice("fruit", "row-1", b"png", [Answer("b", "", 0.9, b"png", "gone")], answers)
    log = [a_publication(1), a_publication(2)]
    report = history_page("/lake/t.lance", [a_night(1)], log, Comparison(log[0], log[1], (asked,)))
    sections = {section.title: section for section in report.sections}
    assert "Trends" not in sections
    (gallery,) = sections["What changed in answers"].parts
    assert isinstance(gallery, Gallery)
    assert [label for label, _ in gallery.rows] == ["publication 1", "publication 2"]
    failed = a_night(1, "failed", audit=(), error="S3 keeps failing")
    alone = history_page("/lake/t.lance", [failed], [], Comparison(why_not="Nothing is published."))
    titles = {section.title: section.text for section in alone.sections}
    assert titles["What changed in answers"] == "Nothing is published."
    assert "Publications" not in titles
