"""Search several tables of the same samples at once, such as pictures and their captions, joined by id.

    rank     1 / (60 + rank) of a row in each table, added up (reciprocal rank fusion); for any tables; equal cosines,
             as of one caption under many pictures, have one rank
    score    its cosine in each table, added up; for tables of one space, such as both sides of a joint model

Owns how the answers of tables become one. Owns no search of one table.

Source: reciprocal rank fusion: Cormack et al. 2009 (SIGIR). Where to stop when scores are added: the threshold
algorithm of Fagin et al. 2003.

Shapes: M dims compared, N ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.tables.grouping import concatenate_answers
from pipelines.tables.hits import QUERY, Hits
from pipelines.tables.nearest import nearest_rows
from pipelines.tables.queries import Query, Question, check_search, read_question
from pipelines.tables.rows import sql_texts, using_filter
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats, to_numpy
from pipelines.vectors.matryoshka import cut, have_direction, prefix
from schemas.columns import VECTOR
from schemas.config import check_given
from schemas.errors import InputError, SpaceMismatch, TableError, nearest

Fuse = Literal["rank", "score"]
_SMOOTHING = 60
_DEPTH, _WIDER = 100, 4
_TIE = 1e-6  # the same vector may have cosines that differ by so much, since sums of float32 depend on their order


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Cosines by id, best first, and whether there are no more rows."""

    cosines: dict[str, float]
    is_all: bool

    @property
    def last(self) -> float:
        return 0.0 if self.is_all else min(self.cosines.values())


@dataclass(frozen=True, eq=False)
class _Asked:
    """One query, as it is asked of one table: its unit vector (M,), and the row that is not returned."""

    table: VectorTable
    query_M: Floats
    skip: int | None
    where: str | None
    weight: float

    def ranked(self, k: int) -> _Ranked:
        """Return the ids of the k nearest rows, best first; of rows of one id the best."""
        table, k = self.table, min(k, len(self.table) + 1)
        width, where = table.space.ladder.width, self.where
        rows = nearest_rows(table.dataset, width, self.query_M, k, ["id"], where=where, skip=self.skip)
        found = dict[str, float]()
        for name, score in zip(rows["id"].to_pylist(), rows["score"].to_pylist(), strict=True):
            found.setdefault(name, score)
        return _Ranked(found, is_all=rows.num_rows < k)

    def ranks(self, k: int) -> dict[str, int]:
        """Return the ranks of the k nearest ids and of those as near as the last; ties have the rank of their first."""
        depth = k
        while True:
            depth = depth * _WIDER if depth > k else k + 1
            found = self.ranked(depth)
            scores = list(found.cosines.values())
            if found.is_all or (len(scores) > k and scores[-1] < scores[k - 1] - _TIE):
                break
        ranks, first = dict[str, int](), 0
        for place, (name, score) in enumerate(found.cosines.items()):
            first = first if score >= scores[first] - _TIE else place
            if first >= k:
                break
            ranks[name] = first + 1
        return ranks

    def cosines(self, ids: Iterable[str]) -> dict[str, float]:
        """Return the cosine of each id that the table has, in float32; of rows of one id the largest."""
        named = f"id IN ({sql_texts(ids)})"
        wanted = named if self.where is None else f"({self.where}\n) AND {named}"
        rows = self.table.dataset.to_table(columns=["id", VECTOR], filter=wanted)
        x_ND = to_numpy(rows[VECTOR])
        is_good_N = have_direction(prefix(x_ND, len(self.query_M)))
        scores_N = np.einsum("nm,m->n", cut(x_ND[is_good_N].astype(np.float32), len(self.query_M)), self.query_M)
        found = dict[str, float]()
        for name, score in zip(rows["id"].filter(pa.array(is_good_N)).to_pylist(), scores_N.tolist(), strict=True):
            found[name] = max(score, found.get(name, -1.0))
        return found


