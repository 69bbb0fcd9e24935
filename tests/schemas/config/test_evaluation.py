"""An evaluation config names what it compares, and refuses what cannot be measured."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.config import EvaluateConfig, SystemConfig

TABLE: dict[str, Any] = {"name": "a", "database": "t.lance"}
ENCODER: dict[str, Any] = {"name": "e", "encoder": {"name": "m"}}
FIXED: dict[str, Any] = {"name": "f", "database": "t-{dim}.lance", "dims": [8]}


def test_a_table_per_dim_is_addressed_by_it() -> None:
    system = SystemConfig.model_validate(FIXED | {"queries": "q-{dim}.lance"})
    assert system.is_fixed
    assert system.addresses(8) == ("t-8.lance", "q-8.lance")
    assert SystemConfig.model_validate(TABLE).addresses(8) == ("t.lance", None)


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ({"name": "a"}, "give `database`"),
        (TABLE | ENCODER, "give `database`"),
        (ENCODER | {"queries": "q"}, "`queries` goes with `database`"),
        (FIXED | {"dims": []}, "needs `dims`"),
        (FIXED | {"queries": "q.lance"}, "must be in the addresses of both"),
        (TABLE | {"dims": [0]}, "greater than or equal to 1"),
    ],
)
def test_a_system_has_one_origin(system: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SystemConfig.model_validate(system)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"systems": [TABLE, TABLE]}, "two systems are named 'a'"),
        ({"systems": [ENCODER]}, "has an encoder: set data.images or data.beir"),
        ({"data": {"images": "i", "beir": "b"}}, "name `images` or `beir`, not both"),
        ({"data": {"beir": "b"}}, "judgements need a table of queries"),
        ({"robustness": {"kinds": ["jpeg"]}}, "needs data.images"),
        ({"systems": [FIXED], "cascade": {}}, "put one first that can be cut"),
        ({"data": {"beir": "b"}, "systems": [TABLE | {"queries": "q"}], "cascade": {}}, "it needs labels"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EvaluateConfig.model_validate({"folder": "f", "systems": [TABLE]} | change)
