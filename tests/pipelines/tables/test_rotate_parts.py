"""A table rotated part by part is the table rotated at once; a failed part leaves it unchanged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.tables.rotate_parts import RotatePart, Rotator, rotate_parts
from pipelines.tables.rotations import load_rotation
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import fit_pca
from schemas.errors import RunError
from tests.support.local_pool import LocalPool
from tests.support.small_tables import vectors


def test_the_rotation_is_that_of_all_rows_and_every_fragment_is_written(make_table: Callable[..., VectorTable]) -> None:
    shards = [vectors(50, seed) for seed in range(5)]
    table = make_table(*shards)
    rotator = Rotator(table.uri, table.dataset.version, table.storage)
    rotation, fragments = rotate_parts(table, LocalPool(rotator))
    whole = fit_pca([np.concatenate(shards).astype(np.float32)])
    np.testing.assert_allclose(rotation.matrix_DD, whole.matrix_DD, atol=1e-4)
    assert load_rotation(rotation.fingerprint, table.uri, table.storage).fingerprint == rotation.fingerprint
    assert len(fragments) == rotator.progress()["fragments"] == 5
    assert table.refresh().dataset.version == table.dataset.version


def test_a_part_that_fails_is_named(make_table: Callable[..., VectorTable]) -> None:
    table = make_table(vectors(20, 0), vectors(20, 1))

    def error_of(part: RotatePart) -> BaseException | None:
        return OSError("disk full") if part.rotation and 1 in part.fragment_ids else None

    pool = LocalPool(Rotator(table.uri, table.dataset.version, table.storage), error_of)
    with pytest.raises(RunError, match=r"fragments \(1,\) could not be rotated: disk full; the table is unchanged"):
        rotate_parts(table, pool)
