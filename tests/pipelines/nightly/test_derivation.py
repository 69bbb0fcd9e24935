"""A generation that is derived from the vectors of another one is what encoding gives; what cannot be, is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.embedding.plan import make_plan
from pipelines.encoders.checkpoints import Layer, save_head
from pipelines.encoders.registry import describe_tower
from pipelines.nightly.derivation import Derivation, derive, find_derivation
from pipelines.tables.ledger import rejects_of
from pipelines.tables.publication_log import generation_uri
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import unit
from schemas.checkpoints import HeadFile
from schemas.config import EmbedConfig, EncoderConfig
from tests.support.embedding import embed_planned

TEXTS = ["red apples", "a blue sea", "", "green hills in spring", "the price of oil", "red apples", "a train at night"]


def config_of(folder: Path, generation: int = 1, **settings: Any) -> EmbedConfig:
    raw = {
        "shards": [str(folder / "src")],
        "table": generation_uri(str(folder / "t.lance"), generation),
        "input": {"id": "id", "text": "text", "keep": ["n"]},
        "encoder": {"name": "wordllama"},
    }
    return EmbedConfig.model_validate(raw | settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    for name in "ab":
        rows = [{"id": f"{name}{n}", "n": n, "text": text} for n, text in enumerate(TEXTS)]
        (tmp_path / "src" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    torch.manual_seed(0)
    tower = describe_tower(EncoderConfig(name="wordllama"))
    layers = [Layer(torch.randn(48, 256), torch.randn(48)), Layer(torch.randn(32, 48))]
    save_head(tmp_path / "head", HeadFile(dims=(8, 32), towers={"text": tower}), {"text": layers})
    return tmp_path


def vectors_by_id(table: VectorTable) -> dict[str, np.ndarray]:
    rows = table.refresh().dataset.to_table(columns=["id", "n", "vector"])
    assert all(name.endswith(str(n)) for name, n in zip(rows["id"].to_pylist(), rows["n"].to_pylist(), strict=True))
    return dict(zip(rows["id"].to_pylist(), unit(to_numpy(rows["vector"]).astype(np.float64)), strict=True))


def rows_of(table: VectorTable, column: str) -> dict[str, object]:
    rows = table.refresh().dataset.to_table(columns=["id", column])
    return dict(zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True))


def rejected(table: VectorTable) -> list[tuple[int, str]]:
    rejects = rejects_of(table.refresh())
    return list(zip(rejects["position"].to_pylist(), rejects["reason"].to_pylist(), strict=True))


def cosines(one: VectorTable, other: VectorTable) -> list[float]:
    ones, others = vectors_by_id(one), vectors_by_id(other)
    assert ones.keys() == others.keys()
    return [float(ones[name] @ others[name]) for name in ones]


def derive_here(folder: Path, config: EmbedConfig, generation: int) -> tuple[int, int, VectorTable]:
    """Derive a generation; return the generation that its vectors are from, the rows, and the table."""
    plan = make_plan(config)
    found, _ = find_derivation(config, str(folder / "t.lance"), generation, plan)
    assert found is not None
    return found.generation, derive(found, config, plan, str), VectorTable.open(config.table)


def test_a_rotation_and_a_head_are_applied_to_stored_vectors(folder: Path) -> None:
    plain, _ = embed_planned(config_of(folder))
    generation, rows, rotated = derive_here(folder, config_of(folder, 2, rotation={"kind": "pca"}), 2)
    assert (generation, rows) == (1, 12)
    assert rotated.rotation is not None
    found, whole = vectors_by_id(rotated), vectors_by_id(plain)
    assert all(whole[name] @ (found[name] @ rotated.rotation.matrix_DD) > 0.99999 for name in whole)
    assert np.var(list(found.values()), axis=0)[:8].sum() > 2 * np.var(list(whole.values()), axis=0)[:8].sum()
    assert rows_of(rotated, "vector_input_hash") == rows_of(plain, "vector_input_hash")

    through_head = {"encoder": {"name": "matryoshka-head", "path": str(folder / "head")}}
    generation, rows, head = derive_here(folder, config_of(folder, 3, **through_head), 3)
    assert (generation, rows) == (2, 12), "of a rotated table too"
    encoded, _ = embed_planned(config_of(folder, 9, **through_head))
    assert head.space == encoded.space
    assert min(cosines(head, encoded)) > 0.99999
    for table in (rotated, head):
        assert rows_of(table, "n") == rows_of(plain, "n")
        assert rejected(table) == rejected(encoded) == 2 * [(2, "empty_text")]
    assert make_plan(config_of(folder, 3, **through_head)).todo == ()

    # A shard that is new is in no generation; of one that came to the newest, an older one takes its vectors back.
    (folder / "src" / "c.jsonl").write_text('{"id": "c0", "n": 0, "text": "new"}')
    new = config_of(folder, 2, rotation={"kind": "pca"})
    assert find_derivation(new, str(folder / "t.lance"), 2, make_plan(new)) == (None, "")
    embed_planned(new)
    generation, rows, back = derive_here(folder, config_of(folder), 1)
    assert (generation, rows) == (2, 1)
    alone, _ = embed_planned(config_of(folder, 8))
    assert min(cosines(back, alone)) > 0.99999


def test_what_cannot_be_derived_is_encoded_and_said(folder: Path) -> None:
    embed_planned(config_of(folder))
    base, through_head = str(folder / "t.lance"), {"encoder": {"name": "matryoshka-head", "path": str(folder / "head")}}

    def asked(**settings: Any) -> tuple[object, str]:
        config = config_of(folder, 2, **settings)
        return find_derivation(config, base, 2, make_plan(config))

    fields = {"id": "id", "text": "text"}
    assert asked(**through_head, input=fields | {"keep": ["n", "text as words"]}) == (
        None,
        "all is encoded, and nothing derived from generation 1: it has no column 'words'",
    )
    _, said = asked(**through_head, input=fields | {"id_prefix": "shard"})
    assert said.endswith("its rows are made from other fields, or cut otherwise")
    assert asked(encoder={"name": "wordllama", "side": "query"})[0] is None, "the encoder is another one"
    assert asked(**through_head, rotation={"kind": "pca"}) == (None, "")
    VectorTable.open(base).dataset.delete("id = 'a1'")
    found, _ = asked(**through_head)
    assert isinstance(found, Derivation)
    assert [count.shard.name[-7:] for count in found.counts] == ["b.jsonl"], "a shard that lost a row is encoded"
