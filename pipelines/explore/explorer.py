"""Everything that the page asks of one table, as plain values for JSON.

Owns what the page shows. Owns no HTTP (`server`), and no markup (`static/`).
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.encoders import encoder_spec
from pipelines.explore.slider_search import Answer, Mask, SliderSearch
from pipelines.funnel import Funnel
from pipelines.funnel.ground_truth import GroundTruth
from pipelines.tables.ledger import count_rejects, rejects_of
from pipelines.tables.pictures import LOOKED_AT, Pictures
from pipelines.tables.rows import ROW_ID, check_filter, places_of, read_rows, row_ids
from pipelines.tables.runs import read_journal
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats, RowIds
from schemas.errors import EncoderNotFound, InputError, LakeError, TableNotFound

MAX_K, MAX_CANDIDATES = 200, 100_000
_MAX_QUERIES, _MAX_MASKS, _MAX_TRUTHS = 256, 8, 256
_MAX_TEXT, _MAX_REJECTS, _MAX_RUNS = 2_000, 500, 200


class Explorer:
    """One table, open at one version, for any number of threads.

    Attributes:
        table: The table.
        pictures: Its pictures.
        search: Its vectors in memory.
    """

    def __init__(self, table: VectorTable, *, max_bytes: int, images: str | None = None) -> None:
        """Read the vectors.

        Args:
            table: The table.
            max_bytes: Memory for vectors; see `SliderSearch`.
            images: Folder of pictures that text columns may name; see `Pictures`.

        Raises:
            InputError: The table has no rows, or there is no such folder.
        """
        if not table.dataset.count_rows():
            raise InputError(f"{table.uri} has no rows yet; embed some: mlake embed CONFIG")
        self.table, self.pictures = table, Pictures(images)
        self._picture_column = self.pictures.column_of(table.head(LOOKED_AT).to_arrow())
        self.search = SliderSearch(table, max_bytes)
        self._columns = [name for name in table.result_columns if name != self._picture_column]
        self._encoding, self._caching = threading.Lock(), threading.Lock()
        self._queries: OrderedDict[str, Floats] = OrderedDict()
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self._truths: OrderedDict[tuple[str, str, int], GroundTruth | None] = OrderedDict()

    def describe(self) -> dict[str, Any]:
        """Say what the table is, and the bounds of the sliders."""
        table, space = self.table, self.table.space
        return {
            "uri": table.uri,
            "name": table.uri.rstrip("/").rpartition("/")[2],
            "version": table.dataset.version,
            "rows": self.search.rows_in_table,
            "rows_in_memory": self.search.rows,
            "encoder": space.encoder_name,
            "takes_questions": _takes_questions(space.encoder),
            "rotated": space.rotation is not None,
            "dims": list(self.search.dims),
            "prefix_columns": list(table.prefix_dims),
            "columns": self._columns,
            "has_pictures": self._picture_column is not None,
            "max_candidates": min(self.search.rows, MAX_CANDIDATES),
            "funnels": [self._funnel(home) for home in Funnel.homes(table)],
        }

    def ask(self, query: str | bytes) -> str:
        """Encode words or a picture, and return the name under which `hits` finds them.

        Raises:
            LakeError: The table's encoder cannot take such a query.
        """
        with self._encoding:
            vector_D = self.table.encode_query(query)
        return self._keep_query(vector_D)

    def like(self, row: int) -> str:
        """Take a row of the table as the query.

        Raises:
            InputError: There is no such row in memory.
        """
        vector_D = self.search.vector(row)
        if vector_D is None:
            raise InputError(f"row {row} is not in memory: this page holds {self.search.rows:,} rows of the table")
        return self._keep_query(self.table.encode_query(vector_D))

    def rows(self, *, k: int, where: str = "") -> list[dict[str, Any]]:
        """Return the first rows in memory, to look at and to ask with before any question.

        Raises:
            InputError: `k` is out of bounds, or the filter cannot be used.
        """
        self._check_k(k)
        rows_K = self.search.first(k, self._mask(where.strip()))
        return [
            {"row": row, "columns": columns} for row, columns in zip(rows_K.tolist(), self._read(rows_K), strict=True)
        ]

    def hits(self, token: str, *, dim: int, candidates: int, k: int, where: str = "") -> dict[str, Any]:
        """Return the rows found, with their columns, and what the search took.

        Raises:
            InputError: The query is not known here, for example after a restart.
            LakeError: `dim` is not in the ladder, or the filter cannot be used.
        """
        answer = self._find(token, dim, candidates, k, where)
        found = zip(answer.rows_K, answer.scores_K, answer.is_right_K, self._read(answer.rows_K), strict=True)
        shown = [
            {"row": int(row), "score": float(score), "is_right": bool(is_right), "columns": columns}
            for row, score, is_right, columns in found
        ]
        return {"hits": shown, "recall": answer.recall, "milliseconds": answer.milliseconds, "bytes": answer.bytes_read}

    def sweep(self, token: str, *, candidates: int, k: int, where: str = "") -> list[dict[str, float]]:
        """Return recall and bytes of the query at every dim of the ladder, with and without candidates to rank."""
        points = []
        for dim in self.search.dims:
            answer, alone = (self._find(token, dim, number, k, where) for number in (candidates, k))
            points.append({"dim": dim, "recall": answer.recall, "alone": alone.recall, "bytes": answer.bytes_read})
        return points

    def thumbnail(self, row: int) -> bytes | None:
        """Return a small PNG of a row's picture; None if it has none that can be shown."""
        if self._picture_column is None:
            return None
        found = read_rows(self.table.dataset, np.array([row]), [self._picture_column])
        return self.pictures.thumbnail(found[self._picture_column][0].as_py()) if found.num_rows else None

    def rejects(self) -> dict[str, Any]:
        """Count the rejects by reason, and list the first ones."""
        try:
            rejects = rejects_of(self.table)
        except TableNotFound:
            return {"total": 0, "reasons": [], "first": []}
        first = rejects.sort_by([("uri", "ascending"), ("position", "ascending")]).slice(0, _MAX_REJECTS)
        return {
            "total": rejects.num_rows,
            "reasons": [[reason, count] for reason, count in count_rejects(rejects).items()],
            "first": first.select(["uri", "position", "key", "reason", "message"]).to_pylist(),
        }

    def history(self) -> list[dict[str, Any]]:
        """Return the runs of the journal, the newest first."""
        try:
            journal = read_journal(self.table)
        except TableNotFound:
            return []
        return [
            {
                "run": entry.run,
                "job": entry.job,
                "state": entry.state,
                "started_at": entry.started_at.isoformat(timespec="seconds"),
                "summary": {name: value for name, value in entry.summary.items() if _is_short(value)},
            }
            for entry in reversed(journal[-_MAX_RUNS:])
        ]

    def _find(self, token: str, dim: int, candidates: int, k: int, where: str) -> Answer:
        query_D, where = self._query(token), where.strip()
        dim = self.table.space.ladder.check(dim, self.table.uri)
        if not 1 <= candidates <= MAX_CANDIDATES:
            raise InputError(f"allowed: candidates from 1 to {MAX_CANDIDATES:,}")
        self._check_k(k)
        mask_N = self._mask(where)
        with self._caching:
            key = (token, where, k)
            if key not in self._truths:
                _put(self._truths, key, self.search.exact(query_D, k, mask_N), _MAX_TRUTHS)
            truth = self._truths[key]
        return self.search.find(query_D, dim, candidates, truth, mask_N)

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= MAX_K:
            raise InputError(f"allowed: k from 1 to {MAX_K}")

    def _read(self, rows_K: RowIds) -> list[dict[str, Any]]:
        """Return the columns that the page shows of some rows, in their order."""
        found = read_rows(self.table.dataset, rows_K, self._columns)
        rows = found.take(places_of(found, rows_K)).select(self._columns).to_pylist()
        return [{name: _plain(value) for name, value in columns.items()} for columns in rows]

    def _query(self, token: str) -> Floats:
        with self._caching:
            if token not in self._queries:
                raise InputError("the server no longer knows this question; ask it again")
            self._queries.move_to_end(token)
            return self._queries[token]

    def _keep_query(self, vector_D: Floats) -> str:
        token = secrets.token_urlsafe(12)
        with self._caching:
            _put(self._queries, token, vector_D, _MAX_QUERIES)
        return token

    def _mask(self, where: str) -> Mask | None:
        if not where:
            return None
        with self._caching:
            if where not in self._masks:
                check_filter(self.table.dataset, where, self.table.uri)
                matching = self.table.dataset.scanner(columns=[ROW_ID], filter=where).to_table()
                _put(self._masks, where, self.search.mask(row_ids(matching)), _MAX_MASKS)
            return self._masks[where]

    def _funnel(self, home: Any) -> dict[str, Any]:
        try:
            tuned = Funnel.stored(self.table, home)
        except LakeError as error:
            return {"home": home, "problem": str(error)}
        stages = [f"{stage.dims} dims, {stage.precision}, keep {stage.keep:,}" for stage in tuned.plan.stages]
        return {"home": home, "stages": stages, "recall": tuned.plan.recall, "k": tuned.plan.k}


def _takes_questions(encoder: str) -> bool:
    """Return whether words or pictures may be asked with; an unknown encoder says itself why not."""
    try:
        return encoder_spec(encoder).family != "precomputed"
    except EncoderNotFound:
        return True


def _put(cache: OrderedDict[Any, Any], key: object, value: object, most: int) -> None:
    cache[key] = value
    while len(cache) > most:
        cache.popitem(last=False)


def _plain(value: object) -> str | int | float | bool | None:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and np.isfinite(value)):
        return value
    text = str(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


def _is_short(value: object) -> bool:
    return isinstance(value, (bool, int, float, str)) or (isinstance(value, Mapping) and not value)
