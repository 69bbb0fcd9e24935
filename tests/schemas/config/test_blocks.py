"""Blocks are frozen, refuse unknown keys, and say what an input may be."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.config import ClusterConfig, InputConfig, LimitsConfig
from schemas.errors import ConfigError


@pytest.mark.parametrize("field", ["text", "image", "vector"])
def test_the_named_field_says_the_modality(field: str) -> None:
    assert InputConfig.model_validate({field: "x"}).modality == field


@pytest.mark.parametrize("fields", [{}, {"text": "a", "image": "b"}, {"text": "a", "image": "b", "vector": "c"}])
def test_an_input_is_exactly_one_field(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="name exactly one of"):
        InputConfig.model_validate(fields)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *((name, "the table has a column") for name in ("id", "shard", "position", "input")),
        *((name, "for vectors") for name in ("vector", "vector_64")),
        *((name, "a search adds") for name in ("score", "query", "_distance")),
        *((name, "Lance reserves") for name in ("_rowid", "_rowaddr", "_rowoffset", "*")),
        *((name, "dot or a backtick") for name in ("a.b", ".", "a`b")),
        *((name, "cannot be printed") for name in ("a\nb", "a\x1b[1m")),
        (" ", "is empty"),
    ],
)
def test_a_column_name_that_a_table_or_a_search_cannot_take_is_refused_and_may_be_renamed(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f'(?s){why}.*keep = ."(.+ as )?.+ as NAME"'):
        InputConfig(text="txt", keep=("label", name))
    with pytest.raises(ConfigError, match=why):
        InputConfig(text="txt", keep=(f"x as {name}",))
    assert InputConfig(text="txt", keep=("label", f"{name} as b")).columns == {"label": "label", "b": name}


def test_a_name_that_is_kept_twice_is_refused() -> None:
    for keep in (("a", "a"), ("a", "b as a"), ("a as b as c", "x as c")):
        with pytest.raises(ConfigError, match="two columns"):
            InputConfig(text="txt", keep=keep)
    assert InputConfig(text="txt", keep=("a as b as c", "a")).columns == {"c": "a as b", "a": "a"}


def test_blocks_do_not_change_and_know_their_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LimitsConfig().max_tries = 5  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        ClusterConfig.model_validate({"nodes": 2})


@pytest.mark.parametrize("entry", ["x as a", "x as  a", "x  as a ", " x as a"])
def test_spaces_around_a_renamed_column_are_none_of_its_name(entry: str) -> None:
    assert InputConfig(text="t", keep=(entry,)).columns == {"a": "x"}
