"""Blocks are frozen, refuse unknown keys, and say what an input may be."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.config import ClusterConfig, InputConfig, LimitsConfig


@pytest.mark.parametrize("field", ["text", "image", "vector"])
def test_the_named_field_says_the_modality(field: str) -> None:
    assert InputConfig.model_validate({field: "x"}).modality == field


@pytest.mark.parametrize("fields", [{}, {"text": "a", "image": "b"}, {"text": "a", "image": "b", "vector": "c"}])
def test_an_input_is_exactly_one_field(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="name exactly one of"):
        InputConfig.model_validate(fields)


@pytest.mark.parametrize("name", ["id", "shard", "position", "input", "vector", "vector_64"])
def test_the_table_s_own_columns_cannot_be_kept(name: str) -> None:
    with pytest.raises(ValidationError, match="the table has those already"):
        InputConfig(text="txt", keep=("label", name))


def test_blocks_do_not_change_and_know_their_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LimitsConfig().max_tries = 5  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        ClusterConfig.model_validate({"nodes": 2})
