from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.funnel.plan import funnel_retrieval
from pipelines.funnel.torch_stages import TorchStages
from pipelines.vectors.matryoshka import cut, unit
from tests.support.funnel_tables import WIDTH, vectors


@pytest.mark.parametrize("home", ["memory", "codes"])
def test_stages_find_what_numpy_finds(home: str) -> None:
    x_ND, query_BD = vectors(2_000), unit(vectors(20, seed=5).astype(np.float32))
    plan = funnel_retrieval([16, 32, WIDTH], [200, 50, 10]).model_copy(update={"home": home})
    stages = TorchStages(plan, [x_ND[:900], x_ND[900:]], len(x_ND), torch.device("cpu"))
    assert len(stages) == len(x_ND)
    coarse_BK, found_BK = stages.candidates(plan, query_BD)
    assert (np.diff(coarse_BK, axis=1) <= 0).all()
    for query_D, found in zip(query_BD, found_BK, strict=True):
        first = np.argsort(-(cut(x_ND.astype(np.float32), 16) @ cut(query_D, 16)))[:200]
        second = first[np.argsort(-(cut(x_ND[first].astype(np.float32), 32) @ cut(query_D, 32)))[:50]]
        assert len(set(found.tolist()) & set(second.tolist())) >= 48  # half precision may swap the last ones
    assert stages.holds_vectors == (home == "memory")
    assert stages.bytes_per_vector == 2 * (16 + 32 + (WIDTH if home == "memory" else 0))
    if stages.holds_vectors:
        scores_BK, positions_BK = stages.search(plan, query_BD, 10)
        cosines_BN = query_BD @ unit(x_ND.astype(np.float32)).T
        assert scores_BK == pytest.approx(np.take_along_axis(cosines_BN, positions_BK, 1), abs=1e-6)
        assert (stages.vectors(positions_BK[0]) == x_ND[positions_BK[0]]).all()
