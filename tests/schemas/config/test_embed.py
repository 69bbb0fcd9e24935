"""One pattern of shards stands for a list of one."""

from __future__ import annotations

import pytest

from schemas.config import EmbedConfig


@pytest.mark.parametrize(("shards", "expected"), [("x/*.tar", ("x/*.tar",)), (["a", "b"], ("a", "b"))])
def test_shards_are_one_pattern_or_many(shards: object, expected: tuple[str, ...]) -> None:
    config = {"shards": shards, "table": "t.lance", "input": {"text": "txt"}, "encoder": {"name": "m"}}
    assert EmbedConfig.model_validate(config).shards == expected
