"""Funnel: build one for a table, open it, search it, ask it to explain itself.

Owns what a user sees. Stage 0 lives in RAM (`resident`) or in the lake (`lake`); both answer the same question, and
what comes back carries true full-width cosines from either. Shapes: B queries, D full width.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance import LanceDataset

from pipelines.funnel.chain import Floats, Positions, load_codebook, save_codebook
from pipelines.funnel.judge import Goal
from pipelines.funnel.lake import Found, LakeIndex, row_ids
from pipelines.funnel.plan import Explanation, Home, TunedFunnel
from pipelines.funnel.proof import ProofIndex, Proven
from pipelines.funnel.resident import ResidentIndex
from pipelines.funnel.tune import tune_memory
from pipelines.funnel.tune_lake import tune_lake
from pipelines.tables import VectorTable, to_numpy
from schemas.columns import VECTOR
from schemas.config import StorageConfig
from schemas.errors import ConfigError, TableError

Query = str | bytes | npt.NDArray[np.floating]
_CONFIG_KEY = "lake:funnel:"


class _Index(Protocol):
    @property
    def version(self) -> int: ...

    def find(self, query_BD: Floats, k: int, keep: int | None = None, where: str | None = None) -> Found: ...

    def refresh(self, dataset: LanceDataset) -> None: ...

    def explain(self, query_D: Floats, where: str | None, exact_us: float) -> Explanation: ...


class Funnel:
    """A table's tuned funnel. Safe to search from any number of threads.

    Example:
        >>> funnel = Funnel.build(VectorTable.open("lake/news.lance"), recall=0.99)  # doctest: +SKIP
        >>> funnel.search("football", k=3, where="shard > 7")  # doctest: +SKIP
    """

    def __init__(self, table: VectorTable, tuned: TunedFunnel, index: _Index, *, follow: bool = True) -> None:
        """Join a table, its plan and an index; use `build` or `open`."""
        self.table, self.plan, self.card = table, tuned.plan, tuned.card
        self._index, self._follow = index, follow
        self._encoding = threading.Lock()
        self._proof: tuple[LanceDataset, Positions, ProofIndex] | None = None

    @classmethod
    def build(
        cls,
        table: VectorTable | str,
        recall: float = 0.95,
        k: int = 10,
        *,
        resident: bool = True,
        queries: Sequence[Query] | None = None,
        goal: Goal | None = None,
    ) -> Funnel:
        """Tune a funnel for a table and store its plan and recall card with it.

        Args:
            table: The table, or its address.
            recall: What the lower end of the 95 % interval of recall@k must reach.
            k: Results per query.
            resident: Whether the first stage is in RAM or in the lake.
            queries: Queries to tune on; default are rows of the table.
            goal: Everything that can be said of the goal, instead of `recall` and `k`.

        Raises:
            TableError: The table has too few rows, or the lake has no prefix column to search.
        """
        table = VectorTable.open(table) if isinstance(table, str) else table.refresh()
        goal = goal or Goal(recall=recall, k=k)
        asked = None if queries is None else np.stack([table.encode_query(query) for query in queries])
        tuned = _tune_and_save(table, goal, asked) if resident else tune_lake(table.dataset, goal, asked)
        table.dataset.update_config({_CONFIG_KEY + tuned.plan.home: tuned.model_dump_json()})
        return cls.open(table, resident=resident)

    @classmethod
    def open(
        cls,
        table: VectorTable | str,
        *,
        resident: bool = True,
        follow: bool = True,
        storage: StorageConfig = StorageConfig(),
    ) -> Funnel:
        """Open the funnel that a table stores.

        Args:
            table: The table, or its address.
            resident: Whether to take the one in RAM or the one in the lake.
            follow: Whether each search looks for a newer version of the table first.
            storage: Where S3 is, if `table` is an address.

        Raises:
            TableError: The table has no such funnel.
        """
        table = VectorTable.open(table, storage=storage) if isinstance(table, str) else table
        tuned = cls.stored(table, "memory" if resident else "lake")
        index: _Index
        if resident:
            codebook = load_codebook(tuned.plan.codebook, table.uri, table.storage)
            index = ResidentIndex(table.dataset, tuned.plan, codebook)
        else:
            index = LakeIndex(table.dataset, tuned.plan)
        return cls(table, tuned, index, follow=follow)

    @staticmethod
    def homes(table: VectorTable) -> tuple[Home, ...]:
        """Return the homes that the table has a funnel for."""
        config = table.dataset.config()
        return tuple(home for home in get_args(Home) if _CONFIG_KEY + home in config)

    @staticmethod
    def stored(table: VectorTable, home: Home) -> TunedFunnel:
        """Return the plan and card that a table stores.

        Raises:
            TableError: It has none for that home.
        """
        written = table.dataset.config().get(_CONFIG_KEY + home)
        if written is None:
            raise TableError(
                f"{table.uri} has no funnel in {home}; run: python -m jobs funnel {table.uri} --home {home}"
            )
        return TunedFunnel.model_validate_json(written)

    def refresh(self) -> None:
        """See the table as it is now."""
        latest = self.table.dataset.latest_version
        if latest != self._index.version:
            self._index.refresh(self.table.refresh().dataset)

    def search(
        self,
        query: Query | Sequence[Query],
        k: int = 10,
        where: str | None = None,
        *,
        recall: float | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the k rows nearest to a query, or to each of several.

        Args:
            query: Words, the bytes of an image, a vector (D,), or several: a list of these or vectors (B, D).
            k: Rows wanted per query.
            where: SQL over the table's columns; only rows that satisfy it are searched.
            recall: Recall to aim for instead of the plan's, where the card has it.
            columns: Columns to return beside `score`; default `id` and the kept ones.

        Returns:
            Columns `id, <kept>, score`: true full-width cosine, float32, best first, ties by id; for several queries
            a first column `query` says which.

        Raises:
            ConfigError: The card knows no setting that reaches `recall`.
            SpaceMismatch: A query is not of the table's space.
        """
        if self._follow:
            self.refresh()
        is_one = isinstance(query, (str, bytes)) or (isinstance(query, np.ndarray) and query.ndim == 1)
        queries = [cast(Query, query)] if is_one else list(cast("Sequence[Query]", query))
        with self._encoding:
            query_BD = np.stack([self.table.encode_query(q) for q in queries])
        found = self._index.find(query_BD, k, self._keep(recall), where)
        wanted = list(columns) if columns is not None else ["id", *self.table.kept.names]
        result = _fetch(found, wanted)
        return result.drop_columns("query") if is_one else result

    def nearest(self, query_BD: Floats, k: int = 10, *, recall: float | None = None) -> tuple[Floats, Positions]:
        """Return scores and row ids (B, k) for unit rows of the table's space: no encoding, no columns, no refresh."""
        found = self._index.find(query_BD, k, self._keep(recall))
        return found.scores_BK, found.rows_BK

    def prove(self, query: Query, k: int = 10) -> tuple[pa.Table, Proven]:
        """Return the exact k nearest rows, with the share of vectors that had to be read to be sure.

        The prefixes that make the proof are prepared at the first call on each version of the table.

        Raises:
            TableError: The funnel is not in memory.
        """
        if not isinstance(self._index, ResidentIndex):
            raise TableError(f"the proof reads every prefix from memory; open {self.table.uri} with resident=True")
        if self._follow:
            self.refresh()
        with self._encoding:
            query_D = self.table.encode_query(query)
            if self._proof is None or self._proof[0].version != self._index.version:
                dataset, ids_N, x_ND = self._index.everything()
                self._proof = (dataset, ids_N, ProofIndex(x_ND))
            dataset, ids_N, index = self._proof
        proven = index.search(query_D, k)
        found = Found(proven.scores_K[None], ids_N[proven.positions_K][None], dataset)
        rows = _fetch(found, ["id", *self.table.kept.names])
        return rows.drop_columns("query"), proven

    def explain(self, query: Query, where: str | None = None) -> Explanation:
        """Search once, stage by stage, and say what each read and took."""
        if self._follow:
            self.refresh()
        with self._encoding:
            query_D = self.table.encode_query(query)
        return self._index.explain(query_D, where, self.card.exact_us_per_query)

    def _keep(self, recall: float | None) -> int | None:
        if recall is None:
            return None
        best = self.card.best
        same = [
            row
            for row in self.card.rows
            if (row.dims, row.precision, row.probes, row.bytes_per_vector)
            == (best.dims, best.precision, best.probes, best.bytes_per_vector)
        ]
        reaching = [row.keep for row in same if row.low >= recall]
        if not reaching:
            most = max(row.low for row in same)
            raise ConfigError(
                f"recall={recall}: the card of {self.table.uri} vouches for {most:.4f} at most; "
                f"run: python -m jobs funnel {self.table.uri} --recall {recall}"
            )
        return min(reaching)


