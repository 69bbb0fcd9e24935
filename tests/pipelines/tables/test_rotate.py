"""A table is rotated in one commit or not at all; prefixes become better and full-width scores stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation import recall_by_dim
from pipelines.funnel import Funnel, Goal
from pipelines.tables.indexes import index_prefix
from pipelines.tables.ledger import commit_leases
from pipelines.tables.prefixes import add_prefixes, declare_prefixes
from pipelines.tables.rotate import (
    RotatePart,
    Rotator,
    check_rotatable,
    commit_rotation,
    moments_of,
    rotate_fragments,
    rotate_parts,
)
from pipelines.tables.rotations import load_rotation, save_rotation
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import fit_pca
from schemas.columns import VECTOR, vector_field
from schemas.config import PrefixIndexConfig
from schemas.errors import DimNotInLadder, NotMatryoshka, RunError, SpaceMismatch, TableError
from tests.support.local_pool import LocalPool
from tests.support.small_tables import (
    new_table,
    off_axis,
    off_axis_lease,
    off_axis_table,
    rotate_table,
    stored_vectors,
    vectors,
)

WIDTH = 24


def test_rotating_moves_no_row_and_changes_the_space(tmp_path: Path) -> None:
    table = off_axis_table(tmp_path)
    table.dataset.delete("id = '1-5'")
    table = table.refresh()
    before, x_BD = table.dataset.to_table(columns=["id", "title"], with_row_id=True), stored_vectors(table)
    rotated = rotate_table(table)
    assert rotated.dataset.to_table(columns=["id", "title"], with_row_id=True) == before
    assert rotated.space.ladder.dims == (8, 16, WIDTH)
    assert rotated.space.fingerprint != table.space.fingerprint
    assert rotated.rotation is not None
    np.testing.assert_allclose(stored_vectors(rotated), rotated.rotation.apply(x_BD), atol=1e-3)
    np.testing.assert_allclose(stored_vectors(rotated) @ stored_vectors(rotated).T, x_BD @ x_BD.T, atol=3e-3)
    raw, better = (recall_by_dim(v, v[:100], [8], skip_self=True)[0] for v in (x_BD, stored_vectors(rotated)))
    assert better > raw + 0.2
    np.testing.assert_array_equal(stored_vectors(VectorTable.open(table.uri, table.dataset.version)), x_BD)


def test_a_rotated_table_takes_rows_is_compacted_and_searched(tmp_path: Path) -> None:
    rotated = rotate_table(off_axis_table(tmp_path))
    commit_leases(rotated, [off_axis_lease(rotated, 9, 50)], "run9")
    rotated = rotated.refresh()
    expected = stored_vectors(rotated)
    rotated.dataset.optimize.compact_files()
    rotated = rotated.refresh()
    np.testing.assert_array_equal(stored_vectors(rotated), expected)
    assert rotated.dataset.count_rows() == 3 * 80 + 50
    found = rotated.search(stored_vectors(rotated)[7], k=1, dim=16)
    assert found["id"].to_pylist() == ["0-7"]
    with pytest.raises(DimNotInLadder):
        rotated.search(stored_vectors(rotated)[7], dim=12)


def test_an_index_over_the_old_vectors_is_dropped(tmp_path: Path) -> None:
    table = off_axis_table(tmp_path, rows=300)
    table.dataset.create_index(VECTOR, "IVF_FLAT", metric="cosine", num_partitions=2)
    table.dataset.create_scalar_index("title", "BTREE")
    rotated = rotate_table(table.refresh())
    assert [index.field_names for index in rotated.dataset.describe_indices()] == [["title"]]


def test_what_was_derived_from_the_vectors_leaves_with_them(make_table: Callable[..., VectorTable]) -> None:
    table = make_table(vectors(150, 0), vectors(150, 1))
    table.dataset.add_columns({"facts": "named_struct('vector_8', 1, '64', 2)", "64": "3"})
    table = declare_prefixes(index_prefix(add_prefixes(table, [8, 16]), 8, PrefixIndexConfig(type="IVF_FLAT")), [8])
    Funnel.build(table, Goal(recall=0.5, k=5, queries=40), home="lake")
    table.dataset.add_columns([vector_field(4, "vector_4_filling").with_nullable(True)])
    table, old = table.refresh(), table.dataset.version
    before = stored_vectors(table)
    rotated = rotate_table(table, even_if_trained=True)
    assert rotated.schema.names == ["id", "shard", "vector", "facts", "64"]
    assert rotated.dataset.to_table(columns=["facts"])["facts"][0].as_py() == {"vector_8": 1, "64": 2}
    assert rotated.dataset.describe_indices() == []
    assert rotated.dataset.config() == {}
    assert rotated.rotation is not None
    np.testing.assert_allclose(stored_vectors(rotated), rotated.rotation.apply(before), atol=1e-3)
    again = add_prefixes(rotated, [8])
    found = again.search(stored_vectors(again)[7], k=1, dim=8)
    assert found["score"][0].as_py() == pytest.approx(1, abs=1e-3)
    again.dataset.optimize.compact_files()
    assert again.refresh().search(stored_vectors(again)[7], k=1, dim=8)["id"] == found["id"]
    assert VectorTable.open(table.uri, old).prefix_dims == (8, 16)


def test_a_table_that_changes_meanwhile_is_not_rotated(tmp_path: Path) -> None:
    table = off_axis_table(tmp_path)
    ids = [fragment.fragment_id for fragment in table.dataset.get_fragments()]
    rotation = moments_of(table, ids).rotation()
    save_rotation(rotation, table.uri)
    fragments = rotate_fragments(table, ids, rotation.fingerprint)
    commit_leases(table.refresh(), [off_axis_lease(table, 5, 10)], "other")
    with pytest.raises(TableError, match="changed while it was being rotated"):
        commit_rotation(table, rotation, fragments)
    assert table.refresh().space == table.space


def test_rows_embedded_into_the_old_space_are_refused_by_the_new(tmp_path: Path) -> None:
    table = off_axis_table(tmp_path)
    late = off_axis_lease(table, 5, 10)
    rotate_table(table)
    with pytest.raises(SpaceMismatch, match="rotation"):
        commit_leases(table, [late], "late")


def test_a_table_that_a_rotation_would_not_improve_is_refused(tmp_path: Path) -> None:
    rotated = rotate_table(off_axis_table(tmp_path))
    with pytest.raises(TableError, match="rotated already"):
        check_rotatable(rotated)
    trained = new_table(tmp_path, "w")
    with pytest.raises(TableError, match=r"\.225 to \.275, STS \.730 to \.698.*mlake rotate .* --even-if-trained"):
        check_rotatable(trained)
    empty = off_axis_table(tmp_path / "empty", shards=0)
    with pytest.raises(TableError, match="no rows"):
        check_rotatable(empty)
    other = fit_pca([off_axis(10, width=8)])
    save_rotation(other, empty.uri)
    with pytest.raises(NotMatryoshka, match="8 dims"):
        commit_rotation(empty, other, ())


def test_the_rotation_is_that_of_all_rows_and_every_fragment_is_written(make_table: Callable[..., VectorTable]) -> None:
    shards = [vectors(50, seed) for seed in range(5)]
    table = make_table(*shards)
    rotator = Rotator(table.uri, table.dataset.version, table.storage)
    told: list[tuple[str, int]] = []
    rotation, fragments = rotate_parts(table, LocalPool(rotator), lambda step, rows: told.append((step, rows)))
    whole = fit_pca([np.concatenate(shards).astype(np.float32)])
    np.testing.assert_allclose(rotation.matrix_DD, whole.matrix_DD, atol=1e-4)
    assert load_rotation(rotation.fingerprint, table.uri, table.storage).fingerprint == rotation.fingerprint
    assert len(fragments) == 5
    done = rotator.progress()
    assert (done["fragments"], done["fitted"]) == (5, 250)
    assert done["rotated"] >= 250  # Lance asks for a row of each fragment twice
    assert {step for step, _ in told} == {"fitted", "rotated"}
    assert table.refresh().dataset.version == table.dataset.version


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0])
def test_rows_without_a_direction_are_counted_and_nothing_is_rotated(
    make_table: Callable[..., VectorTable], number: float
) -> None:
    x_ND = np.array(vectors(50, 0))
    x_ND[7:10] = number
    table = make_table(x_ND, vectors(50, 1))
    pool = LocalPool(Rotator(table.uri, table.dataset.version, table.storage))
    with pytest.raises(TableError, match=r"3 rows of .* have vectors without a direction .*: nothing is rotated"):
        rotate_parts(table, pool)
    assert table.refresh().dataset.version == table.dataset.version


def test_a_part_that_fails_is_named(make_table: Callable[..., VectorTable]) -> None:
    table = make_table(vectors(20, 0), vectors(20, 1))

    def error_of(part: RotatePart) -> BaseException | None:
        return OSError("disk full") if part.rotation and 1 in part.fragment_ids else None

    pool = LocalPool(Rotator(table.uri, table.dataset.version, table.storage), error_of)
    with pytest.raises(RunError, match=r"fragments \(1,\) could not be rotated: disk full; the table is unchanged"):
        rotate_parts(table, pool)
