"""Systems and baselines: prefixes and rotations are what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.by_dim import measure
from pipelines.evaluation.metrics import Labels
from pipelines.evaluation.systems import Baseline, between, fixed, make_baseline, nested
from pipelines.vectors.matryoshka import cut
from pipelines.vectors.rotation import fit_pca

WIDTH = 16


def test_a_nested_system_cuts_and_dims_between_rungs_are_half_way(sides: tuple[np.ndarray, np.ndarray]) -> None:
    system = nested("x", sides, (8, 4, *between((4, 8, 16))), made_for=(4, 8, 16))
    assert system.dims == (4, 6, 8, 12)
    assert system.made_for == {4, 8, 16}
    np.testing.assert_array_equal(system.at(6)[1], cut(sides[1], 6))
    assert between((1, 2, 4)) == (3,)


def test_the_pca_baseline_is_the_rotation_fitted_on_the_database(sides: tuple[np.ndarray, np.ndarray]) -> None:
    turned = fit_pca([sides[0]])
    baseline = make_baseline("pca", "x", sides, (4, 16))
    for side, x in zip(baseline.at(4), sides, strict=True):
        np.testing.assert_allclose(side, cut(turned.apply(x), 4), atol=1e-6)


@pytest.mark.parametrize("kind", ["truncation", "pca", "random-columns", "random-projection"])
def test_at_full_width_every_baseline_tells_the_same(
    kind: Baseline, sides: tuple[np.ndarray, np.ndarray], truth: Labels
) -> None:
    whole = measure(nested("x", sides, (WIDTH,)), truth)
    baseline = make_baseline(kind, "x", sides, (WIDTH,), seed=3)
    assert baseline.is_baseline
    found = measure(baseline, truth)
    for (_, dim, metric), scores in whole.items():
        np.testing.assert_allclose(found[(baseline.name, dim, metric)], scores, err_msg=metric, atol=0.03)


def test_pca_beats_plain_truncation_where_the_first_dims_carry_least(
    sides: tuple[np.ndarray, np.ndarray], truth: Labels
) -> None:
    pca, raw = (
        np.mean(measure(make_baseline(kind, "x", sides, (2,)), truth, has_probe=True)[(f"x {name}", 2, "linear")])
        for kind, name in (("pca", "pca"), ("truncation", "truncated"))
    )
    assert pca > raw + 0.1


def test_a_fixed_system_reads_each_dim_when_it_is_asked(sides: tuple[np.ndarray, np.ndarray]) -> None:
    asked: list[int] = []

    def read(dim: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(dim)
        return cut(sides[0], dim), cut(sides[1], dim)

    system = fixed("FF", {4: lambda: read(4), 8: lambda: read(8)})
    assert system.dims == (4, 8)
    assert not asked
    np.testing.assert_allclose(system.at(8)[0], cut(sides[0], 8), atol=1e-6)
    assert asked == [8]
