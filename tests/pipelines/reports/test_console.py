"""What is printed means itself: no markup is read in it, and nothing in it commands the terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress
from rich.table import Table

from pipelines.reports.console import open_console, print_error, printable

HOSTILE = "a[/] [bold]b[/bold] [/x] :smile: {} %s \\[c] \x1b[31m\x1b]0;title\x07 d\r\x08e\x9b2J \u202ef \x7f"
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@given(st.text(st.characters(), max_size=50))
def test_no_character_that_commands_a_terminal_is_left(text: str) -> None:
    shown = printable(text)
    assert COMMANDS.search(shown) is None
    assert len(shown) == len(text)
    assert all(a == b for a, b in zip(text, shown, strict=True) if COMMANDS.match(a) is None)


def test_every_way_to_print_leaves_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console = open_console()
    grid = Table(HOSTILE, title=HOSTILE)
    grid.add_row(HOSTILE)
    console.print(grid)
    console.print(HOSTILE, soft_wrap=True)
    with Progress(console=console):
        console.print(HOSTILE, soft_wrap=True)
    print_error(HOSTILE)
    said = "".join(capsys.readouterr())
    assert COMMANDS.search(said) is None
    assert said.count("[bold]b[/bold] [/x] :smile: {} %s") >= 3


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_table_cuts_a_word_or_a_number(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    grid = Table("run", "recall", "started, UTC", "what was said of it", box=None, pad_edge=False)
    grid.add_row("20261127-8d92", "0.9923", "2026-11-27 15:32", "the recall had fallen, so it was tuned anew")
    open_console().print(grid)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    said = " ".join(lines).split()
    for word in ("20261127-8d92", "0.9923", "2026-11-27", "15:32", "recall", "fallen,", "anew"):
        assert word in said


def test_no_other_module_opens_a_console() -> None:
    root = Path(__file__).parents[3]
    sources = [path for room in ("jobs", "pipelines", "cluster", "schemas") for path in (root / room).rglob("*.py")]
    own = [path.name for path in sources if re.search(r"\bConsole\(", path.read_text())]
    assert own == ["console.py"]