def search_together(
    tables: Sequence[VectorTable],
    query: Query = None,
    k: int = 10,
    dim: int | None = None,
    where: str | None = None,
    columns: Iterable[str] | None = None,
    *,
    like: str | None = None,
    fuse: Fuse = "rank",
    weights: Sequence[float] | None = None,
) -> Hits:
    """Search several tables whose rows are the same samples, by id, and return each sample once.

    Args:
        tables: Two or more, such as that of pictures and that of their captions. Each encodes the query by itself.
        query: As for `VectorTable.search`.
        k: Samples wanted per query.
        dim: A rung of every table's ladder; None is the full width of each.
        where: SQL over columns that every table has; only rows that satisfy it are searched.
        columns: Columns to return, each of the first table that has it; default `id` and the kept ones of all.
        like: Id of a sample, in place of a query: those most like it in all tables, without itself.
        fuse: `rank` adds 1 / (60 + rank) over the first 100 rows, or 4 k, of each table; equal cosines have one rank.
            `score` adds cosines, and is exact, unless a prefix column with an index is searched; all tables must then
            be of one space. A sample that a table lacks gets nothing there.
        weights: Factor of each table; None is 1 for all.

    Returns:
        Columns `id, <kept>, score`, best first, ties by id, and `score_0`, `score_1`, …: its cosine in each table, null
        where that has no such row. For several queries, a first column `query` holds the query's number.

    Raises:
        SpaceMismatch: `fuse` is `score`, and the spaces differ; or a table cannot take the query.
        InputError: There are not two tables, `fuse` or a weight is none of those allowed, or as `VectorTable.search`.
        TableError: As `VectorTable.search`.

    Example:
        >>> words = VectorTable.open("lake/demo/glosses.lance")
        >>> search_together([words, words], "fear of closed spaces", k=3, fuse="score", weights=[1, 0.5])
    """
    checked, weighed = _check_tables(tables, fuse, weights)
    query = list(query) if isinstance(query, Iterator) else query
    questions = list[Question]()
    for table in checked:
        check_search(table.dataset, table.uri, k, where, None)
        questions.append(read_question(table.dataset, table.uri, query, like))
    names = _result_columns(checked, columns)
    answers = list[pa.Table]()
    for number in range(len(questions[0].queries)):
        asked = [
            _Asked(table, table._query_prefix(question.queries[number], dim), question.skip, where, weight)
            for table, question, weight in zip(checked, questions, weighed, strict=True)
        ]
        with using_filter(checked[0].dataset, where, checked[0].uri):
            scores = _by_score(asked, k, like) if fuse == "score" else _by_rank(asked, k, like)
            answers.append(_rows(asked, scores, names))
    rows = concatenate_answers(answers)
    title = f"{' and '.join(table.name for table in checked)}: {questions[0].title}"
    return Hits(rows.drop_columns(QUERY) if questions[0].is_one else rows, title)


def _by_rank(asked: Sequence[_Asked], k: int, like: str | None) -> list[tuple[str, float]]:
    total = dict[str, float]()
    for one in asked:
        for name, rank in one.ranks(max(_DEPTH, _WIDER * k)).items():
            total[name] = total.get(name, 0.0) + one.weight / (_SMOOTHING + rank)
    return _best(total, k, like)


def _by_score(asked: Sequence[_Asked], k: int, like: str | None) -> list[tuple[str, float]]:
    """Add cosines; look at more rows of each table until no other row can be among the k best."""
    depth = max(_DEPTH, _WIDER * k)
    while True:
        lists = [one.ranked(depth) for one in asked]
        ids = dict.fromkeys(name for found in lists for name in found.cosines)
        total = dict.fromkeys(ids, 0.0)
        for one in asked:
            for name, score in one.cosines(ids).items():
                total[name] += one.weight * score
        best = _best(total, k, like)
        # A row that no list holds has at most the last cosine of each, or nothing where a table lacks it.
        most = sum(one.weight * max(0.0, found.last) for one, found in zip(asked, lists, strict=True))
        if all(found.is_all for found in lists) or (len(best) == k and best[-1][1] > most):
            return best
        depth *= _WIDER


