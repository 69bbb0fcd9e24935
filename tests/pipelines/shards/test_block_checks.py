"""Checks of samples: ids seen before, inputs, and kept values that do not fit their column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shards.block_checks import BlockChecker, SeenIds
from pipelines.shards.raw_blocks import RawBlock
from schemas.config import InputConfig, LimitsConfig
from schemas.records import Shard

SHARD = Shard("/a.parquet", 1, "1", "parquet")


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=6))
def test_an_id_is_new_once(batches: list[list[str]]) -> None:
    ids, seen = SeenIds(), set[str]()
    for batch in batches:
        expected = []
        for one in batch:
            expected.append(one not in seen)
            seen.add(one)
        assert ids.are_new(pa.array(batch, pa.string())).tolist() == expected


def test_a_sample_whose_kept_value_does_not_fit_is_rejected_and_columns_are_found_by_name() -> None:
    kept = pa.schema([("n", pa.int8()), ("word", pa.string())])
    checker = BlockChecker(SHARD, InputConfig(text="text", keep=("word", "n")), LimitsConfig(), kept)
    values = {"word": pa.array([b"a", b"b\xff", b"c"]), "n": pa.array([1, 2, 300])}
    (block,) = checker.check(RawBlock(pa.array(np.arange(3)), None, pa.array(["x", "y", "z"]), values))
    assert [(row["word"], row["n"]) for row in block.rows.to_pylist()] == [("a", 1)]
    assert [(r.position, r.reason, r.message) for r in block.rejects] == [
        (1, "bad_kept_value", "word = b'b\\xff' is not valid UTF-8"),
        (2, "bad_kept_value", "n = 300 does not fit int8"),
    ]


def test_ids_are_unique_in_the_table_where_the_shard_is_put_before_them() -> None:
    config = InputConfig(text="text", id="key", id_prefix="shard")
    for shard in (SHARD, Shard("/b.parquet", 1, "1", "parquet")):
        checker = BlockChecker(shard, config, LimitsConfig(), pa.schema([]))
        ids = pa.array(["a", None, "a", "b"])
        (block,) = checker.check(RawBlock(pa.array(np.arange(4)), ids, pa.array(["x", "y", "z", "t"]), {}))
        assert block.rows["id"].to_pylist() == [f"{shard.id}-a", f"{shard.id}-b"]
        assert [(r.key, r.reason) for r in block.rejects] == [("", "missing_id"), ("a", "duplicate_id")]


def test_bad_samples_are_rejected_and_the_others_keep_their_order() -> None:
    checker = BlockChecker(SHARD, InputConfig(text="text"), LimitsConfig(max_sample_bytes=9), pa.schema([]))
    texts = ["one", None, "  ", "much too long", "two"]
    raw = RawBlock(pa.array(np.arange(5)), None, pa.array(texts), {})
    (block,) = checker.check(raw)
    assert block.rows["input"].to_pylist() == ["one", "two"]
    assert block.rows["position"].to_pylist() == [0, 4]
    assert [(reject.position, reject.reason) for reject in block.rejects] == [
        (1, "missing_field"),
        (2, "empty_text"),
        (3, "too_large"),
    ]
