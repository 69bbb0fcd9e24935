"""Hits are Arrow for every tool, and a table that escapes what it shows."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.tables.hits import Hits
from schemas.errors import DependencyMissing, InputError


def png(colour: str) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (400, 200), colour).save(held, "PNG")
    return held.getvalue()


ROWS = pa.table(
    {
        "id": ["<b>1</b>", "2\x1b[31m", "3"],
        "picture": [png("red"), b"no picture", None],
        "vector": [[1.0], [2.0], [3.0]],
        "score": pa.array([1.0, 0.5, 0.25], pa.float32()),
    }
)


def test_hits_are_columns_rows_and_arrow() -> None:
    hits = Hits(ROWS)
    assert (len(hits), hits.num_rows, hits.column_names, hits.schema) == (3, 3, ROWS.column_names, ROWS.schema)
    assert hits["score"].to_pylist() == [1, 0.5, 0.25]
    assert [row["id"] for row in hits] == ROWS["id"].to_pylist()
    assert [hits[0], hits[-1]] == [ROWS.to_pylist()[0], ROWS.to_pylist()[-1]]
    assert (hits[1:].to_pylist(), hits[::-1]["score"].to_pylist()) == (ROWS.to_pylist()[1:], [0.25, 0.5, 1])
    with pytest.raises(IndexError):
        hits[3]
    for wrong in (True, ["id"], 1.0, None):
        with pytest.raises(TypeError, match="pass the name of one column, the place of a row, or a slice"):
            hits[wrong]  # type: ignore[call-overload]
    with pytest.raises(KeyError, match="no column 'ID'; there are: id, picture"):
        hits["ID"]
    assert hits.to_arrow() is ROWS
    assert pa.table(hits).equals(ROWS)
    assert hits == Hits(ROWS, "another title")
    nan, other = (pa.table({"x": [1.0, float("nan")], "l": [[float("nan")], [last]]}) for last in (1.0, 2.0))
    assert Hits(nan) == Hits(pa.concat_tables([nan[:1], nan[1:]]))
    assert Hits(nan) != Hits(other)
    assert hits != Hits(ROWS.drop_columns("id"))
    assert hits != Hits(ROWS[:2])
    pd.testing.assert_frame_equal(hits.to_pandas(), ROWS.to_pandas())


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(DependencyMissing, match="pip install polars"):
        Hits(pa.table({"id": ["a"]})).to_polars()


def test_a_terminal_and_a_notebook_show_what_the_data_says_and_no_more() -> None:
    hits = Hits(ROWS, "nearest to <i>")
    said = repr(hits)
    assert "\x1b" not in said
    assert said.splitlines()[:2] == ["nearest to <i>", "score   id        picture"]
    assert "0.5000  2␛[31m    10 bytes" in said
    shown = hits._repr_html_()
    assert "<b>1" not in shown
    assert "&lt;b&gt;1&lt;/b&gt;" in shown
    assert "nearest to &lt;i&gt;" in shown
    assert shown.count("<img") == 1
    assert "10 bytes" in shown
    assert "vector" not in shown + said


def test_many_rows_are_cut_and_counted() -> None:
    hits = Hits(pa.table({"id": [str(i) for i in range(1234)], "text": ["x" * 5000] * 1234}))
    assert repr(hits).splitlines()[-1] == "… 1,184 more"
    assert "the first 50 of 1,234" in hits._repr_html_()
    assert len(hits._repr_html_()) < 60_000


def test_pictures_that_text_names_are_shown_below_the_folder_that_the_caller_names_only(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png("blue"))
    (tmp_path / "secret.png").write_bytes(png("black"))
    hits = Hits(pa.table({"id": ["1", "2", "3"], "file": ["a.png", "../secret.png", str(tmp_path / "secret.png")]}))
    assert "<img" not in hits._repr_html_()
    assert hits.with_images(folder)._repr_html_().count("<img") == 1
    with pytest.raises(InputError, match="no such folder"):
        hits.with_images(tmp_path / "nowhere")
