"""Tables of results keep every number whole, however narrow the terminal."""

from __future__ import annotations

import pytest

from pipelines.reports.console import open_console
from pipelines.reports.terminal import print_columns


@pytest.mark.parametrize("width", [30, 40, 80, 120, 300])
def test_no_number_is_cut_short(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    heads = ["", *(str(100 * number) for number in range(1, 14))]
    rows = [[name, *(f"~0.{number:03} ±0.0{number:02}" for number in range(13))] for name in ("pca", "a [/] " * 10)]
    print_columns("accuracy", heads, rows, open_console())
    said = capsys.readouterr().out
    words = said.replace("│", " ").replace("┃", " ").split()
    assert "…" not in said
    for word in (*heads[1:], *rows[0][1].split(), *rows[1][-1].split()):
        assert word in words
    assert max(map(len, said.splitlines())) <= width
