"""`mlake embed` from its config to its table: complete, exact, repeatable; bad samples are rejected by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pytest

from jobs.__main__ import main
from pipelines.embedding.plan import expected_rows, make_plan
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig
from tests.support.corpus import config_for, contents, differing, settings, texts, truth, write_config, write_shard
from tests.support.embedded_lakes import Lake, embed, make_lake, runs_of
from tests.support.printed import Printed
from tests.support.without_ray import in_process


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Lake:
    """A lake whose table is complete; tests that change it take a copy."""
    lake = make_lake(tmp_path_factory.mktemp("lake"))
    assert embed(lake[2]) == 0
    return lake


def table_copy(embedded: Lake, folder: Path) -> Path:
    """Copy the table of a lake, and return a config for the copy."""
    for table in embedded[0].glob("*.lance"):
        shutil.copytree(table, folder / table.name)
    return write_config(folder / "config.toml", settings(embedded[0] / "src", folder / "t.lance"))


def version_of(folder: Path) -> int:
    return int(lance.dataset(str(folder / "t.lance")).version)


def landed_at(folder: Path) -> dict[str, Any]:
    rows = lance.dataset(str(folder / "t.shards.lance")).to_table().to_pylist()
    return {row["uri"]: row["landed_at"] for row in rows}


# --- complete ---------------------------------------------------------------------------------------------------------


def test_every_sample_of_every_shard_is_there_with_its_vector(embedded: Lake) -> None:
    folder, corpus, _ = embedded
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []
    found = lancedb.connect(folder).open_table("t").search(np.ones(256, np.float32)).metric("cosine").limit(3).to_list()
    assert len(found) == 3


def test_the_summary_and_the_config_are_stored_with_the_run(embedded: Lake) -> None:
    folder = embedded[0]
    run = runs_of(folder)[0]
    assert (run["job"], run["state"]) == ("embed", "complete")
    assert EmbedConfig.model_validate_json(run["config"]).table == str(folder / "t.lance")
    summary = json.loads(run["summary"])
    assert (summary["shards"], summary["shards_todo"], summary["rows"], summary["rejects"]) == (3, 3, 60, 0)
    assert summary["bound_by"] in ("read", "prepare", "encode", "write")
    assert summary["seconds"] > 0 < summary["start_s"]
    assert summary["actor_s"] >= summary["busy_s"] + summary["idle_s"] > 0 < summary["plan_s"]
    assert (summary["leases"], summary["actors"]) == (3, 1)
    assert (
        summary["advice"] == [] or sum(summary[part] for part in ("plan_s", "start_s", "seconds")) >= 60
    )  # so short a run is not worth tuning


def test_a_second_run_has_nothing_to_do(embedded: Lake, printed: Printed) -> None:
    folder, _, config = embedded
    version = version_of(folder)
    assert embed(config) == 0
    assert "nothing to do" in printed()
    assert "holds all 3 shards" in (embed(config), printed())[1]
    assert version_of(folder) == version


def test_only_new_and_replaced_shards_are_embedded(tmp_path: Path, without_ray: None, printed: Printed) -> None:
    folder, corpus, config = make_lake(tmp_path)
    assert embed(config, "--set", "limits.max_reject_fraction=1") == 0
    names = list(corpus)
    corpus[names[0]] = texts("s000", 12, seed=99)
    corpus[str(folder / "src" / "s900.jsonl")] = texts("s900", 5, 0)
    for uri in (names[0], str(folder / "src" / "s900.jsonl")):
        write_shard(Path(uri), corpus[uri])
    blank = write_shard(folder / "src" / "s901.jsonl", {"x-0": " ", "x-1": ""})
    printed()
    assert embed(config, "--set", "limits.max_reject_fraction=1") == 0
    assert "17 rows from 3 shards" in (line := printed())
    assert "2 rejects, 2 shards there before" in line
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []
    assert embed(config) == 0  # the shard without rows is done as well
    assert "nothing to do" in printed()
    version = version_of(folder)
    Path(blank).unlink()
    assert embed(config) == 0
    assert version_of(folder) == version


def test_leases_of_several_shards_are_one_commit_and_counted_in_json_lines(
    tmp_path: Path, without_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"lease_bytes": 1 << 20, "commit_shards": 4, "commit_age_s": 600.0}
    folder, corpus, config = make_lake(tmp_path, shards=9, rows=7, limits=limits)
    assert embed(config, "--log", "json") == 0
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []
    assert json.loads(runs_of(folder)[0]["summary"])["commits"] == 1
    out, err = capsys.readouterr()
    last = json.loads(out.splitlines()[-1])
    assert (last["job"], last["shards"], last["shards_total"], last["landed"], last["failed"]) == ("embed", 9, 9, 9, 0)
    assert last["tokens_per_s"] > 0
    assert last["run"] == runs_of(folder)[0]["run"]
    assert "63 rows from 9 shards" in " ".join(err.split())


def test_feeders_give_the_same_rows_and_a_rotation_is_fitted_once_and_kept(tmp_path: Path, local_ray: None) -> None:
    cluster = {"actors": 1, "cpus_per_actor": 0.5, "decode_threads": 1, "feeders": 1}
    rotation = {"kind": "pca", "sample_rows": 300}
    folder, corpus, config = make_lake(tmp_path, rows=120, cluster=cluster, rotation=rotation)
    assert embed(config) == 0
    table = VectorTable.open(str(folder / "t.lance"))
    assert table.rotation is not None
    assert table.space.rotation == table.rotation.fingerprint
    raw = {key: np.frombuffer(row[2], np.float16).astype(np.float32) for key, row in truth(corpus).items()}
    rows = table.dataset.to_table()
    wanted = table.rotation.apply(np.stack([raw[key] for key in rows["id"].to_pylist()]))
    assert np.array(rows["vector"].to_pylist(), np.float32) == pytest.approx(wanted, abs=2e-3)
    write_shard(folder / "src" / "s900.jsonl", texts("s900", 5, 0))
    with in_process():
        assert embed(config) == 0
    assert table.refresh().dataset.count_rows() == 365
    text = corpus[str(folder / "src" / "s001.jsonl")]["s001-7"]
    assert table.refresh().search(text, k=1)["id"].to_pylist() == ["s001-7"]


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, printed: Printed) -> None:
    folder, corpus, config = make_lake(tmp_path)
    before = sorted(folder.rglob("*"))
    assert embed(config, "--dry-run") == 0
    words = printed()
    assert "3 to do, 0 in the table" in words
    assert 40 <= int(re.findall(r"about (\d+) samples", words)[0]) <= 90
    assert "64, 128, 256" in words
    assert make_plan(config_for(folder / "src", folder / "t.lance")).space.fingerprint in words
    assert f"{sum(Path(uri).stat().st_size for uri in corpus):,} bytes" in words
    assert sorted(folder.rglob("*")) == before


def test_a_dry_run_counts_what_the_table_holds(embedded: Lake, tmp_path: Path, printed: Printed) -> None:
    config = table_copy(embedded, tmp_path)
    assert embed(config, "--dry-run") == 0
    assert "0 to do, 3 in the table" in printed()
    assert expected_rows([], config_for(embedded[0], tmp_path)) == 0


# --- bad samples ------------------------------------------------------------------------------------------------------


def test_bad_samples_are_rejected_shown_and_tried_again(tmp_path: Path, without_ray: None, printed: Printed) -> None:
    limits = {"lease_bytes": 1, "max_sample_bytes": 800, "max_reject_fraction": 0.5}
    folder, corpus, config = make_lake(tmp_path, rows=30, limits=limits)
    long = {"long-0": "river " * 200, "long-1": "stone " * 200}
    uri = write_shard(folder / "src" / "s500.jsonl", {**long, "blank-0": " ", "fine-0": "glass"})
    assert embed(config) == 0
    corpus[uri] = {"fine-0": "glass"}
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []
    printed()
    assert main(["rejects", str(folder / "t.lance")]) == 0
    words = printed()
    assert "3 rejects" in words
    assert "2 too_large" in words
    assert "1 empty_text" in words
    assert f"{uri} line 2: too_large" in words
    assert main(["rejects", str(folder / "t.lance"), "--reason", "empty_text"]) == 0
    assert "blank-0" in (words := printed())
    assert "line 2" not in words

    others = {key: row for key, row in contents(folder / "t.lance").items() if row[0] != uri}
    before = landed_at(folder)
    assert embed(config, "--retry-rejects", "--set", "limits.max_sample_bytes=4000") == 0
    corpus[uri] |= long
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []
    assert others.items() <= contents(folder / "t.lance").items()
    assert {name for name, at in landed_at(folder).items() if at != before[name]} == {uri}
    printed()
    assert main(["rejects", str(folder / "t.lance")]) == 0
    assert "1 reject in" in printed()


def test_a_run_with_too_many_rejects_stops(tmp_path: Path, without_ray: None, printed: Printed) -> None:
    folder, _, config = make_lake(tmp_path, shards=1, rows=30)
    write_shard(folder / "src" / "s500.jsonl", {f"x-{i}": " " for i in range(30)})
    limits = ("--set", "limits.lease_bytes=1000000")
    assert embed(config, *limits) == 1
    words = printed()
    assert "30 of 60 samples were rejected, more than limits.max_reject_fraction = 0.05" in words
    assert "30 x empty_text" in words
    assert contents(folder / "t.lance") == {}
    (run,) = runs_of(folder)
    assert run["state"] == "incomplete"
    assert "were rejected" in json.loads(run["summary"])["error"]


# --- tables and dims that do not fit ----------------------------------------------------------------------------------


def test_a_table_of_another_space_is_refused_and_stays_as_it_is(
    embedded: Lake, tmp_path: Path, printed: Printed
) -> None:
    config = table_copy(embedded, tmp_path)
    shutil.copytree(embedded[0] / "src", tmp_path / "src")
    printed()
    assert embed(config, "--set", "rotation.kind=pca", "--set", f"shards={tmp_path}/src/*.jsonl") == 2
    words = printed()
    assert "were not rotated" in words
    assert "mlake rotate" in words
    assert embed(config, "--set", "encoder.dtype=bfloat16") == 2
    assert "bfloat16" in printed()
    assert contents(tmp_path / "t.lance") == contents(embedded[0] / "t.lance")


def test_a_dim_outside_the_ladder_is_refused(embedded: Lake, printed: Printed) -> None:
    table = str(embedded[0] / "t.lance")
    printed()
    assert main(["search", table, "river", "--dims", "96"]) == 2
    assert "dim 96 is not in the ladder" in printed()
    assert main(["search", table, "river", "--dims", "64", "--k", "3"]) == 0
    assert main(["search", str(embedded[0] / "none.lance"), "river"]) == 2
    assert "makes one" in printed()
