"""`mlake publish`, `rollback`, `prod` and `history`, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.__main__ import main
from pipelines.tables.night_log import NightLock
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.publications import GateResult
from tests.support.small_tables import a_shard, commit_shards, new_table


def test_publish_roll_back_and_read_the_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(tmp_path)
    assert main(["prod", table.uri]) == 2
    assert "nothing is published" in capsys.readouterr().err
    for verb in ("prod", "history"):
        assert main([verb, f"{table.uri}-typo"]) == 2
        assert "did you mean 't.lance'" in capsys.readouterr().err
    for name in "ab":
        commit_shards(table, a_shard(name))
        assert main(["publish", table.uri, "--note", f"with {name}"]) == 0
    first, second = (VectorTable.open(table.uri, f"published-{n}").dataset.version for n in (1, 2))
    capsys.readouterr()
    assert main(["prod", table.uri, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["uri"], found["version"], found["rows"]) == (table.uri, second, 10)
    assert main(["rollback", table.uri]) == 0
    assert VectorTable.open(table.uri, "prod").dataset.version == first
    assert main(["prod", table.uri]) == 0
    assert f"version {first}" in capsys.readouterr().out
    assert main(["prod", table.uri, "--metrics"]) == 0
    age, number, rows = (line.rpartition(" ") for line in capsys.readouterr().out.splitlines())
    assert age[0] == f'lake_prod_age_seconds{{table="{table.uri}"}}'
    assert 0 <= int(age[2]) < 600
    assert (int(number[2]), int(rows[2])) == (3, 5)
    assert main(["history", table.uri]) == 0
    assert "publish: with b" in capsys.readouterr().out
    assert main(["history", table.uri, "--json"]) == 0
    assert [json.loads(line)["action"] for line in capsys.readouterr().out.splitlines()] == [
        "publish",
        "publish",
        "rollback",
    ]
    page = tmp_path / "nights.html"
    assert main(["history", table.uri, "--html", str(page), "--queries", "1"]) == 0
    assert f"written: {page}" in capsys.readouterr().err.replace("\n", "")
    assert "1 question, asked of publication 2" in page.read_text()
    with pytest.raises(SystemExit):
        main(["history", table.uri, "--html", str(page), "--ask", " "])
    assert "Must not be empty" in capsys.readouterr().err


def test_what_an_audit_refused_needs_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    version = table.refresh().dataset.version
    gate = GateResult(gate="recall", passed=False, said="recall fell to 0.5, the bound is 0.9")
    with NightLock(table.uri, StorageConfig()) as lock:
        lock.update(state="refused", version=version, audit=(gate,))
    words = ["publish", table.uri, "--version", str(version)]
    assert main(words) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "recall fell to 0.5, the bound is 0.9" in said
    assert "--force" in said
    assert main([*words, "--force"]) == 0
    reader = VectorTable.open(table.uri, "prod")
    assert reader.publication is not None
    assert reader.publication.is_forced
    assert reader.publication.audit == (gate,)
