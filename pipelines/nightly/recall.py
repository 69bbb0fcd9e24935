"""Measure a table by its own rows: sample them, find their exact neighbours, and compare a funnel with these.

Shapes: Q queries, D full width.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.funnel import Funnel
from pipelines.funnel.ground_truth import GroundTruth, exact_neighbours, recall_interval
from pipelines.shortlist.bootstrap import Interval
from pipelines.tables.rows import ROW_ID, read_rows, row_ids, scan_vectors
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats, RowIds, to_numpy
from pipelines.vectors.matryoshka import unit
from schemas.columns import VECTOR
from schemas.errors import FunnelWarning
from schemas.plans import Home


@dataclass(frozen=True, eq=False)
class Sample:
    """Some rows of a table.

    Attributes:
        rows_Q: Their row ids.
        vectors_QD: Their vectors, float32 unit rows.
    """

    rows_Q: RowIds
    vectors_QD: Floats

    def __len__(self) -> int:
        return len(self.rows_Q)


def sample_rows(table: VectorTable, count: int, *, seed: int, new_since: Collection[int] | None = None) -> Sample:
    """Choose rows at random, without repetition.

    Args:
        table: The table.
        count: Rows wanted; fewer where the table has fewer.
        seed: Of the choice.
        new_since: Shards that are old; half of the rows are then chosen from others, where there are any.
    """
    rng, shards = np.random.default_rng(seed), table.dataset.scanner(columns=["shard", ROW_ID]).to_table()
    everything = row_ids(shards)
    chosen = rng.choice(everything, min(count, len(everything)), replace=False)
    if new_since is not None:
        is_old = pc.is_in(shards["shard"], pa.array(list(new_since), pa.int64())).to_numpy()
        new = everything[~is_old]
        some = rng.choice(new, min(count // 2, len(new)), replace=False)
        chosen = np.unique(np.concatenate([some, chosen]))[: max(count, len(some))]
    return read_sample(table, chosen)


def read_sample(table: VectorTable, rows: RowIds) -> Sample:
    """Read rows by their ids; a sample has each once, in the table's order."""
    found = read_rows(table.dataset, rows, [VECTOR])
    return Sample(row_ids(found), unit(to_numpy(found[VECTOR]).astype(np.float32)))


def neighbours_of(table: VectorTable, sample: Sample, k: int) -> GroundTruth | None:
    """Find the exact k nearest of each sampled row but itself; None where the table has too few rows."""
    if len(table) <= k or not len(sample):
        return None
    blocks = partial(_blocks, table)
    return exact_neighbours(blocks, sample.vectors_QD, [k], sample.rows_Q)[k]


@dataclass(frozen=True, eq=False)
class Recall:
    """The recall of a funnel.

    Attributes:
        interval: Its mean, with its interval.
        lowest: The rows that ask, those of the lowest recall first.
    """

    interval: Interval
    lowest: RowIds


def funnel_recall(table: VectorTable, home: Home, sample: Sample) -> Recall | None:
    """Measure the recall of a table's funnel with sampled rows as queries; None where nothing can be measured."""
    funnel = Funnel.open(table, home=home, follow=False)
    k = funnel.plan.k - 1  # the row itself takes one place
    truth = neighbours_of(table, sample, k) if k else None
    if truth is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FunnelWarning)  # of a recall that may be lower: it is measured here
        _, found_QK = funnel.nearest(sample.vectors_QD, funnel.plan.k)
    others_QK = np.stack([_others(found_K, row, k) for found_K, row in zip(found_QK, sample.rows_Q, strict=True)])
    recall_Q = truth.recall(truth.ranks(others_QK), k)
    return Recall(Interval(*recall_interval(recall_Q)), sample.rows_Q[np.argsort(recall_Q, kind="stable")])


def _others(found_K: npt.NDArray[np.int64], row: int, k: int) -> npt.NDArray[np.int64]:
    return found_K[found_K != row][:k] if (found_K == row).any() else found_K[:k]


def _blocks(table: VectorTable) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.floating]]]:
    for batch, x_BD in scan_vectors(table.dataset, [ROW_ID]):
        yield row_ids(batch), x_BD.copy()  # torch warns of arrays that it could not write to
