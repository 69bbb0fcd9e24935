"""`mlake rejects` counts and shows what could not be embedded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.__main__ import main
from tests.support.small_tables import a_shard, commit_shards, new_table


def test_rejects_are_counted_by_reason_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rejects=3)
    commit_shards(table, a_shard("b" * 100), rejects=2)
    assert main(["rejects", table.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"5 rejects in {table.uri}"
    assert lines[1].split() == ["5", "empty_text"]
    shown = [line for line in lines if "nothing but white space" in line]
    assert len(shown) == 5
    assert sum("b" * 100 in line for line in shown) == 2  # nothing is cut off where no terminal sets a width


def test_limit_and_reason_select_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rejects=5)
    assert main(["rejects", table.uri, "--limit", "2"]) == 0
    words = capsys.readouterr().out
    assert words.count("nothing but white space") == 2
    assert main(["rejects", table.uri, "--reason", "timeout"]) == 0
    printed = capsys.readouterr()
    assert "5 rejects" in printed.out
    assert "none has the reason 'timeout'; the reasons in this table are: empty_text" in printed.err
    assert "nothing but white space" not in printed.out
    assert main(["rejects", table.uri, "--json", "--limit", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["position"], row["reason"]) for row in rows] == [(5, "empty_text"), (6, "empty_text")]
    assert main(["rejects", table.uri, "--json", "--reason", "timeout"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, "the reasons in this table are: empty_text" in printed.err) == ("", True)


def test_a_table_without_rejects_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rejects", new_table(tmp_path).uri]) == 0
    assert "0 rejects" in capsys.readouterr().out


def test_a_reject_of_json_lines_is_shown_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rejects=1)
    assert main(["rejects", table.uri]) == 0
    place = capsys.readouterr().out.splitlines()[-1]
    assert main(["rejects", table.uri, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert place.startswith(f"{row['uri']} line {row['position'] + 1} ")