def _best(total: Mapping[str, float], k: int, like: str | None) -> list[tuple[str, float]]:
    others = ((name, score) for name, score in total.items() if name != like)
    return sorted(others, key=lambda each: (-each[1], each[0]))[:k]


def _rows(asked: Sequence[_Asked], scores: Sequence[tuple[str, float]], names: Sequence[str]) -> pa.Table:
    """Return the columns of the found samples, each from the first table that has it."""
    ids = [name for name, _ in scores]
    listed, wanted = pa.array(ids, pa.string()), f"id IN ({sql_texts(ids)})"
    made: dict[str, pa.Array] = {"id": listed}
    for one in asked:
        own = [name for name in names if name != "id" and name in one.table.schema.names]
        rows = one.table.dataset.to_table(columns=["id", *own], filter=wanted)
        places = pc.index_in(listed, rows["id"].combine_chunks())
        for name in own:
            values = rows[name].combine_chunks().take(places)
            made[name] = _filled(made[name], values) if name in made else values
    found = {name: made[name] for name in names}
    found["score"] = pa.array([score for _, score in scores], pa.float64())
    for number, one in enumerate(asked):
        cosines = one.cosines(ids)
        found[f"score_{number}"] = pa.array([cosines.get(name) for name in ids], pa.float32())
    return pa.table(found)


def _filled(known: pa.Array, values: pa.Array) -> pa.Array:
    """Return values, with those of a later table where they are null, if the tables hold values of one type."""
    is_alike = known.type == values.type and not pa.types.is_nested(known.type)
    return pc.coalesce(known, values) if known.null_count and is_alike else known


def _result_columns(tables: Sequence[VectorTable], columns: Iterable[str] | None) -> list[str]:
    made = {"score", QUERY, *(f"score_{number}" for number in range(len(tables)))}
    if columns is None:
        return [name for name in dict.fromkeys(n for table in tables for n in table.result_columns) if name not in made]
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise TableError(f"columns={columns!r}: pass a list of names, such as columns=['id']")
    names, known = list(dict.fromkeys(columns)), {n for table in tables for n in table.schema.names} - made
    if unknown := [name for name in names if name not in known]:
        raise TableError(f"no table has a column {unknown[0]!r}{nearest(str(unknown[0]), known)}")
    return names


def _check_tables(tables: object, fuse: object, weights: object) -> tuple[list[VectorTable], npt.NDArray[np.float64]]:
    """Refuse what cannot be searched together."""
    if isinstance(tables, VectorTable) or not isinstance(tables, Iterable) or len(listed := list(tables)) < 2:
        raise InputError("search_together takes two tables or more, as in [pictures, captions]; one has `search`")
    for table in listed:
        check_given(VectorTable, tables=table)
    if fuse not in ("rank", "score"):
        raise InputError(f"fuse={fuse!r}: pass 'rank', for any tables, or 'score', for tables of one space")
    first, others = listed[0], listed[1:]
    if fuse == "score" and (foreign := [one for one in others if not first.space.is_comparable(one.space)]):
        raise SpaceMismatch(
            f"{first.uri} and {foreign[0].uri} are of the spaces {first.space.encoder_name} {first.space.fingerprint} "
            f"and {foreign[0].space.encoder_name} {foreign[0].space.fingerprint}, whose cosines cannot be added; pass "
            "fuse='rank', or embed both with one encoder of image+text"
        )
    given = [1.0] * len(listed) if weights is None else weights
    if (
        not isinstance(given, Iterable)
        or len(values := list(given)) != len(listed)
        or not all(type(one) in (int, float) and 0 < one < 1e6 for one in values)
    ):
        raise InputError(f"weights={weights!r}: pass a number above 0 for each of the {len(listed)} tables")
    return listed, np.array(values, np.float64)
