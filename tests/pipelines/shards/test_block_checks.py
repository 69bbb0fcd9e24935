"""Checks of samples: ids seen before, types of kept columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shards.block_checks import BlockChecker, SeenIds, to_type
from pipelines.shards.raw_blocks import RawBlock
from schemas.config import InputConfig, LimitsConfig
from schemas.errors import FieldNotFound
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


def test_values_that_do_not_fit_become_null_and_types_that_do_not_fit_are_refused() -> None:
    field = pa.field("n", pa.int8())
    assert to_type(pa.array([1, 300]), field, SHARD).to_pylist() == [1, None]
    with pytest.raises(FieldNotFound, match="keep only fields that have one type"):
        to_type(pa.array([[1]]), pa.field("n", pa.string()), SHARD)


def test_bad_samples_are_rejected_and_the_others_keep_their_order() -> None:
    checker = BlockChecker(SHARD, InputConfig(text="text"), LimitsConfig(max_sample_bytes=9), pa.schema([]))
    texts = ["one", None, "  ", "much too long", "two"]
    raw = RawBlock(pa.array(np.arange(5)), None, pa.array(texts), [])
    (block,) = checker.check(raw)
    assert block.rows["input"].to_pylist() == ["one", "two"]
    assert block.rows["position"].to_pylist() == [0, 4]
    assert [(reject.position, reject.reason) for reject in block.rejects] == [
        (1, "missing_field"),
        (2, "empty_text"),
        (3, "too_large"),
    ]
