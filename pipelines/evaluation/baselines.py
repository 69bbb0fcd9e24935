"""Baselines made of whole vectors: plain truncation, PCA, random columns, random projection.

Each of the last three is an orthonormal map, of which prefixes are then cut like any others; at full width they all
tell the same. Models trained for one dim each are a system of their own: `systems.fixed`.

Shapes: N database rows, Q queries, D full width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipelines.evaluation.systems import Sides, System, nested
from pipelines.vectors.rotation import fit_pca

Baseline = Literal["truncation", "pca", "random-columns", "random-projection"]


def make_baseline(kind: Baseline, of: str, sides: Sides, dims: Sequence[int], seed: int = 0) -> System:
    """Return a baseline of whole vectors.

    Args:
        kind: `truncation` cuts them as they are; `pca` turns them to the principal axes of the database;
            `random-columns` shuffles the dims; `random-projection` turns them at random.
        of: Name of the system that the vectors are of.
        sides: Database (N, D) and queries (Q, D).
        dims: Where it is measured.
        seed: Of what is random.
    """
    width = sides[0].shape[1]
    rng = np.random.default_rng(seed)
    if kind == "truncation":
        return nested(f"{of} truncated", sides, dims, (width,), is_baseline=True)
    if kind == "pca":
        matrix_DD = fit_pca([sides[0]]).matrix_DD
    elif kind == "random-columns":
        matrix_DD = np.eye(width, dtype=np.float32)[rng.permutation(width)]
    else:
        matrix_DD = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    turned = (sides[0] @ matrix_DD.T, sides[1] @ matrix_DD.T)
    made_for = dims if kind == "pca" else ()
    return nested(f"{of} {kind}", turned, dims, made_for, is_baseline=True)
