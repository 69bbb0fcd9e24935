from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipelines.shortlist.exact import Best
from pipelines.shortlist.pieces import Pieces
from schemas.config import StorageConfig
from schemas.shortlists import ShortlistSpec

SPEC = ShortlistSpec(
    queries="q.lance", queries_version=1, vectors="t.lance", vectors_version=2, space="f", dims=(8, 16), k=2
)


def test_a_piece_is_read_back_by_query_and_rank_without_empty_places(tmp_path):
    pieces = Pieces(str(tmp_path / "t.shortlist.lance"), StorageConfig())
    scores_QK = np.float32([[0.9, 0.8], [0.7, -np.inf]])
    best = {8: Best(scores_QK, pa.array(["a", "b", "c", None])), 16: Best(scores_QK, pa.array(["d", "e", "f", None]))}
    for _ in range(2):  # a second writing changes nothing
        pieces.write("000000-000000.lance", [5, 7], best)
    assert pieces.finished() == {"000000-000000.lance"}
    rows = pieces.read("000000-000000.lance")
    assert rows["query"].to_pylist() == [5, 5, 7] * 2
    assert rows["dim"].to_pylist() == [8] * 3 + [16] * 3
    assert rows["id"].to_pylist() == ["a", "b", "c", "d", "e", "f"]


def test_the_plan_of_a_run_stays_until_the_folder_is_cleared(tmp_path):
    pieces = Pieces(str(tmp_path / "t.shortlist.lance"), StorageConfig())
    assert pieces.load_plan() is None
    pieces.save_plan(SPEC, 1 << 30)
    assert pieces.load_plan() == (SPEC, 1 << 30)
    assert pieces.finished() == set()
    pieces.clear()
    assert pieces.load_plan() is None
