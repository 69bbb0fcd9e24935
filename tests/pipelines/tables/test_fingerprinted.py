"""Rotations and codebooks that nothing refers to are found and deleted; one that is referred to is never missing."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.funnel import Funnel, Goal
from pipelines.funnel.build import store_funnel
from pipelines.storage.addresses import sibling
from pipelines.tables.commits import remove_config
from pipelines.tables.create import create_table
from pipelines.tables.fingerprinted import find_unreferred, rotation_name
from pipelines.tables.maintenance import delete_spare, expire_table, find_spare
from pipelines.tables.rotate import commit_rotation, moments_of, rotate_fragments
from pipelines.tables.rotations import load_rotation, save_rotation
from pipelines.tables.runs import ALIVE_FOR, RunRecord
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import fit_pca
from schemas.errors import RunExpired, SpaceMismatch, TableError
from schemas.plans import FUNNEL_KEY, FunnelStage
from tests.support.s3 import S3Server
from tests.support.small_tables import SPACE, off_axis, off_axis_table, rotate_table, stored_vectors, vectors

NOW = dt.timedelta(0)


def beside(table: VectorTable) -> set[str]:
    """Names of the rotations and codebooks beside a table."""
    names = {path.name.removesuffix(".lance").partition(".")[2] for path in Path(table.uri).parent.iterdir()}
    return {name for name in names if name.startswith(("rotation-", "codebook-"))}


def grow_old(table: VectorTable) -> None:
    for path in Path(table.uri).parent.rglob("*"):
        then = path.stat().st_mtime - 2 * ALIVE_FOR.total_seconds()
        os.utime(path, (then, then))


def tune(table: VectorTable, keep: int) -> str:
    """Store another funnel, and return the name of its codebook."""
    width = table.space.ladder.width
    stages = [FunnelStage(dims=8, precision="int8", keep=keep), FunnelStage(dims=width, precision="float16", keep=5)]
    if keep % 2:
        stages.insert(1, FunnelStage(dims=width, precision="int8", keep=keep))
    return Funnel.build(table, Goal(recall=None, queries=20), stages=stages).plan.codebook


def test_what_no_version_refers_to_is_deleted_and_the_rest_stays(make_table: Callable[..., VectorTable]) -> None:
    table = make_table(vectors(300, 0))
    first, second = tune(table, 50), tune(table, 51)
    assert beside(table) == {first, second}
    save_rotation(fit_pca([off_axis(50)]), table.uri)
    lost = rotation_name(fit_pca([off_axis(50)]).fingerprint)
    assert find_spare(table) == []
    grow_old(table)
    assert {file.name for file in find_spare(table)} == {lost}
    with RunRecord(table, "funnel", {}):
        assert find_spare(table) == []
    nbytes = sum(path.stat().st_size for path in Path(sibling(table.uri, lost)).rglob("*") if path.is_file())
    assert delete_spare(table) == nbytes > 0
    assert beside(table) == {first, second}
    expire_table(table.refresh(), dt.timedelta(0))
    assert delete_spare(table) > 0
    assert beside(table) == {second}
    assert Funnel.open(table).search(vectors(1, 9)[0], k=3).num_rows == 3
    held = Funnel.open(table)
    rotated = rotate_table(table.refresh(), even_if_trained=True)
    assert rotated.space.rotation is not None
    with pytest.raises(SpaceMismatch, match="rotation: table '"):
        held.search(vectors(1, 9)[0], k=3)
    rotated.dataset.tags.create("keep", rotated.dataset.version)
    expire_table(rotated, dt.timedelta(0))
    assert delete_spare(rotated, NOW) > 0
    assert beside(table) == {rotation_name(rotated.space.rotation)}


def test_a_table_of_the_same_name_without_lance_keeps_what_is_its_own(tmp_path: Path) -> None:
    bare, named = (create_table(str(tmp_path / name), SPACE, pa.schema([])) for name in ("t", "t.lance"))
    save_rotation(fit_pca([off_axis(50)]), bare.uri)
    assert find_spare(bare, NOW) == find_spare(named, NOW) == []


def test_a_suspended_rotation_cannot_commit_without_its_matrix(tmp_path: Path) -> None:
    table = off_axis_table(tmp_path)
    x_BD, ids = stored_vectors(table), [fragment.fragment_id for fragment in table.dataset.get_fragments()]
    rotation = moments_of(table, ids).rotation()
    save_rotation(rotation, table.uri)
    grow_old(table)
    seen = table.refresh()
    assert delete_spare(table) > 0
    save_rotation(rotation, table.uri)  # so that only the order of the commits counts
    with pytest.raises(TableError, match="changed while it was being rotated"):
        commit_rotation(seen, rotation, rotate_fragments(seen, ids, rotation.fingerprint))
    seen = table.refresh()
    grow_old(table)
    grow_old(table)
    with pytest.raises(RunExpired, match="was given up"):
        commit_rotation(seen, rotation, rotate_fragments(seen, ids, rotation.fingerprint))
    np.testing.assert_array_equal(stored_vectors(table.refresh()), x_BD)
    save_rotation(rotation, table.uri)  # what was given up is written anew
    rotated = commit_rotation(seen, rotation, rotate_fragments(seen, ids, rotation.fingerprint))
    assert load_rotation(rotation.fingerprint, rotated.uri).fingerprint == rotation.fingerprint


def test_a_funnel_is_not_stored_whose_codebook_was_given_up(make_table: Callable[..., VectorTable]) -> None:
    table = make_table(vectors(300, 0))
    name, tuned = tune(table, 50), Funnel.stored(table.refresh(), "memory")
    remove_config(table.uri, (FUNNEL_KEY,), table.storage)
    expire_table(table.refresh(), dt.timedelta(0))
    grow_old(table)
    assert delete_spare(table) > 0
    for _ in range(2):
        with pytest.raises(RunExpired, match=f"{name}.*run the same command again"):
            store_funnel(table, tuned)
        assert Funnel.homes(table.refresh()) == ()
    assert tune(table, 50) == name
    assert Funnel.open(table).search(vectors(1, 9)[0], k=3).num_rows == 3


def test_on_s3_by_the_clock_of_the_store(bucket: str, s3_server: S3Server) -> None:
    storage = s3_server.storage
    table = create_table(f"s3://{bucket}/t.lance", SPACE, pa.schema([]), storage)
    kept, lost = (fit_pca([off_axis(50, seed=seed)]) for seed in range(2))
    for rotation in (kept, lost):
        save_rotation(rotation, table.uri, storage)
    create_table(f"s3://{bucket}/u.lance", SPACE, pa.schema([]), storage)
    assert find_spare(table) == []
    future = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    found = find_unreferred(table, future)
    assert {file.name for file in found} == {rotation_name(r.fingerprint) for r in (kept, lost)}
    assert delete_spare(table, -dt.timedelta(hours=1)) == sum(file.nbytes for file in found)
    listed = s3_server.client().list_objects_v2(Bucket=bucket)
    assert not [each["Key"] for each in listed["Contents"] if "rotation-" in each["Key"]]
