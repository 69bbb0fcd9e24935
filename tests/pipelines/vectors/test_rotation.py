"""Rotations: exact whatever the blocks, orthonormal, better prefixes; a table turns in one commit or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.encoders import make_space
from pipelines.evaluation import recall_by_dim
from pipelines.tables.rotate import check_rotatable, land_rotation, moments_of, rotate_fragments, rotate_here
from pipelines.tables.rotations import load_rotation, save_rotation
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.rotation import Moments, fit_pca
from schemas.columns import VECTOR, Ladder
from schemas.config import EncoderConfig
from schemas.errors import DimNotInLadder, NotMatryoshka, SpaceMismatch, TableError
from schemas.records import LeaseResult, Shard, ShardCount

Floats = npt.NDArray[np.float32]
WIDTH = 24


def clustered(rows: int, width: int = WIDTH, seed: int = 0) -> Floats:
    """Unit rows whose variance lies in a few directions that are not the axes, off the origin."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(7).normal(size=(width, width)))[0]
    x_BD = rng.normal(size=(rows, width)) * (0.6 ** np.arange(width)) @ basis + 0.1
    return (x_BD / np.linalg.norm(x_BD, axis=1, keepdims=True)).astype(np.float32)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 3))
def test_the_moments_of_parts_add_up_to_those_of_the_whole(sizes: list[int], seed: int) -> None:
    x_BD = clustered(sum(sizes) + 2, seed=seed)
    blocks = np.split(x_BD, np.cumsum(sizes))
    first, *others = (Moments.of([block]) for block in blocks)
    whole, streamed = sum(others, first), Moments.of(blocks)
    for moments in (whole, streamed):
        assert moments.count == len(x_BD)
        np.testing.assert_allclose(moments.moment_DD, x_BD.T.astype(np.float64) @ x_BD, atol=1e-9)
        np.testing.assert_allclose(moments.total_D, x_BD.sum(axis=0, dtype=np.float64), atol=1e-9)


def test_the_axes_are_those_of_the_covariance_in_falling_order() -> None:
    x_BD = clustered(4_000)
    rotation = fit_pca(np.array_split(x_BD, 7))
    variances = np.var(rotation.apply(x_BD).astype(np.float64), axis=0)
    assert np.all(np.diff(variances) < 1e-9)
    np.testing.assert_allclose(
        variances, np.linalg.eigvalsh(np.cov(x_BD.T.astype(np.float64), bias=True))[::-1], atol=1e-7
    )
    np.testing.assert_allclose(rotation.explained_D, variances / variances.sum(), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 500])
def test_scores_at_full_width_are_unchanged_even_with_fewer_rows_than_dims(rows: int) -> None:
    x_BD = clustered(500)
    rotation = fit_pca([x_BD[:rows]])
    np.testing.assert_allclose(rotation.matrix_DD @ rotation.matrix_DD.T, np.eye(WIDTH), atol=1e-5)
    turned = rotation.apply(x_BD)
    np.testing.assert_allclose(turned @ turned.T, x_BD @ x_BD.T, atol=1e-5)


def test_the_same_vectors_give_the_same_rotation_in_whatever_blocks() -> None:
    x_BD = clustered(300)
    one, other = fit_pca([x_BD]), fit_pca([x_BD[:100], x_BD[100:].astype(np.float64)])
    np.testing.assert_allclose(one.matrix_DD, other.matrix_DD, atol=1e-5)
    assert one.fingerprint == fit_pca([x_BD]).fingerprint


def test_no_rows_give_no_rotation() -> None:
    for blocks in ([], [np.empty((0, 4), np.float32)]):
        with pytest.raises(ValueError, match="no vectors"):
            fit_pca(blocks)


def make_table(folder: Path, shards: int = 3, rows: int = 80) -> VectorTable:
    space = make_space(EncoderConfig(name="all-MiniLM-L6-v2")).model_copy(update={"ladder": Ladder(dims=(WIDTH,))})
    table = VectorTable.create(str(folder / "t.lance"), space, pa.schema([pa.field("title", pa.string())]))
    for seed in range(shards):
        table.commit([result(table, seed, rows)], f"run{seed}")
    return table.refresh()


def result(table: VectorTable, seed: int, rows: int) -> LeaseResult:
    shard = Shard(f"/shard-{seed}", rows, "x", "parquet")
    ids = [f"{seed}-{i}" for i in range(rows)]
    columns = [pa.array(ids), pa.array([shard.id] * rows), pa.array(ids), to_arrow(clustered(rows, seed=seed))]
    batch = pa.RecordBatch.from_arrays(columns, schema=table.dataset.schema)
    return LeaseResult((ShardCount(shard, rows, 0),), table.write_fragments([batch]), (), rows)


