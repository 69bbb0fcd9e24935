"""What gates measure in tables: texts, labels of neighbours, drift of the mean and the spectrum, rows by file.

Shapes: N sampled rows, D full width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.nightly.recall import Sample, neighbours_of, sample_rows
from pipelines.tables.erased import has_passages
from pipelines.tables.rows import read_rows, row_ids
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats, RowIds


def cut_of(table: VectorTable) -> str | None:
    """Return how the texts of a table are cut into passages, in words; None where they are not."""
    return None if table.source is None else table.source.chunk


def count_texts(table: VectorTable, shards: Sequence[int] | None = None) -> int:
    """Count the texts of a table, or of some of its shards, of which its rows may be passages."""
    wanted = ["passage = 0"] if has_passages(table) else []
    if shards is not None:
        wanted.append(f"shard IN ({', '.join(map(str, shards))})" if shards else "false")
    return int(table.dataset.count_rows(" AND ".join(wanted) or None))


def rows_by_file(held: Mapping[int, int], records: pa.Table) -> Counter[str]:
    """Count rows by the address of their shard.

    Args:
        held: Rows of each shard.
        records: Columns `shard` and `uri`.
    """
    rows = Counter[str]()
    for shard, uri in zip(records["shard"].to_pylist(), records["uri"].to_pylist(), strict=True):
        rows[uri] += held.get(shard, 0)
    return rows


def label_share(table: VectorTable, label: str, queries: int) -> tuple[float, RowIds] | None:
    """Return the share of sampled rows whose nearest row has their label, and the rows of which it has another.

    None where the table has too few rows.
    """
    sample = sample_rows(table, queries, seed=1)
    truth = neighbours_of(table, sample, 1)
    if truth is None:
        return None
    nearest_Q = np.array([ids[0] for ids in truth.ties_Q], np.int64)
    asked, found = (values_of(table, rows, label) for rows in (sample.rows_Q, nearest_Q))
    is_equal = np.array([one == other for one, other in zip(asked, found, strict=True)])
    return float(is_equal.mean()), sample.rows_Q[~is_equal]


def values_of(table: VectorTable, rows: RowIds, column: str) -> list[Any]:
    """Return a column of rows, in their order."""
    found = read_rows(table.dataset, np.unique(rows), [column])
    of_row = dict(zip(row_ids(found).tolist(), found[column].to_pylist(), strict=True))
    return [of_row[row] for row in rows.tolist()]


def mean_shift(before: Floats, now: Floats) -> float:
    """Return the distance between the means of rows (N, D)."""
    return float(np.linalg.norm(now.mean(axis=0) - before.mean(axis=0)))


def mean_movers(table: VectorTable, now: Sample, before: Floats) -> list[int]:
    """Return the shards whose rows moved the mean, the strongest first."""
    way_D = now.vectors_QD.mean(axis=0) - before.mean(axis=0)
    return _most(table, now, now.vectors_QD @ way_D - float(before.mean(axis=0) @ way_D))


def spectrum_shift(before: Floats, now: Floats) -> float:
    """Return the distance between the spectra of variance of rows (N, D), each with sum 1; 0 to 2."""
    return float(np.abs(_spectrum(now) - _spectrum(before)).sum())


def spectrum_movers(table: VectorTable, now: Sample, before: Floats) -> list[int]:
    """Return the shards whose rows have the variance that was not there before, the strongest first."""
    values_D, ways_DD = np.linalg.eigh(_covariance(now.vectors_QD) - _covariance(before))
    centred_ND = now.vectors_QD - before.mean(axis=0)
    return _most(table, now, (centred_ND @ ways_DD[:, np.argmax(values_D)]) ** 2)


def _most(table: VectorTable, sample: Sample, scores_N: npt.NDArray[np.floating]) -> list[int]:
    total = Counter[int]()
    for shard, score in zip(values_of(table, sample.rows_Q, "shard"), scores_N.tolist(), strict=True):
        total[shard] += score
    return [shard for shard, _ in total.most_common()]


def _covariance(x_ND: Floats) -> npt.NDArray[np.float64]:
    centred_ND = x_ND.astype(np.float64) - x_ND.mean(axis=0)
    covariance: npt.NDArray[np.float64] = centred_ND.T @ centred_ND / len(x_ND)
    return covariance


def _spectrum(x_ND: Floats) -> npt.NDArray[np.float64]:
    centred = x_ND.astype(np.float64) - x_ND.mean(axis=0)
    values: npt.NDArray[np.float64] = np.linalg.svd(centred, compute_uv=False) ** 2
    full = np.zeros(x_ND.shape[1])
    full[: len(values)] = values / max(values.sum(), 1e-12)
    return full
