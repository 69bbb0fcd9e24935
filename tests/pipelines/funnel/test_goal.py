"""A goal outside its bounds is refused where it is stated, not after a tuning of minutes."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.funnel import Goal
from schemas.errors import ConfigError


@pytest.mark.parametrize(
    "bad",
    [
        {"recall": 0.0},
        {"recall": 1.0},
        {"recall": float("nan")},
        {"k": 0},
        {"objective": "memory"},
        {"queries": 1},
        {"bytes_per_vector": 0},
    ],
    ids=str,
)
def test_a_goal_names_the_value_that_is_out_of_bounds(bad: dict[str, Any]) -> None:
    ((name, value),) = bad.items()
    with pytest.raises(ConfigError, match=rf"^{name}[= ]{value!r}: (pass a |allowed: )"):
        Goal(**bad)


def test_every_target_below_one_has_queries_to_prove_it() -> None:
    for recall in (1e-9, 0.5, 0.999, 1 - 1e-9):
        queries = Goal(recall=recall).held_out_rows(10**9)
        assert 1_000 <= queries <= 16_000
        assert 1 - 3.84 / queries >= min(recall, 0.999)
