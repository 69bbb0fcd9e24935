"""A rotation is stored beside its table under its fingerprint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.tables.rotations import load_rotation, save_rotation
from pipelines.vectors.rotation import fit_pca
from schemas.errors import TableNotFound
from tests.support.small_tables import off_axis


def test_a_rotation_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    rotation, uri = fit_pca([off_axis(50)]), str(tmp_path / "t.lance")
    save_rotation(rotation, uri)
    save_rotation(rotation, uri)
    back = load_rotation(rotation.fingerprint, uri)
    np.testing.assert_array_equal(back.matrix_DD, rotation.matrix_DD)
    np.testing.assert_array_equal(back.explained_D, rotation.explained_D)
    assert back.fingerprint == rotation.fingerprint


def test_a_missing_rotation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableNotFound, match="rotation-0123"):
        load_rotation("0123", str(tmp_path / "t.lance"))
