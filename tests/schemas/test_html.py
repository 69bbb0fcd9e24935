"""What a notebook shows of records: each value, readable, and as text."""

from __future__ import annotations

import datetime as dt
import re

from schemas.html import ShownAsHtml, one_line


class Part(ShownAsHtml):
    name: str
    rows: int
    share: float | None = None
    note: str = ""


class Inner(ShownAsHtml):
    part: Part
    dims: tuple[int, ...] = ()


class Whole(ShownAsHtml):
    at: dt.datetime
    is_forced: bool
    note: str
    parts: tuple[Part, ...]
    inners: tuple[Inner, ...]


def cells(html: str) -> list[str]:
    return re.findall(r"<(?:td|th|caption)(?: [^>]*)?>(.*?)</", html)


def test_a_record_shows_all_that_it_holds_and_nothing_that_is_empty() -> None:
    parts = (Part(name="<b>a</b>", rows=1_234_567), Part(name="\u202eb\x1b", rows=2, share=0.123456789))
    inners = tuple(Inner(part=part, dims=(8, 64)) for part in parts)
    record = Whole(
        at=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), is_forced=False, note="", parts=parts, inners=inners
    )
    shown = record._repr_html_()
    said = cells(shown)
    assert said[:5] == ["Whole", "at", "2026-01-02 03:04:05 UTC", "is forced", "no"]
    assert said[5:9] == ["parts", "name", "rows", "share"]  # no note has a text
    assert said[9:15] == ["&lt;b&gt;a&lt;/b&gt;", "1,234,567", "", "\ufffdb\u241b", "2", "0.123457"]
    assert said[15:20] == ["inners 1", "dims", "8, 64", "part", "name"]
    assert "inners 2" in said
    assert "Part(" not in shown
    rows = [row for row in shown.split("<tr") if "1,234,567</td>" in row and "0.1" not in row]
    assert "text-align:right" in rows[0]


def test_a_line_for_a_terminal_holds_no_command() -> None:
    assert one_line("T", {"kept": "\x1b[31m\u061cx"}) == "<T kept: \u241b[31m\ufffdx>"
