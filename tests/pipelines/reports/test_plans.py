"""`--dry-run` says what a run would do, refuses what the run would refuse, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.__main__ import main
from pipelines.tables.prefixes import add_prefixes
from pipelines.tables.table import VectorTable
from tests.support.small_tables import off_axis_table, vectors


def test_dry_runs_change_nothing(
    make_table: Callable[..., VectorTable],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # so that no path is broken over lines

    def shown(code: int, *words: str) -> str:
        assert main([*words, "--dry-run"]) == code, capsys.readouterr()
        both = capsys.readouterr()
        return " ".join((both.out + both.err).split())

    plain, trained = off_axis_table(tmp_path / "plain"), add_prefixes(make_table(vectors(100, 0)), [8])
    files = set(tmp_path.rglob("*"))
    assert "24; afterwards 8, 16, 24" in shown(0, "rotate", plain.uri)
    assert "--even-if-trained" in shown(2, "rotate", trained.uri)
    said = shown(0, "rotate", trained.uri, "--even-if-trained")
    assert "prefix columns 8: dropped" in said
    assert "100 in 1 fragment" in said

    assert "20 rows held out stages chosen from 8, 16, 32 dims" in shown(0, "funnel", trained.uri, "--recall", "0.7")
    assert "wait until the table has 230 rows" in shown(2, "funnel", trained.uri, "--recall", "0.9")
    assert "chosen from 8 dims" in shown(0, "funnel", trained.uri, "--home", "lake", "--recall", "0.7")
    assert "no prefix column" in shown(2, "funnel", plain.uri, "--home", "lake")
    said = shown(0, "funnel", trained.uri, "--stages", "8:int8:50,32:5")
    assert "none, at k=5" in said
    assert "8 dims int8 keep 50 → 32 dims float16 keep 5" in said
    assert "not in the ladder" in shown(2, "funnel", trained.uri, "--stages", "9:int8:50,32:5")
    assert "needs at least 505" in shown(2, "funnel", trained.uri, "--k", "100")

    config = tmp_path.parent / f"{tmp_path.name}.toml"
    system = f'folder = "{tmp_path}/out"\n[data]\nlabel = "shard"\n[[systems]]\nname = "s"\n'
    config.write_text(f'{system}database = "{trained.uri}"\n')
    said = shown(0, "evaluate", str(config))
    assert f"s {trained.uri} 100 8, 16, 32" in said
    config.write_text(f'{system}database = "{tmp_path}/none.lance"\n')
    assert "no table at" in shown(2, "evaluate", str(config))
    assert set(tmp_path.rglob("*")) == files
