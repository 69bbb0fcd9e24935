"""A report is one self-contained page that shows everything it was given."""

from __future__ import annotations

import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipelines.reports.page import Answers, Figures, Gallery, Grid, Hit, Report, Section, write_report
from pipelines.reports.plots import Curve, Plot
from schemas.html import data_url


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


REPORT = Report(
    title="A <title> & more",
    subtitle="of everything",
    sections=[
        Section(
            "One of each",
            "Words about it.",
            [
                Figures([("0.996", "recall")]),
                Grid(["dims", "recall"], [("64", "0.9"), ("256", "1.0")], caption="a caption", marked=1),
                Plot("By dims", "more is more", [Curve("rotated", (8, 64, 1024, 1280), (0.1, 0.5, 0.9, 1.0))]),
                Answers("who & what?", "news", [Hit("<b>bold</b>", 0.75, "a note")]),
                Gallery(Hit("asked", 1.0, png=_png("red")), [("8 dims", [Hit("found", 0.5, png=_png("blue"))])]),
            ],
        )
    ],
    footer="the end",
)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "path", "use", "br"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path) -> str:
    write_report(REPORT, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_everything_given_is_on_the_page_as_text(page: str) -> None:
    text = _Page(page).text
    for said in ("A <title> & more", "0.996", "a caption", "rotated", "who & what?", "<b>bold</b>", "0.750", "the end"):
        assert said in text


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    parsed = _Page(page)
    assert parsed.open == []
    assert all(address.startswith(("data:", "#")) for address in parsed.addresses)
    assert not re.search(r"@import|url\((?!#)", page)


def test_pictures_are_inside(page: str) -> None:
    assert data_url(_png("red")) in page
    assert data_url(_png("blue")) in page


def test_only_the_marked_row_is_marked(page: str) -> None:
    assert re.findall(r'<tr class="marked"><td[^>]*>(\d+)', page) == ["256"]


def test_the_same_report_is_the_same_file(page: str, tmp_path: Path) -> None:
    write_report(REPORT, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.html", "report.html"]


def test_no_table_is_cut_on_a_narrow_screen(tmp_path: Path) -> None:
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no chromium here")
    from playwright.sync_api import sync_playwright

    heads = [f"a head {number}" for number in range(9)]
    wide = Grid(heads, [["x" * 30, *("1,234,567" for _ in heads[1:])]] * 2)
    prose = Grid(heads, [["20261127T151854-e83ff8" for _ in heads]], is_prose=True)
    write_report(Report("Wide", "", [Section("Tables", "", [wide, prose])]), tmp_path / "page.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(viewport={"width": 390, "height": 800})
        view.goto((tmp_path / "page.html").as_uri())
        cut = "[...document.querySelectorAll('.scroll')].map((part) => part.scrollWidth - part.clientWidth)"
        assert view.evaluate(cut) == [0, 0]
        assert view.evaluate("document.documentElement.scrollWidth") == 390
        browser.close()
