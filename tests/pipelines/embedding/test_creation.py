"""A plan without a table gets one, with the rotation of its space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.embedding.creation import Tell, create_table_for
from pipelines.embedding.plan import make_plan
from pipelines.embedding.rotation_fitter import RotationFitter
from pipelines.vectors.rotation import Rotation
from schemas.records import Shard
from tests.support.corpus import config_for, write_corpus


def test_a_table_is_created_with_its_rotation(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=2, rows=200)
    config = config_for(tmp_path / "src", tmp_path / "t.lance", rotation={"kind": "pca", "sample_rows": 300})

    def fit(shards: tuple[Shard, ...], tell: Tell) -> Rotation:
        return RotationFitter(config, 1).run(shards)

    table = create_table_for(config, make_plan(config), fit, str)
    assert table.rotation is not None
    assert np.isfinite(table.rotation.matrix_DD).all()
    again = create_table_for(config, make_plan(config), fit, str)
    assert again.space == table.space
