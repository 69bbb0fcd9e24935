"""A shortlist config makes prefix columns by default, and lists only if asked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.config import ListsConfig, ShortlistConfig


def test_only_the_table_must_be_named() -> None:
    config = ShortlistConfig(table="t.lance")
    assert (config.dims, config.lists, config.index.type) == (None, None, "auto")


@pytest.mark.parametrize("change", [{"k": 0}, {"k": 10_001}, {"memory_bytes": 0}])
def test_a_setting_out_of_its_range_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        ListsConfig.model_validate(change)
