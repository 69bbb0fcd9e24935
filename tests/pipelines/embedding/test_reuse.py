"""Equal content is encoded once: in a table, in a run, and in a changed or renamed shard; its vectors are as stored."""

from __future__ import annotations

import datetime as dt
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.embedding.column_plan import source_of
from pipelines.embedding.embedder import WindowEncoder
from pipelines.embedding.feeder import Window
from pipelines.embedding.plan import make_plan
from pipelines.embedding.reuse import StoredVectors, stored_vectors
from pipelines.encoders import make_space
from pipelines.tables.create import create_table
from pipelines.tables.maintenance import expire_table
from pipelines.tables.rotations import save_rotation
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import Moments
from schemas.columns import INPUT_HASH, input_hash_field
from schemas.config import EmbedConfig
from tests.support.corpus import config_for, contents, differing, settings, texts, truth, write_shard
from tests.support.embedding import embed_planned


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many inputs the encoder was given by each window."""
    counts: list[int] = []
    encode = WindowEncoder.encode

    def counting(self: WindowEncoder, window: Window, chosen: Any = None) -> Any:
        counts.append(sum(map(len, window.costs)) if chosen is None else len(chosen))
        return encode(self, window, chosen)

    monkeypatch.setattr(WindowEncoder, "encode", counting)
    return counts


def test_only_new_content_is_encoded(tmp_path: Path, encoded: list[int]) -> None:
    src, first = tmp_path / "src", texts("a", 30, 0)
    uri = write_shard(src / "a.jsonl", first)
    copies = {f"b-{n}": text for n, text in enumerate([*first.values()][:10] * 2)}
    config = config_for(src, tmp_path / "t.lance")
    table, result = embed_planned(config)
    assert (sum(encoded), result.reused) == (30, 0)
    assert table.kept.names == ["n"]
    assert table.dataset.count_rows(f"{INPUT_HASH} IS NULL") == 0

    # A changed shard keeps what it had, in any order; copies in another shard are encoded neither; bad ones are bad.
    encoded.clear()
    changed = dict(reversed(first.items())) | {"a-3": "something else", "a-new": "quite new", "a-bad": "  "}
    write_shard(src / "a.jsonl", changed)
    other = write_shard(src / "b.jsonl", copies | {"b-new": "quite new", "b-worse": " "})
    table, result = embed_planned(config)
    assert (sum(encoded), result.reused) == (2, 29 + 20 + 1)
    good = {uri: {k: v for k, v in changed.items() if v.strip()}, other: copies | {"b-new": "quite new"}}
    assert differing(contents(table.uri), truth(good)) == []
    assert sorted(reject.key for reject in result.rejects) == ["a-bad", "b-worse"]
    assert result.units < 20

    # A renamed shard gives the same vectors, and none is encoded.
    encoded.clear()
    Path(other).rename(src / "c.jsonl")
    table, result = embed_planned(config)
    assert (sum(encoded), result.reused) == (0, 21)


def test_rotated_vectors_are_taken_over_as_they_are(tmp_path: Path, encoded: list[int]) -> None:
    src, some = tmp_path / "src", texts("a", 30, 0)
    write_shard(src / "a.jsonl", some)
    config = config_for(src, tmp_path / "t.lance", rotation={"kind": "pca"})
    space = make_space(config.encoder)
    rotation = Moments.of([np.random.default_rng(0).standard_normal((500, 256)).astype(np.float16)]).rotation()
    save_rotation(rotation, config.table, config.storage)
    space = space.model_copy(update={"rotation": rotation.fingerprint, "ladder": rotation.ladder})
    kept = pa.schema([pa.field("n", pa.string()), input_hash_field()])
    create_table(config.table, space, kept, source=source_of(config))
    before = vectors_by_id(embed_planned(config)[0])
    write_shard(src / "b.jsonl", {f"b-{n}": text for n, text in enumerate(some.values())})
    table, result = embed_planned(config)
    after = vectors_by_id(table)
    assert (result.reused, sum(encoded)) == (30, 30)
    assert [after[f"b-{n}"] for n in range(30)] == [before[f"a-{n}"] for n in range(30)]


def vectors_by_id(table: VectorTable) -> dict[str, list[float]]:
    rows = table.dataset.to_table(columns=["id", "vector"])
    return dict(zip(rows["id"].to_pylist(), rows["vector"].to_pylist(), strict=True))


def test_tables_without_hashes_go_on_without_and_say_so(tmp_path: Path, encoded: list[int]) -> None:
    src = tmp_path / "src"
    write_shard(src / "a.jsonl", texts("a", 5, 0))
    plain = EmbedConfig.model_validate(settings(src, tmp_path / "t.lance", reuse={"hashes": "off"}))
    table, _ = embed_planned(plain)
    assert INPUT_HASH not in table.columns
    write_shard(src / "b.jsonl", texts("a", 5, 0))
    config = config_for(src, tmp_path / "t.lance")
    (note,) = make_plan(config).columns.notes
    assert "no content hashes" in note
    table, result = embed_planned(config)
    assert (INPUT_HASH in table.columns, result.reused, sum(encoded)) == (False, 0, 10)

    # Added by choice: rows from then on have them.
    write_shard(src / "c.jsonl", texts("a", 5, 0))
    adding = EmbedConfig.model_validate(settings(src, tmp_path / "t.lance", reuse={"hashes": "add"}))
    table, result = embed_planned(adding)
    assert (table.dataset.count_rows(f"{INPUT_HASH} IS NULL"), result.reused) == (10, 0)
    write_shard(src / "d.jsonl", texts("a", 5, 0))
    table, result = embed_planned(config)
    assert result.reused == 5
    # Switched off, the column stays, and is empty in new rows.
    write_shard(src / "e.jsonl", texts("a", 5, 0))
    table, result = embed_planned(plain)
    assert (table.dataset.count_rows(f"{INPUT_HASH} IS NULL"), result.reused) == (15, 0)


def test_memory_is_bounded_and_a_version_may_go(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_shard(src / "a.jsonl", texts("a", 20, 0))
    config = config_for(src, tmp_path / "t.lance")
    table, _ = embed_planned(config)
    small = EmbedConfig.model_validate(settings(src, table.uri, reuse={"memory_bytes": 8 * 43}))
    write_shard(src / "b.jsonl", texts("b", 1, 0))
    assert "only 8 of 20 rows are looked at" in make_plan(small).columns.notes[0]
    inputs = [*texts("a", 20, 0).values()]
    stored = stored_vectors(table, small)
    assert stored is not None
    found = pickle.loads(pickle.dumps(stored)).find(inputs)
    assert found.is_known_N.sum() == 8
    assert found.vectors_KD.shape == (8, 256)
    # Another side or prompt is another content; a version that is gone knows nothing.
    other = StoredVectors(table.uri, table.dataset.version, config.storage, "text\0query\0", 100)
    assert not other.find(inputs).is_known_N.any()
    embed_planned(config)
    expire_table(table, dt.timedelta(0))
    gone = stored_vectors(table, config)
    assert gone is not None
    assert not gone.find([b"an image"]).is_known_N.any()
