"""Compare the answers of two versions: which of yesterday's nearest rows are still the nearest.

Rows are compared by the id of their sample. In one generation a shard is itself; where all is encoded anew it is known
by its address, and where texts are cut into other passages, a passage stands for its document.

Shapes: Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.funnel.ground_truth import GroundTruth
from pipelines.nightly.recall import neighbours_of, read_sample, sample_rows
from pipelines.tables.erased import has_passages
from pipelines.tables.rows import ROW_ID, read_rows, row_ids, sql_texts
from pipelines.tables.table import VectorTable
from schemas.column_names import DOCUMENT

Key = tuple[str, str]  # of a sample: the name of its shard, and its id


@dataclass(frozen=True)
class Side:
    """One of the two versions.

    Attributes:
        table: The table.
        names: By what name each shard is compared.
        by_document: Whether passages stand for their documents.
    """

    table: VectorTable
    names: Mapping[int, str]
    by_document: bool = False

    @property
    def _has_spans(self) -> bool:
        return self.by_document and has_passages(self.table)

    @property
    def _column(self) -> str:
        return DOCUMENT if self._has_spans else "id"

    def places(self, rows: npt.NDArray[np.int64]) -> list[tuple[Key, float]]:
        """Return the key of each row, and the middle of its characters; 0 where rows are no passages."""
        spans = ["start", "stop"] if self._has_spans else []
        found = read_rows(self.table.dataset, np.unique(rows), ["shard", self._column, *spans])
        middles = [0.0] * len(found)
        if spans:
            middles = [(a + b) / 2 for a, b in zip(*(found[name].to_pylist() for name in spans), strict=True)]
        of_row = dict(zip(row_ids(found).tolist(), zip(self._keys(found), middles, strict=True), strict=True))
        return [of_row[row] for row in rows.tolist()]

    def find(self, places: Sequence[tuple[Key, float]]) -> list[int | None]:
        """Return the row of each key, the passage in which the middle lies; None where there is no such row."""
        spans = ["start", "stop"] if self._has_spans else []
        asked = f"{self._column} IN ({sql_texts(sorted({name for (_, name), _ in places}))})"
        found = self.table.dataset.scanner(columns=["shard", self._column, *spans, ROW_ID], filter=asked).to_table()
        starts = found["start"].to_pylist() if spans else [0] * len(found)
        rows_of = dict[Key, list[tuple[int, int]]]()
        for key, start, row in zip(self._keys(found), starts, row_ids(found).tolist(), strict=True):
            rows_of.setdefault(key, []).append((start, row))
        return [_holding(sorted(rows_of.get(key, [])), middle) for key, middle in places]

    def answers(self, truth: GroundTruth) -> list[set[Key]]:
        """Return the keys of the nearest rows of each query, ties included."""
        answers = [
            np.concatenate([better, ties[: truth.k]]).astype(np.int64)
            for better, ties in zip(truth.better_Q, truth.ties_Q, strict=True)
        ]
        everything = np.unique(np.concatenate(answers)) if answers else np.empty(0, np.int64)
        of_row = dict(zip(everything.tolist(), self.places(everything), strict=True))
        return [{of_row[row][0] for row in rows.tolist()} for rows in answers]

    def _keys(self, rows: pa.Table) -> list[Key]:
        named = zip(rows["shard"].to_pylist(), rows[self._column].to_pylist(), strict=True)
        return [(self.names[shard], name) for shard, name in named]


def answer_overlap(before: Side, now: Side, queries: int, k: int) -> dict[str, float] | None:
    """Return the share of the k nearest samples that stayed, by the id of the row that asks.

    Rows of `before` ask. Only samples of shards that both sides hold count.

    Args:
        before: What is published.
        now: What is to be published.
        queries: Rows that ask.
        k: Nearest rows.

    Returns:
        None where there are too few rows to compare.
    """
    asked = sample_rows(before.table, queries, seed=int(before.table.dataset.version))
    places = before.places(asked.rows_Q)
    there = now.find(places)
    kept = [place for place, row in enumerate(there) if row is not None]
    truth_before = neighbours_of(before.table, asked, k)
    now_rows = np.array([there[place] for place in kept], np.int64)
    now_sample = read_sample(now.table, np.unique(now_rows))
    truth_now = neighbours_of(now.table, now_sample, k)
    if truth_before is None or truth_now is None or not kept:
        return None
    answers_before = before.answers(truth_before)
    answers_now = dict(zip(now_sample.rows_Q.tolist(), now.answers(truth_now), strict=True))
    held_before, held = set(before.names.values()), set(now.names.values())
    shares = dict[str, float]()
    for place, row in zip(kept, now_rows.tolist(), strict=True):
        itself = {places[place][0]} if before.by_document else set[Key]()
        old = {key for key in answers_before[place] - itself if key[0] in held}
        new = {key for key in answers_now[row] - itself if key[0] in held_before}
        most = min(len(old), len(new), k)
        shares[places[place][0][1]] = min(1.0, len(old & new) / most) if most else 1.0
    return shares


def _holding(rows: Sequence[tuple[int, int]], middle: float) -> int | None:
    """Return the last row that starts before a character."""
    return next((row for start, row in reversed(rows) if start <= middle), rows[0][1] if rows else None)
