"""`mlake rotate`: the whole pass on Ray, over many fragments, and the recall before and after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs import rotate
from jobs.__main__ import main
from pipelines.tables.prefixes import add_prefixes
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import fit_pca
from tests.support.small_tables import off_axis_table, stored_vectors, vectors


@pytest.mark.usefixtures("local_ray")
def test_the_rotation_fitted_in_parts_is_the_one_fitted_on_all_rows(tmp_path: Path) -> None:
    table = off_axis_table(tmp_path, shards=5, rows=400)
    x_BD = stored_vectors(table)
    done = rotate.run(table.uri)
    whole, found = fit_pca([x_BD]), done.table.rotation
    assert found is not None
    np.testing.assert_allclose(found.matrix_DD, whole.matrix_DD, atol=1e-4)
    np.testing.assert_allclose(stored_vectors(done.table), found.apply(x_BD), atol=1e-3)
    assert done.dims == (8, 16, 24)
    assert done.before[-1] == pytest.approx(1)
    assert done.after[-1] == pytest.approx(1)
    assert done.after[0] > done.before[0] + 0.2


@pytest.mark.usefixtures("without_ray")
def test_the_command_shows_recall_by_dim_and_refuses_a_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = off_axis_table(tmp_path, rows=200)
    assert main(["rotate", table.uri]) == 0
    said = capsys.readouterr().out
    assert "recall@10 before" in said
    assert "rotation.kind=pca" in said
    assert VectorTable.open(table.uri).space.rotation is not None
    assert main(["rotate", table.uri]) == 2
    assert "rotated already" in capsys.readouterr().err


@pytest.mark.usefixtures("without_ray")
def test_a_matryoshka_trained_table_is_rotated_only_if_that_is_said(
    make_table: Callable[..., VectorTable], capsys: pytest.CaptureFixture[str]
) -> None:
    table = add_prefixes(make_table(vectors(60, 0)), [8])
    assert main(["rotate", table.uri]) == 2
    assert "--even-if-trained" in " ".join(capsys.readouterr().err.split())
    assert VectorTable.open(table.uri).prefix_dims == (8,)
    capsys.readouterr()
    assert main(["rotate", table.uri, "--even-if-trained", "--json"]) == 0
    rotated = VectorTable.open(table.uri)
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], said["dims"]) == (rotated.dataset.version, list(rotated.space.ladder.dims))
    assert said["recall_before"][-1] == said["recall_after"][-1] == 1
    assert rotated.space.rotation is not None
    assert rotated.prefix_dims == ()
