"""What a dry run says of a night: rows that take over a vector, and warnings; no night runs for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.embedding import plan as plan_module
from pipelines.encoders import Preparer, load_preparer
from pipelines.nightly.forecast import Forecast, forecast
from pipelines.nightly.plan import plan_night
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.night_log import NightLock
from pipelines.tables.runs import RunRecord
from schemas.config import EncoderConfig, LimitsConfig, StorageConfig
from schemas.config.nightly import NightlyConfig
from schemas.publications import GateResult
from tests.support.corpus import settings, texts, write_shard
from tests.support.embedding import embed_planned


def config_of(folder: Path, **changes: Any) -> NightlyConfig:
    return NightlyConfig.model_validate(settings(folder / "src", folder / "t.lance") | changes)


def forecast_of(config: NightlyConfig) -> Forecast:
    return forecast(config, plan_night(config))


def test_the_rows_that_a_night_reuses_are_foretold(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    for name in "abc":
        write_shard(tmp_path / "src" / f"{name}.jsonl", texts(name, 40, 0))
    first = forecast_of(config)
    assert (first.reused, first.samples, first.warnings) == (0, 120, ())
    table, _ = embed_planned(config.embed_config(config.table))
    publish(table.uri, describe(table, 1), table.storage, PublishRequest())

    # One shard is renamed, one gets ten texts more, one is new and says everything twice.
    (tmp_path / "src" / "a.jsonl").rename(tmp_path / "src" / "d.jsonl")
    write_shard(tmp_path / "src" / "b.jsonl", texts("b", 40, 0) | texts("x", 10, 1))
    twice = texts("e", 20, 2)
    write_shard(tmp_path / "src" / "e.jsonl", twice | {f"again-{key}": text for key, text in twice.items()})
    assert forecast_of(config).seconds is None, "no run is in the journal yet"
    with RunRecord(table, "embed", config) as record:
        record.end("complete", {"rows": 300, "reused": 100, "seconds": 20.0, "start_s": 7.0})
    with RunRecord(table, "embed", config) as record:
        record.end("complete", {"rows": 50, "reused": 50, "seconds": 0.1, "start_s": 7.0})  # it encoded nothing
    plan, seen = plan_night(config), forecast_of(config)
    assert seen.reused is not None
    assert seen.seconds == pytest.approx(7 + (plan.expected_rows - seen.reused) / 10)
    _, result = embed_planned(config.embed_config(config.table))
    assert result.reused == 40 + 40 + 20 + 1  # one of ten texts of a word or more was there by chance
    assert seen.reused == pytest.approx(result.reused, abs=20)
    assert (seen.samples, len(seen.warnings)) == (130, 1)
    assert "1 file of the table are gone, and 2 are new: were they renamed?" in seen.warnings[0]


def test_a_tokeniser_is_loaded_once_and_only_where_there_is_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = list[str]()

    def load(encoder: EncoderConfig, limits: LimitsConfig) -> Preparer:
        loaded.append(encoder.name)
        return load_preparer(encoder, limits)

    monkeypatch.setattr("pipelines.embedding.plan.load_preparer", load)
    config = config_of(tmp_path, chunk={"tokens": 32, "overlap": 4}, limits={"lease_shards": 7})
    for name in "abc":
        write_shard(tmp_path / "src" / f"{name}.jsonl", texts(name, 30, 0))
    forecast_of(config)
    assert loaded == ["wordllama"]
    embed_planned(config.embed_config(config.table))
    plan_module._preparer.cache_clear()
    assert forecast_of(config).samples == 0
    assert loaded == ["wordllama"]


def test_what_would_go_wrong_is_said_before(tmp_path: Path) -> None:
    src, rare = tmp_path / "src", texts("a", 30, 0)
    for name in "abc":
        write_shard(src / f"{name}.jsonl", texts(name, 30, 0))
    config = config_of(tmp_path, budget={"minutes": 5})
    (bound,) = forecast_of(config).warnings
    assert "budget.minutes bounds nothing before the first run" in bound
    embed_planned(config.embed_config(config.table))
    with NightLock(config.table, StorageConfig()) as lock:
        said = " ".join(forecast_of(config).warnings)
        assert "night 1 of" in said
        assert "one that starts meanwhile is refused" in said
        gate = GateResult(gate="rejects", passed=False, measured=0.5, bound=0.01, setting="audit.max_rejects", said="x")
        lock.update(state="refused", audit=(gate,))

    # Two of three files are gone, and the third is full of rejects.
    (src / "b.jsonl").unlink()
    (src / "c.jsonl").unlink()
    write_shard(src / "a.jsonl", rare | dict.fromkeys(["a-x", "a-y"], " "))
    said = "\n".join(forecast_of(config_of(tmp_path, withdraw=True)).warnings)
    assert "night 1 was refused, and what it embedded is audited again: rejects: x; measured 0.5, bound 0.01" in said
    assert "withdraw = true removes the rows of 2 files that are gone, 67% of all: is a disk not there" in said
    assert "2 of 32 samples that were looked at cannot be embedded, and audit.max_rejects is 0.01" in said

    # Another model, or other passages, start a generation; it is said in what they differ.
    other = config_of(tmp_path, chunk={"tokens": 32, "overlap": 4})
    plan = plan_night(other)
    assert (plan.generation, len(plan.new), plan.changed) == (2, 1, ())
    (why, *_) = (each for each in forecast(other, plan).warnings if "generation 2" in each)
    assert "generation 2 is started, and all shards are encoded anew, since the config differs from generation 1" in why
    assert "[chunk] is tokens = 32, overlap = 4, by = 'sentence', and was not there" in why
    rotated = config_of(tmp_path, rotation={"kind": "pca"})
    assert "generation 1, rotation.kind: table 'none', asked 'pca'" in plan_night(rotated).differing
