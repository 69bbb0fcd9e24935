"""Build a funnel for a table, open it, search it, and explain a search.

Owns what a user sees. The first stages are in RAM (`memory`) or in the lake (`lake`); all homes return the true
full-width cosines.
Shapes: B queries, D full width.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import pyarrow as pa
from lance import LanceDataset

from pipelines.funnel.build import FunnelIndex, follow_table, open_index, store_funnel, tune
from pipelines.funnel.faiss_stages import Positions
from pipelines.funnel.goal import Goal
from pipelines.funnel.memory import MemoryIndex
from pipelines.funnel.plan import plan_for, plan_of_stages, read_tuned
from pipelines.funnel.proof import ProofIndex, Proven
from pipelines.funnel.rerank import Found
from pipelines.tables.grouping import best_of_each, concatenate_answers
from pipelines.tables.hits import QUERY, Hits
from pipelines.tables.nearest import warn_of_rows_left_out
from pipelines.tables.opening import Version
from pipelines.tables.queries import (
    Query,
    check_count,
    check_search,
    describe_query,
    read_queries,
    read_query,
    read_question,
)
from pipelines.tables.rows import using_filter
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats
from schemas.cards import TunedFunnel
from schemas.config import StorageConfig, check_choice, check_given
from schemas.errors import ConfigError, FunnelWarning, SpaceMismatch, TableError
from schemas.explanations import Explanation
from schemas.html import facts, grid, one_line
from schemas.plans import FUNNEL_KEY, FunnelStage, Home

# A card no longer speaks of a table that has grown by more than this factor: of 10 times the rows, ten times as many
# stand before a neighbour.
OUTGROWN = 2


class Funnel:
    """A table's tuned funnel; any number of threads may search it.

    Example:
        >>> table = VectorTable.open("lake/demo/glosses.lance")  # `make demo` has tuned a funnel for it
        >>> Funnel.homes(table), Funnel.stored(table, "memory").card
        >>> funnel = Funnel.open(table)
        >>> funnel.search("fear of closed spaces", k=3, where="category = 'noun.state'")
        >>> funnel.explain("fear of closed spaces"), funnel.prove("fear of closed spaces", k=3), funnel.refresh()
        >>> scores, rows = funnel.nearest(table.encode_query("a small boat")[None], k=3)
        >>> Funnel.build("lake/demo/news.lance", Goal(recall=0.8), home="codes")
    """

    def __init__(self, table: VectorTable, tuned: TunedFunnel, index: FunnelIndex, *, follow: bool = True) -> None:
        """Use `build` or `open`; `index` holds the plan's stages, at one version of the table."""
        self.table, self.plan, self.card = table, tuned.plan, tuned.card
        self._tuned, self._index, self._follow = tuned, index, follow
        self._checked_version, self._said = -1, set[str]()
        self._encoding = threading.Lock()
        self._proof: tuple[LanceDataset, Positions, ProofIndex] | None = None

    def __repr__(self) -> str:
        """Return one paragraph: the table, the home, the stages and the recall."""
        return one_line("Funnel", self._facts())

    def _repr_html_(self) -> str:
        stages = [[s.dims, s.precision, f"{s.keep:,}", s.bytes_per_vector] for s in self.plan.stages]
        shown = facts(f"Funnel of {self.table.name}", self._facts())
        return shown + grid("stages", ["dims", "precision", "keep", "bytes per vector"], stages)

    def _facts(self) -> dict[str, str]:
        best = self.card.best
        return {
            "table": f"{self.table.uri}, version {self._index.dataset.version}",
            "home": self.plan.home,
            "stages": " → ".join(f"{s.dims} dims {s.precision}, keep {s.keep:,}" for s in self.plan.stages),
            "recall": f"{best.recall:.4f} ({best.low:.4f} to {best.high:.4f}) at k={self.plan.k}",
            "measured at version": str(self.card.version),
        }

    @classmethod
    def build(
        cls,
        table: VectorTable | str | os.PathLike[str],
        goal: Goal = Goal(),
        *,
        home: Home = "memory",
        queries: Sequence[Query] | None = None,
        stages: Sequence[FunnelStage] | None = None,
        storage: StorageConfig = StorageConfig(),
    ) -> Funnel:
        """Tune a funnel for a table and store its plan and recall card with it; a FunnelWarning says if it is slow.

        Args:
            table: The table, or its address.
            goal: Recall, results per query, and what to minimise.
            home: "memory" keeps codes and full vectors in RAM; "codes" keeps only the codes in RAM and reads the full
                vectors of candidates from the table; "lake" keeps nothing in RAM.
            queries: Queries to tune on; default: rows of the table.
            stages: Your own stages, for example `funnel_retrieval(…).stages`. The tuner then measures their recall and
                chooses nothing. They are stored with the recall that they have, unless the goal names a recall.
            storage: S3 endpoint and region, if `table` is an address.

        Raises:
            ConfigError: There is no such home, or the stages do not fit the table.
            TableError: The table has too few rows, or was opened at a version; the lake has no prefix column to search;
                or the test queries do not confirm the goal's recall. Then nothing is stored.
        """
        check_choice(get_args(Home), home=home)
        check_given(Goal, goal=goal)
        table = table.refresh() if isinstance(table, VectorTable) else VectorTable.open(table, storage=storage)
        if table.is_pinned:
            raise TableError(
                f"{table.uri} was opened at version {table.dataset.version}, and a funnel is stored with the newest "
                "version; open the table without a version"
            )
        plan = None if stages is None else plan_of_stages(stages, home, table)
        goal = goal if plan is None else replace(goal, k=plan.k)
        asked = None if queries is None else np.stack([table.encode_query(one) for one in read_queries(queries)[0]])
        tuned = tune(table, goal, asked, plan, home)
        store_funnel(table, tuned)
        if tuned.slower:
            warnings.warn(tuned.slower, FunnelWarning, stacklevel=2)
        return cls.open(table, home=home)

    @classmethod
    def open(
        cls,
        table: VectorTable | str | os.PathLike[str],
        version: Version | None = None,
        *,
        home: Home = "memory",
        device: str | None = None,
        follow: bool = True,
        storage: StorageConfig = StorageConfig(),
    ) -> Funnel:
        """Open the funnel that a table stores.

        Args:
            table: The table, or its address.
            version: Of an address: a version number, a tag, a time, or `prod`. Such a funnel stays at its version, as
                does that of a table that was opened at one.
            home: Which of the table's funnels to open; see `build`.
            device: Torch device, such as "cuda", that holds and compares the stages in RAM; default: FAISS on the CPU.
            follow: Check for a newer version of the table before each search.
            storage: S3 endpoint and region, if `table` is an address.

        Raises:
            ConfigError: There is no such home or device, or the home is "lake" and a device is given.
            TableError: The table has no such funnel.
        """
        check_choice(get_args(Home), home=home)
        if home == "lake" and device is not None:
            raise ConfigError(
                f"device {device!r}: a funnel in the lake holds no vectors on a device; leave `device` out, or open "
                'home="memory" or home="codes"'
            )
        check_given(bool, follow=follow)
        table = table if isinstance(table, VectorTable) else VectorTable.open(table, version, storage)
        follow = follow and not table.is_pinned
        table = table.refresh() if follow else table
        tuned = cls.stored(table, home)
        return cls(table, tuned, open_index(table, tuned.plan, device), follow=follow)

    @staticmethod
    def homes(table: VectorTable) -> tuple[Home, ...]:
        """Return the homes that the table has a funnel for, the one with most in RAM first."""
        config = table.dataset.config()
        return tuple(home for home in get_args(Home) if FUNNEL_KEY + home in config)

    @staticmethod
    def stored(table: VectorTable, home: Home) -> TunedFunnel:
        """Return the plan and card that a table stores.

        Raises:
            TableError: It has none for that home.
        """
        if (written := table.dataset.config().get(FUNNEL_KEY + home)) is None:
            raise TableError(f"{table.uri} has no funnel in {home}; run: mlake funnel {table.uri} --home {home}")
        return read_tuned(written, home, table)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of RAM that a vector of the table takes."""
        return self._index.bytes_per_vector

    def refresh(self) -> None:
        """Load the latest version of the table, unless it was opened at one; SpaceMismatch if it was rotated since."""
        if not self.table.is_pinned:
            follow_table(self._index, self.table)

    def search(
        self,
        query: Query = None,
        k: int = 10,
        where: str | None = None,
        *,
        recall: float | None = None,
        columns: Iterable[str] | None = None,
        like: str | None = None,
        group_by: str | None = None,
        distinct: bool = False,
    ) -> Hits:
        """Return the k rows nearest to a query, or to each of several.

        For more rows than the recall card speaks of, every row is compared. This is said once, as a `FunnelWarning`; so
        is a table that has outgrown its card.

        Args:
            query: Words, an image or a vector (D,), or several of these, as for `VectorTable.search`.
            k: Rows per query.
            where: SQL over the table's columns, as for `VectorTable.search`.
            recall: Recall to reach instead of the plan's, if the card confirms one.
            columns: Columns to return beside `score`; default: `id` and the kept columns.
            like: Id of a row, in place of a query: the rows most like it, without itself.
            group_by: Column; of the rows with one value of it only the best is returned.
            distinct: Return rows whose vectors are equal once.

        Returns:
            Columns `id, <kept>, score`, best first; the score is the true full-width cosine, float32. Rows that tie are
            in the order of their ids, and any of those that tie with the k-th may be it. For several queries, a first
            column `query` holds the query's number.

        Raises:
            ConfigError: `recall` is not between 0 and 1, or the card confirms no setting that reaches it.
            SpaceMismatch: A query is not of the table's space.
            TableError: As for `VectorTable.search`.
        """
        if self._follow:
            self.refresh()
        table, dataset = self.table, self._index.dataset
        k, names = check_search(dataset, table.uri, k, where, columns, group_by, distinct=distinct)
        question = read_question(dataset, table.uri, query, like)
        with self._encoding:
            query_BD = np.stack([table.encode_query(one) for one in question.queries])
        wanted = table.result_columns if names is None else names

        def search_one(number: int, most: int, names: Sequence[str]) -> pa.Table:
            found = self._find(query_BD[number : number + 1], most, recall, where, is_row=question.skip is not None)
            return found.read(names, question.skip).slice(0, most).drop_columns(QUERY)

        with using_filter(dataset, where, table.uri):
            if group_by is None and not distinct and question.skip is None:
                rows = self._find(query_BD, k, recall, where).read(wanted)
            else:
                rows = concatenate_answers(
                    best_of_each(partial(search_one, number), k, wanted, group_by, distinct=distinct)
                    for number in range(len(query_BD))
                )
        return Hits(rows.drop_columns(QUERY) if question.is_one else rows, f"{table.name}: {question.title}")

    def nearest(self, query_BD: Floats, k: int = 10, *, recall: float | None = None) -> tuple[Floats, Positions]:
        """Return scores and row ids (B, k) of float32 unit rows, without encoding, columns or refresh.

        Raises:
            SpaceMismatch: The queries are not rows of the table's width.
            ConfigError: As for `search`.
            TableError: `k` is below 1.
        """
        k, width = check_count(self._index.dataset, k, least=1), self.table.space.ladder.width
        if not isinstance(query_BD, np.ndarray) or query_BD.ndim != 2 or query_BD.shape[1] != width:
            raise SpaceMismatch(f"pass queries as a numpy array of shape (B, {width}), or call `search`")
        found = self._find(query_BD.astype(np.float32, copy=False), k, recall)
        return found.scores_BK, found.rows_BK

    def prove(self, query: Query, k: int = 10) -> tuple[Hits, Proven]:
        """Return the exact k nearest rows, and the share of vectors that was read to be sure.

        The first call on each version of the table prepares the prefixes for the proof.

        Raises:
            TableError: The funnel's home is not "memory".
        """
        if not isinstance(self._index, MemoryIndex) or self.plan.home != "memory":
            raise TableError(f'a proof reads all prefixes from memory; open {self.table.uri} with home="memory"')
        if self._follow:
            self.refresh()
        k = check_count(self._index.dataset, k, least=1)
        asked = read_query(query)
        with self._encoding:
            query_D = self.table.encode_query(asked)
            if self._proof is None or self._proof[0].version != self._index.dataset.version:
                dataset, ids_N, x_ND = self._index.all_rows()
                self._proof = (dataset, ids_N, ProofIndex(x_ND))
            dataset, ids_N, index = self._proof
        proven = index.search(query_D, k)
        compared_B = np.array([round(dict(proven.touched)[self.plan.stages[-1].dims] * len(ids_N))])
        found = Found(proven.scores_K[None], ids_N[proven.positions_K][None], dataset, compared_B)
        rows = found.read(self.table.result_columns)
        title = f"{self.table.name}: {describe_query(query, [asked], is_one=True)}, proven"
        return Hits(rows.drop_columns(QUERY), title), proven

    def explain(self, query: Query, where: str | None = None) -> Explanation:
        """Search once and report what each stage read, kept and took.

        Raises:
            TableError: The filter cannot be used.
        """
        if self._follow:
            self.refresh()
        check_search(self._index.dataset, self.table.uri, self.plan.k, where, None)
        with self._encoding:
            query_D = self.table.encode_query(query)
        with using_filter(self._index.dataset, where, self.table.uri):
            return self._index.explain(query_D, where, self.card.exact_us_per_query)

    def _find(
        self, query_BD: Floats, k: int, recall: float | None, where: str | None = None, *, is_row: bool = False
    ) -> Found:
        """Search by the plan that the card confirms, or compare every row and say so; a row finds itself too."""
        plan, uri, home = plan_for(self._tuned, k, recall, self.table.uri), self.table.uri, self.plan.home
        asked = f" --recall {recall}" if recall is not None else ""
        if plan is None:
            self._warn_once(
                "exact",
                f"k={k}: the recall card of {uri} does not speak of so many results{asked and ' at that recall'}, so "
                f"every row is compared; to be faster, run: mlake funnel {uri} --home {home} --k {k}{asked}",
            )
        if self._index.dataset.version != self._checked_version:
            self._checked_version, rows = self._index.dataset.version, self._index.dataset.count_rows()
            if rows > OUTGROWN * self.card.rows_in_table:
                self._warn_once(
                    "outgrown",
                    f"{uri} has {rows:,} rows, and its recall card speaks of {self.card.rows_in_table:,} (version "
                    f"{self.card.version}): the recall may be lower now; run: mlake funnel {uri} --home {home}",
                )
        if is_row:
            k, plan = k + 1, plan and plan.with_one_more()
        found = self._index.find(query_BD, k, plan, where)
        if found.fewest < k:
            warn_of_rows_left_out(found.dataset, query_BD.shape[1], where, found.fewest)
        return found

    def _warn_once(self, about: str, text: str) -> None:
        if about not in self._said:
            self._said.add(about)
            warnings.warn(text, FunnelWarning, stacklevel=4)