def _tune_and_save(table: VectorTable, goal: Goal, query_QD: Floats | None) -> TunedFunnel:
    blocks = [to_numpy(batch[VECTOR]) for batch in table.dataset.scanner(columns=[VECTOR]).to_batches()]
    x_ND = np.concatenate(blocks) if blocks else np.empty((0, table.space.ladder.width), np.float16)
    tuned, empty = tune_memory(x_ND, table.space.ladder.dims, goal, table.dataset.version, query_QD)
    name = save_codebook(empty, table.uri, table.storage)
    return tuned.model_copy(update={"plan": tuned.plan.model_copy(update={"codebook": name})})


def _fetch(found: Found, wanted: list[str]) -> pa.Table:
    """Read the columns of found rows: `query, <wanted>, score`, by query, best first, ties by id."""
    query_F, place_F = np.nonzero(found.rows_BK >= 0)
    rows_F = found.rows_BK[query_F, place_F]
    names = list(dict.fromkeys(["id", *wanted]))
    listed = ", ".join(map(str, np.unique(rows_F))) or "NULL"
    read = found.dataset.scanner(columns=[*names, "_rowid"], filter=f"_rowid IN ({listed})").to_table()
    order = np.argsort(row_ids(read))
    rows = read.select(names).take(order[np.searchsorted(row_ids(read), rows_F, sorter=order)])
    rows = rows.append_column("score", pa.array(found.scores_BK[query_F, place_F], pa.float32()))
    rows = rows.add_column(0, "query", pa.array(query_F, pa.int64()))
    rows = rows.sort_by([("query", "ascending"), ("score", "descending"), ("id", "ascending")])
    return rows.select(["query", *wanted, "score"])
