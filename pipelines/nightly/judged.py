"""Ask two versions the queries that a person has judged, and compare their answers by nDCG, query by query.

Shapes: Q queries, D full width, K neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.evaluation.datasets import read_judged_queries
from pipelines.evaluation.metrics import ndcg
from pipelines.nightly.measures import values_of
from pipelines.shortlist.bootstrap import Interval, intervals
from pipelines.shortlist.exact import ExactSearch
from pipelines.tables.erased import has_passages
from pipelines.tables.rows import ROW_ID, row_ids, scan_vectors, sql_texts
from pipelines.tables.table import VectorTable
from schemas.column_names import DOCUMENT
from schemas.errors import TableError

K = 10
_PASSAGES_A_DOCUMENT = 8  # so many times K passages are looked at for K documents
_NAMES_AT_ONCE = 10_000


@dataclass(frozen=True, eq=False)
class Judged:
    """Queries in words, each with the rows or documents that answer it.

    Attributes:
        texts: The queries, by id.
        gains: Query id to id of a row or document to its gain, above 0.
    """

    texts: Mapping[str, str]
    gains: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, eq=False)
class Change:
    """The nDCG@10 of two versions; of the new one alone where nothing is published.

    Attributes:
        now: Mean of the version that is to be published, with its interval.
        before: Mean of the published version.
        change: Mean of the differences, query by query.
        worst: The queries that lost most, in words, the worst first.
    """

    now: Interval
    before: Interval | None = None
    change: Interval | None = None
    worst: tuple[str, ...] = ()


def read_judged(folder: Path, most: int) -> Judged:
    """Read judged queries; where there are more than wanted, take them evenly spread.

    Raises:
        ShardNotFound: A file is missing.
        InputError: A file is malformed.
    """
    texts, gains = read_judged_queries(folder)
    names, count = list(texts), min(most, len(texts))
    chosen = [names[place * len(names) // count] for place in range(count)]
    return Judged({name: texts[name] for name in chosen}, gains)


def compare_judged(before: VectorTable | None, now: VectorTable, judged: Judged, examples: int) -> Change:
    """Compare the exact answers of two versions.

    Args:
        before: What is published; None where nothing is.
        now: What is to be published.
        judged: The queries.
        examples: Queries to name.

    Raises:
        TableError: The new version has no row that any judgement names.
        EncoderNotTrusted: A version was made by local files or code that nobody names.
    """
    _check_named(now, judged)
    now_Q = _scores(now, judged)
    if before is None:
        return Change(intervals(now_Q[None])[0])
    was_Q = _scores(before, judged)
    change_Q, texts = now_Q - was_Q, list(judged.texts.values())
    was, is_now, change = intervals(np.stack([was_Q, now_Q, change_Q]))
    worst = [int(place) for place in np.argsort(change_Q, kind="stable")[:examples] if change_Q[place] < 0]
    said = (f"{texts[q]!r} (nDCG@{K} {was_Q[q]:.2f} to {now_Q[q]:.2f})" for q in worst)
    return Change(is_now, was, change, tuple(said))


def _check_named(table: VectorTable, judged: Judged) -> None:
    """Refuse judgements of which no row is in a table: all answers would be equally wrong."""
    column = _column(table)
    names = iter(sorted({name for query in judged.texts for name in judged.gains[query]}))
    while some := list(islice(names, _NAMES_AT_ONCE)):
        if table.dataset.count_rows(f"{column} IN ({sql_texts(some)})"):
            return
    first = table.dataset.scanner(columns=[column], limit=1).to_table()[column].to_pylist()
    raise TableError(
        f"audit.judged: no {column} that its judgements name is in {table.uri}, whose ids are like {first}; name the "
        "rows in qrels as the table does (`mlake search` prints the ids)"
    )


def _scores(table: VectorTable, judged: Judged) -> npt.NDArray[np.float64]:
    """Return the nDCG@10 of each query."""
    asked_QD = np.stack([table.encode_query(text) for text in judged.texts.values()])
    ideal_QK, gains_QK = (np.zeros((len(asked_QD), K)) for _ in range(2))
    for place, (query, names) in enumerate(zip(judged.texts, _answers(table, asked_QD), strict=True)):
        gains = judged.gains[query]
        best = sorted(gains.values(), reverse=True)[:K]
        ideal_QK[place, : len(best)] = best
        others = [name for name in names if name != query][:K]  # a query may be a row itself
        gains_QK[place, : len(others)] = [gains.get(name, 0) for name in others]
    return ndcg(gains_QK, ideal_QK, K)


def _answers(table: VectorTable, asked_QD: npt.NDArray[np.float32]) -> Sequence[list[str]]:
    """Return the ids of the nearest rows of each query, or of their documents, best first."""
    width, column = table.space.ladder.width, _column(table)
    most = (K + 1) * (_PASSAGES_A_DOCUMENT if column == DOCUMENT else 1)
    search = ExactSearch(asked_QD, (width,), most)
    for batch, x_BD in scan_vectors(table.dataset, [ROW_ID]):
        search.add(pa.array(row_ids(batch)), x_BD.copy())  # torch warns of arrays that it could not write to
    rows_QK = search.best[width].ids.fill_null(-1).to_numpy().reshape(len(asked_QD), most)
    found = np.unique(rows_QK[rows_QK >= 0])
    names = dict(zip(found.tolist(), values_of(table, found, column), strict=True))
    return [list(dict.fromkeys(names[row] for row in rows_K.tolist() if row >= 0)) for rows_K in rows_QK]


def _column(table: VectorTable) -> str:
    return DOCUMENT if has_passages(table) else "id"
