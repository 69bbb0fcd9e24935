"""Order and randomness depend on seed, epoch and step, not on the number of workers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.data import Arrays, Batch, Draws, mask_tokens, mix, shift_and_flip
from pipelines.training.tasks import IGNORED
from tests.support.training_workers import as_worker


def rows_of(batches: list[Batch]) -> list[list[int]]:
    return [batch[0].tolist() for batch in batches]


@given(st.integers(1, 50), st.integers(2, 16), st.integers(0, 5), st.integers(0, 1000))
@settings(max_examples=50)
def test_an_epoch_resumed_at_any_step_gives_what_is_left(rows: int, batch: int, skip: int, seed: int) -> None:
    source = Arrays((torch.arange(rows),), seed=seed)
    whole = rows_of(list(source.batches(2, 0, batch)))
    assert rows_of(list(source.batches(2, min(skip, len(whole)), batch))) == whole[skip:]
    assert len(whole) == source.steps(batch)
    drawn = [row for rows in whole for row in rows]
    assert len(set(drawn)) == len(drawn)


def test_workers_share_each_step_and_its_random_numbers() -> None:
    pixels = torch.randint(0, 256, (24, 6, 6, 1), dtype=torch.uint8)
    source = Arrays((pixels, torch.arange(24)), seed=1, augment=shift_and_flip())
    alone = list(source.batches(0, 0, 8))
    shares = []
    for rank in range(2):
        with as_worker(rank, 2):
            shares.append(list(source.batches(0, 0, 8)))
    for step, whole in enumerate(alone):
        for place in range(2):
            torch.testing.assert_close(torch.cat([share[step][place] for share in shares]), whole[place])


def test_each_epoch_has_an_order_of_its_own_and_what_is_held_out_has_none() -> None:
    source = Arrays((torch.arange(40),), seed=0)
    first, second = (rows_of(list(source.batches(epoch, 0, 40))) for epoch in (0, 1))
    assert sorted(first[0]) == sorted(second[0]) == list(range(40))
    assert first != second
    held_out = Arrays((torch.arange(10),), shuffle=False)
    assert rows_of(list(held_out.batches(0, 0, 4))) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_pictures_move_by_whole_pixels_and_turn() -> None:
    pixels = torch.arange(1, 26, dtype=torch.uint8).view(1, 5, 5, 1).repeat(200, 1, 1, 1)
    moved, labels = shift_and_flip(1)((pixels, torch.arange(200)), Draws(200, slice(None), 0))
    assert moved.dtype == torch.uint8
    assert torch.equal(labels, torch.arange(200))
    padded = torch.nn.functional.pad(pixels[0, :, :, 0], (1, 1, 1, 1))
    crops = {tuple(padded[y : y + 5, x : x + 5].flatten().tolist()) for y in range(3) for x in range(3)}
    crops |= {tuple(torch.tensor(crop).view(5, 5).flip(1).flatten().tolist()) for crop in crops}
    found = {tuple(one.flatten().tolist()) for one in moved}
    assert found <= crops
    assert len(found) == 18


def test_15_percent_of_the_tokens_are_chosen_and_80_percent_of_those_are_masked() -> None:
    ids = torch.randint(5, 100, (400, 50))
    ids[:, 0], ids[:, 40:] = 2, 0
    hidden, mask, targets = mask_tokens(4, 100, 5)((ids, (ids != 0).long()), Draws(400, slice(None), 7))
    asked = targets != IGNORED
    assert not asked[:, 0].any()
    assert not asked[:, 40:].any()
    assert asked[:, 1:40].float().mean() == pytest.approx(0.15, abs=0.01)
    assert torch.equal(targets[asked], ids[asked])
    assert torch.equal(hidden[~asked], ids[~asked])
    assert (hidden[asked] == 4).float().mean() == pytest.approx(0.8, abs=0.03)
    assert (hidden[asked] == ids[asked]).float().mean() == pytest.approx(0.1, abs=0.03)
    assert hidden[asked].min() >= 4
    assert torch.equal(mask, (ids != 0).long())


def test_a_key_s_number_depends_on_all_of_it() -> None:
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (11,), (1, 1)]
    assert len({mix(*key) for key in keys}) == len(keys)
    assert all(0 <= mix(*key) < 2**63 for key in keys)
