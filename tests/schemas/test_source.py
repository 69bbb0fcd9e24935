"""A table remembers what its rows are made from; what a table of the first release has no word for is not written."""

from __future__ import annotations

import json

import pyarrow as pa

from schemas.source import SOURCE_KEY, TableSource, source_of


def test_a_setting_that_is_not_used_leaves_the_record_as_it_was() -> None:
    plain = TableSource(id="url", modality="text", field="body", side="document")
    assert "chunk" not in json.loads(plain.to_json())
    cut = plain.model_copy(update={"chunk": "tokens = 64"})
    for source in (plain, cut):
        schema = pa.schema([pa.field("id", pa.string())], metadata={SOURCE_KEY: source.to_json()})
        assert source_of(schema, "t.lance") == source
    assert source_of(pa.schema([]), "t.lance") is None


def test_samples_have_equal_names_only_where_the_settings_are_equal() -> None:
    sources = [
        TableSource(id=field, id_prefix=prefix, modality="text", field="body", side="document")
        for field in ("url", "key", None)
        for prefix in ("none", "shard")
    ]
    assert len({source.named_by for source in sources}) == len(sources)
    other = sources[0].model_copy(update={"field": "title", "side": "query", "chunk": "tokens = 64"})
    assert other.named_by == sources[0].named_by == 'input.id = "url" and input.id_prefix = "none"'
