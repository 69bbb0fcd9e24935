from __future__ import annotations

import numpy as np
import pytest

from pipelines.funnel.rerank import rerank
from pipelines.vectors.matryoshka import unit
from tests.support.funnel_tables import vectors


@pytest.mark.parametrize("max_gathered", [1, 50, 1 << 16])
def test_the_best_candidates_by_true_cosine(max_gathered: int) -> None:
    x_ND, rng = vectors(300), np.random.default_rng(0)
    query_BD = unit(vectors(7, seed=1).astype(np.float32))
    candidates_B = [rng.permutation(300)[:count] for count in (40, 3, 0, 60, 1, 25, 40)]
    scores_BK, positions_BK = rerank(query_BD, candidates_B, x_ND.__getitem__, 4, max_gathered)
    for query_D, candidates, scores, positions in zip(query_BD, candidates_B, scores_BK, positions_BK, strict=True):
        cosines = unit(x_ND[candidates].astype(np.float32)) @ query_D
        held = min(4, len(candidates))
        assert positions[:held].tolist() == candidates[np.argsort(-cosines)[:held]].tolist()
        assert scores[:held] == pytest.approx(np.sort(cosines)[::-1][:held], abs=1e-6)
        assert (positions[held:] == -1).all()
        assert np.isneginf(scores[held:]).all()
