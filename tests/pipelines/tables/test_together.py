"""Several tables searched as one: the same samples and scores as numpy gives from all of their vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.tables import together
from pipelines.tables.create import create_table
from pipelines.tables.table import VectorTable
from pipelines.tables.together import search_together
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import cut
from schemas.columns import Ladder, Space
from schemas.errors import DimError, InputError, SpaceMismatch, TableError
from tests.support.small_tables import vectors

DIMS = (8, 32)
N = 400
X_ND, Y_ND = (vectors(N, seed, 32).astype(np.float32) for seed in (1, 2))
# Every seventh sample has no caption, and every ninth no picture.
PICTURES, CAPTIONS = ([n for n in range(N) if n % step] for step in (9, 7))
Together = tuple[VectorTable, VectorTable]


def write(path: Path, x_ND: np.ndarray, numbers: list[int], column: str, encoder: str = "test") -> VectorTable:
    space = Space(encoder=encoder, revision="1", ladder=Ladder(dims=DIMS))
    kept = pa.schema([pa.field("n", pa.int64()), pa.field(column, pa.string())])
    table = create_table(str(path), space, kept)
    shuffled = np.random.default_rng(0).permutation(numbers)
    rows = {
        "id": [f"it's {n:03d}" for n in shuffled],
        "shard": [0] * len(numbers),
        "n": shuffled,
        column: [f"{column} {n}" for n in shuffled],
        "vector": to_arrow(x_ND[shuffled].astype(np.float16)),
    }
    lance.write_dataset(pa.table(rows).cast(table.dataset.schema), table.uri, mode="append")
    return table.refresh()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Together:
    folder = tmp_path_factory.mktemp("both")
    return write(folder / "pictures.lance", X_ND, PICTURES, "file"), write(
        folder / "captions.lance", Y_ND, CAPTIONS, "words"
    )


def cosines(q_D: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of all samples in both tables; NaN where a table lacks them."""
    found = []
    for x_ND, numbers in ((X_ND, PICTURES), (Y_ND, CAPTIONS)):
        scores_N = np.full(N, np.nan)
        scores_N[numbers] = (cut(x_ND.astype(np.float16).astype(np.float32), dim) @ cut(q_D, dim))[numbers]
        found.append(scores_N)
    return found[0], found[1]


def best(scores_N: np.ndarray, k: int) -> list[int]:
    return np.lexsort((np.arange(N), -scores_N))[:k].tolist()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.25)])
def test_added_cosines_find_exactly_the_best(
    both: Together, dim: int, weights: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_DEPTH", 4)  # so that more rows must be looked at
    monkeypatch.setattr(together, "_WIDER", 2)
    for q_D in vectors(5, 3, 32).astype(np.float32):
        parts = cosines(q_D, dim)
        total_N = sum(w * np.nan_to_num(part) for w, part in zip(weights, parts, strict=True))
        hits = search_together(both, q_D, k=6, dim=dim, fuse="score", weights=weights)
        places = best(total_N, 6)
        assert hits["n"].to_pylist() == places
        np.testing.assert_allclose(hits["score"].to_numpy(), total_N[places], atol=1e-5)
        for number, part in enumerate(parts):
            said = np.array(hits[f"score_{number}"].to_pylist(), float)
            np.testing.assert_allclose(said, part[places], atol=1e-5)
        assert hits["words"].to_pylist() == [f"words {n}" if n in CAPTIONS else None for n in places]


def test_ranks_are_fused_as_the_paper_says(both: Together, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = vectors(3, 4, 32).astype(np.float32)
    hits = search_together(both, iter(queries), k=5, where="n < 300", columns=["n"])
    for number, q_D in enumerate(queries):
        fused_N = np.zeros(N)
        for part in cosines(q_D, 32):
            part[300:] = np.nan
            for rank, n in enumerate(best(np.nan_to_num(part, nan=-9), 100), 1):
                fused_N[n] += 1 / (60 + rank)
        mine = [hit for hit in hits if hit["query"] == number]
        assert [hit["n"] for hit in mine] == best(fused_N, 5)
        np.testing.assert_allclose([hit["score"] for hit in mine], fused_N[best(fused_N, 5)])
    assert hits.column_names == ["query", "n", "score", "score_0", "score_1"]


def test_equal_cosines_have_one_rank_however_many_they_are(both: Together, tmp_path: Path) -> None:
    captions = write(tmp_path / "one.lance", np.tile(Y_ND[:1], (N, 1)), list(range(N)), "words")
    q_D = vectors(1, 6, 32).astype(np.float32)[0]
    fused_N = np.full(N, 1 / 61)  # all have the same caption
    fused_N[best(np.nan_to_num(cosines(q_D, 32)[0], nan=-9), 100)] += 1 / (60 + np.arange(1, 101))
    hits = search_together([both[0], captions], q_D, k=8)
    assert hits["n"].to_pylist() == best(fused_N, 8)
    np.testing.assert_allclose(hits["score"].to_numpy(), fused_N[best(fused_N, 8)])


def test_a_sample_asks_with_its_picture_and_its_caption(both: Together) -> None:
    hits = search_together(both, like="it's 010", k=4, fuse="score")
    parts = cosines(X_ND[10].astype(np.float16), 32)[0], cosines(Y_ND[10].astype(np.float16), 32)[1]
    total_N = sum(np.nan_to_num(part) for part in parts)
    total_N[10] = -9
    assert hits["n"].to_pylist() == best(total_N, 4)


def test_more_rows_than_there_are_are_all_of_them(both: Together) -> None:
    q_D = vectors(1, 5, 32).astype(np.float32)[0]
    for fuse in ("rank", "score"):
        hits = search_together(both, q_D, k=10_000, fuse=fuse)  # type: ignore[arg-type]
        assert sorted(hits["n"].to_pylist()) == sorted({*PICTURES, *CAPTIONS})


def test_what_cannot_be_searched_together_is_refused(both: Together, tmp_path: Path) -> None:
    other, q_D = write(tmp_path / "other.lance", Y_ND, CAPTIONS, "words", encoder="other"), X_ND[0]
    assert len(search_together([both[0], other], q_D, k=3)) == 3
    refusals: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: search_together([both[0], other], q_D, fuse="score"), SpaceMismatch, "pass fuse='rank'"),
        (lambda: search_together([both[0]], q_D), InputError, "two tables or more"),
        (lambda: search_together(both[0], q_D), InputError, "two tables or more"),  # type: ignore[arg-type]
        (lambda: search_together(both, q_D, fuse="sum"), InputError, "pass 'rank'"),  # type: ignore[arg-type]
        (lambda: search_together(both, q_D, weights=[1]), InputError, "each of the 2 tables"),
        (lambda: search_together(both, q_D, weights=[1, 0]), InputError, "above 0"),
        (lambda: search_together(both, q_D, dim=9), DimError, "is not in the ladder"),
        (lambda: search_together(both, q_D, k=0), TableError, "ask for 1 row"),
        (lambda: search_together(both, q_D, where="words = 'a'"), TableError, "pictures.lance"),
        (lambda: search_together(both, q_D, columns=["word"]), TableError, "did you mean 'words'"),
        (lambda: search_together(both, like="it's 009"), TableError, "no row of .*pictures.lance"),
        (lambda: search_together(both), InputError, "pass either a query"),
    ]
    for search, kind, said in refusals:
        with pytest.raises(kind, match=said):
            search()