def vectors(table: VectorTable) -> Floats:
    return to_numpy(table.dataset.to_table(columns=[VECTOR])[VECTOR]).astype(np.float32)


def test_a_table_turns_without_a_row_moving_and_says_its_new_space(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    table.dataset.delete("id = '1-5'")
    table = table.refresh()
    before, x_BD = table.dataset.to_table(columns=["id", "title"], with_row_id=True), vectors(table)
    turned = rotate_here(table)
    assert turned.dataset.to_table(columns=["id", "title"], with_row_id=True) == before
    assert turned.space.ladder.dims == (8, 16, WIDTH)
    assert turned.space.fingerprint != table.space.fingerprint
    assert turned.rotation is not None
    np.testing.assert_allclose(vectors(turned), turned.rotation.apply(x_BD), atol=1e-3)
    np.testing.assert_allclose(vectors(turned) @ vectors(turned).T, x_BD @ x_BD.T, atol=3e-3)
    raw, rotated = (recall_by_dim(v, v[:100], [8], skip_self=True)[0] for v in (x_BD, vectors(turned)))
    assert rotated > raw + 0.2
    np.testing.assert_array_equal(vectors(VectorTable.open(table.uri, table.dataset.version)), x_BD)


def test_a_turned_table_goes_on_living(tmp_path: Path) -> None:
    turned = rotate_here(make_table(tmp_path))
    turned.commit([result(turned, 9, 50)], "run9")
    turned = turned.refresh()
    expected = vectors(turned)
    turned.dataset.optimize.compact_files()
    turned = turned.refresh()
    np.testing.assert_array_equal(vectors(turned), expected)
    assert turned.dataset.count_rows() == 3 * 80 + 50
    found = turned.search(vectors(turned)[7], k=1, dims=16)
    assert found["id"].to_pylist() == ["0-7"]
    with pytest.raises(DimNotInLadder):
        turned.search(vectors(turned)[7], dims=12)


def test_an_index_on_the_old_vectors_goes(tmp_path: Path) -> None:
    table = make_table(tmp_path, rows=300)
    table.dataset.create_index(VECTOR, "IVF_FLAT", metric="cosine", num_partitions=2)
    table.dataset.create_scalar_index("title", "BTREE")
    turned = rotate_here(table.refresh())
    assert [index.field_names for index in turned.dataset.describe_indices()] == [["title"]]


def test_a_table_that_changes_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    ids = [fragment.fragment_id for fragment in table.dataset.get_fragments()]
    rotation = moments_of(table, ids).rotation()
    save_rotation(rotation, table.uri)
    fragments = rotate_fragments(table, ids, rotation.fingerprint)
    table.refresh().commit([result(table, 5, 10)], "other")
    with pytest.raises(TableError, match="changed while it was being rotated"):
        land_rotation(table, rotation, fragments)
    assert table.refresh().space == table.space


def test_rows_embedded_into_the_old_space_do_not_land_in_the_new(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    late = result(table, 5, 10)
    rotate_here(table)
    with pytest.raises(SpaceMismatch, match="rotation"):
        table.commit([late], "late")


def test_what_a_rotation_would_not_help_is_refused(tmp_path: Path) -> None:
    turned = rotate_here(make_table(tmp_path))
    with pytest.raises(TableError, match="rotated already"):
        check_rotatable(turned)
    trained = VectorTable.create(str(tmp_path / "w.lance"), make_space(EncoderConfig(name="wordllama")), pa.schema([]))
    with pytest.raises(TableError, match="would harm its prefixes"):
        check_rotatable(trained)
    empty = make_table(tmp_path / "empty", shards=0)
    with pytest.raises(TableError, match="no rows"):
        check_rotatable(empty)
    other = fit_pca([clustered(10, width=8)])
    with pytest.raises(NotMatryoshka, match="8 dims"):
        land_rotation(empty, other, ())


def test_a_rotation_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    rotation, uri = fit_pca([clustered(50)]), str(tmp_path / "t.lance")
    save_rotation(rotation, uri)
    save_rotation(rotation, uri)
    back = load_rotation(rotation.fingerprint, uri)
    np.testing.assert_array_equal(back.matrix_DD, rotation.matrix_DD)
    np.testing.assert_array_equal(back.explained_D, rotation.explained_D)
    assert back.fingerprint == rotation.fingerprint
