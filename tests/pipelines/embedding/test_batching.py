"""Batches: complete, within budget, little padding; a bad input costs only itself; memory is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.embedding.batching import BatchBudget, encode_safely, plan_batches
from pipelines.encoders.protocol import Prepared
from schemas.config import EncoderConfig
from schemas.errors import EncoderError


class Doubler:
    """Encodes token list x to a 2-d unit row by its first token; fails as told."""

    def __init__(self, fails_on: int = -1, fits: int = 10**9, gives: dict[int, float] | None = None) -> None:
        self.fails_on, self.fits, self.gives = fails_on, fits, gives or {}
        self.sizes: list[int] = []

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        self.sizes.append(len(prepared))
        if max(map(len, prepared)) * len(prepared) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        first = np.array([p[0] for p in prepared], np.float32)
        if self.fails_on in first:
            raise ValueError("bad token")
        rows = np.stack([np.cos(first), np.sin(first)], axis=1)
        for token, value in self.gives.items():
            rows[first == token] = value
        return rows


def tokens(*firsts: int, length: int = 4) -> list[Prepared]:
    return [np.full(length, first, np.int32) for first in firsts]


def padding_waste(lengths: Sequence[int] | npt.NDArray[np.int64], batches: Sequence[npt.NDArray[np.int64]]) -> float:
    """Return the share of padded units that is padding, over all batches."""
    cost_N = np.asarray(lengths, np.int64)
    padded = sum(int(cost_N[batch].max()) * len(batch) for batch in batches)
    return 1 - int(cost_N.sum()) / padded if padded else 0.0


def budget(units: int = 64) -> BatchBudget:
    return BatchBudget(units=units, rows=64, ceiling=units)


@given(
    st.lists(st.integers(1, 600), max_size=300),
    st.integers(1, 4096),
    st.integers(1, 64),
)
def test_every_input_is_in_exactly_one_batch_and_every_batch_is_within_bounds(
    lengths: list[int], budget_units: int, max_rows: int
) -> None:
    batches = plan_batches(lengths, budget_units, max_rows)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        cost = np.asarray(lengths)[batch]
        padded = cost.max() * len(batch)
        assert len(batch) <= max_rows
        assert padded <= budget_units or len(batch) == 1
        full_batch = min(budget_units, max_rows * np.mean(lengths))
        assert padded - cost.sum() <= max(0.02 * padded, full_batch / 32) + 1e-9


@pytest.mark.parametrize("spread", [0.4, 0.7, 1.0, 1.4])
def test_padding_waste_of_a_long_tailed_window_is_at_most_3_percent(spread: float) -> None:
    lengths = np.clip(np.random.default_rng(1).lognormal(4, spread, 200_000).astype(np.int64), 3, 512)
    plan = budget(4096)
    window = lengths[: np.searchsorted(np.cumsum(lengths), plan.window_units)]
    batches = plan_batches(window, plan.units, 4096)
    assert padding_waste(window, batches) <= 0.03
    assert len(batches) <= 1.3 * window.sum() / plan.units


def test_batches_of_a_given_number_of_rows_waste_as_little() -> None:
    lengths = np.clip(np.random.default_rng(1).lognormal(4, 1, 4_000).astype(np.int64), 3, 512)
    batches = plan_batches(lengths, 32 * 8192, 32)
    assert padding_waste(lengths, batches) <= 0.03
    assert max(map(len, batches)) == 32


def test_images_are_batched_by_count() -> None:
    assert [len(batch) for batch in plan_batches([1] * 10, 4, 64)] == [4, 4, 2]


def test_a_failing_batch_is_bisected_down_to_the_bad_input() -> None:
    encoder = Doubler(fails_on=5)
    encoded = encode_safely(encoder, tokens(*range(16)), [4] * 16, budget())
    assert list(encoded.good) == [i for i in range(16) if i != 5]
    assert encoded.bad.keys() == {5}
    assert (encoded.bad[5].reason, str(encoded.bad[5])) == ("encode_failed", "ValueError: bad token")
    np.testing.assert_allclose(encoded.vectors_BD[:, 0], np.cos(encoded.good), atol=1e-6)


def test_a_batch_that_does_not_fit_is_halved_and_the_budget_remembers() -> None:
    encoder, plan = Doubler(fits=20), budget(64)
    encoded = encode_safely(encoder, tokens(*range(1, 17)), [4] * 16, plan)
    assert not encoded.bad
    assert len(encoded.vectors_BD) == 16
    assert encoder.sizes == [16, 8, 4, 4, 8, 4, 4]
    assert plan.units == plan.ceiling == 16


def test_an_input_that_does_not_fit_alone_is_bad() -> None:
    encoded = encode_safely(Doubler(fits=10), [*tokens(1), *tokens(2, length=20)], [4, 20], budget())
    assert encoded.bad[1].reason == "out_of_memory"
    assert list(encoded.good) == [0]


def test_rows_that_are_not_finite_or_all_zeros_are_bad() -> None:
    encoder = Doubler(gives={3: np.nan, 4: 0.0, 5: np.inf})
    encoded = encode_safely(encoder, tokens(1, 3, 4, 5), [4] * 4, budget())
    assert {row: bad.reason for row, bad in encoded.bad.items()} == {1: "not_finite", 2: "zero_vector", 3: "not_finite"}
    assert list(encoded.good) == [0]


def test_a_batch_of_only_bad_inputs_and_an_empty_batch_give_no_vectors() -> None:
    assert encode_safely(Doubler(fails_on=7), tokens(7, 7), [4, 4], budget()).vectors_BD.shape[0] == 0
    assert encode_safely(Doubler(), [], [], budget()).vectors_BD.shape[0] == 0


def test_an_encoder_that_cannot_work_is_not_blamed_on_its_inputs() -> None:
    class Unusable:
        def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
            raise EncoderError("no weights")

    with pytest.raises(EncoderError):
        encode_safely(Unusable(), tokens(1, 2), [4, 4], budget())


def test_auto_grows_while_it_pays_and_stops_where_it_does_not() -> None:
    plan = BatchBudget(units=100, rows=64, ceiling=1_600)
    for rate in (10, 20, 20.1):
        for _ in range(3):
            plan.on_success(plan.units, plan.units / rate)
    assert plan.units == plan.ceiling == 400
    plan.on_success(400, 1e-3)
    assert plan.units == 400


def test_auto_learns_nothing_from_batches_that_are_half_empty() -> None:
    plan = BatchBudget(units=100, rows=64, ceiling=1_600)
    for _ in range(9):
        plan.on_success(40, 1e-3)
    assert plan.units == 100


def test_a_number_for_batch_is_rows_and_is_kept(tmp_path: Path) -> None:
    plan = BatchBudget.of(EncoderConfig(name="wordllama", batch=8))
    assert (plan.rows, plan.units) == (8, 8 * 1024)
    assert plan.ceiling == plan.units
    server = tmp_path / "server.json"
    server.write_text('{"api": "openai", "url": "http://localhost:1/v1/embeddings", "model": "m", "dims": [8]}')
    plan = BatchBudget.of(
        EncoderConfig(name="served", path=str(server), batch=8)
    )  # does not say how long a text may be
    assert [len(batch) for batch in plan.plan(np.full(24, 100, np.int64))] == [8, 8, 8]


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200), st.integers(1, 20))
def test_what_needs_no_padding_is_batched_as_it_comes(lengths: list[int], units: int, rows: int) -> None:
    batches = BatchBudget(units=units, rows=rows, ceiling=units, pads=False).plan(np.array(lengths, np.int64))
    assert [int(place) for batch in batches for place in batch] == list(range(len(lengths)))
    assert all(0 < len(batch) <= rows for batch in batches)
    # Only the last text of a batch may reach past the budget.
    assert all(sum(lengths[place] for place in batch[:-1]) < units for batch in batches)
