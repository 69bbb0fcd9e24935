from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from jobs.__main__ import main
from tests.support.wordllama_tables import wordllama_table

_CHROMIUM = shutil.which("chromium")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture
def page(tmp_path):
    """The page of a small table, served by the command itself."""
    wordllama_table(
        tmp_path / "t.lance", [f"the number {n} in words" for n in range(40)] + ["a red heart", "<b>stars</b>"]
    )
    command = [sys.executable, "-m", "jobs", "explore", str(tmp_path / "t.lance"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        finally:
            server.terminate()
        assert "Traceback" not in server.stdout.read()


@pytest.mark.skipif(_CHROMIUM is None, reason="no chromium here")
def test_a_person_types_moves_the_sliders_and_takes_a_picture(page):
    from playwright.sync_api import expect, sync_playwright

    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        view = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        errors: list[str] = []
        view.on("pageerror", lambda error: errors.append(str(error)))
        view.goto(page)
        view.wait_for_selector("#hits li:nth-child(12)")  # the first rows, before any question
        view.fill("#words", "stars")
        view.press("#words", "Enter")
        view.wait_for_selector("#chart path", state="attached")
        assert view.inner_text("#hits li b >> nth=0") == "<b>stars</b>"
        assert view.inner_text("#recall") == "1.000"
        before = view.inner_text("#bytes")
        view.focus("#dim")
        view.keyboard.press("ArrowLeft")
        expect(view.locator("#bytes")).not_to_have_text(before)
        assert view.inner_text("#dim-value") == "64"
        view.keyboard.press(".")
        view.fill("#where", "id = 's7'")
        view.press("#where", "Enter")
        expect(view.locator("#hits li")).to_have_count(1)
        view.fill("#where", "")
        view.press("#where", "Enter")
        expect(view.locator("#hits li")).to_have_count(12)
        view.focus("#hits li:nth-child(2) button")
        view.keyboard.press("Enter")
        view.wait_for_selector("#asked:focus:has-text('more like')")
        view.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": picture.getvalue()})
        view.wait_for_selector("#problem:has-text('image')")  # wordllama takes no pictures: it is said, nothing breaks
        view.click("#tab-rejects")
        view.wait_for_selector("#rejects p")
        view.keyboard.press("ArrowRight")
        view.wait_for_selector("#history p")
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        assert errors == []
        browser.close()


def test_a_port_that_is_taken_is_said(tmp_path, page, capsys):
    port = page.rstrip("/").rpartition(":")[2]
    assert main(["explore", str(tmp_path / "t.lance"), "--port", port]) == 2
    assert "choose another --port" in " ".join(capsys.readouterr().err.split())
