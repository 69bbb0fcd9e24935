"""Funnels as a table stores them: the plan, and the recall card that says what it finds and costs.

Owns the records, their checks, and how a card shows itself. Owns no vectors, no index and no table. A plan and its card
are JSON in the table's config, so they are versioned with the rows that they were measured on. Format 2 adds the
depths, and says which queries each row was measured on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from schemas.html import ShownAsHtml, grid
from schemas.plans import MOST_ROWS, Plan, Precision, Reach, Record
from schemas.stored import Format, Stored

_SPLITS = {"validation": "chose", "test": "confirm", None: ""}


class CardRow(Record):
    """Recall and cost of one setting.

    Attributes:
        dims: Prefix width of the first stage.
        precision: Its precision.
        keep: Candidates of the last stage.
        probes: Partitions searched; 0 is all.
        margin: Candidates with a cosine more than this below the k-th best are dropped; None drops none.
        looked_at: Mean number of full vectors that a search compares.
        recall: Share of the exact top k among the results, over the held-out queries.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
        us_per_query: Microseconds per query, one query at a time; None if not timed.
        us_per_query_batched: Microseconds per query, many in one call; None if not timed.
        bytes_per_vector: Bytes of one vector in RAM; in the lake, over all columns that are read.
        split: Queries that the recall was measured on: those that chose the plan (`validation`) or those that confirm
            it (`test`); None: the first release did not write it.
    """

    dims: int
    precision: Precision
    keep: int
    probes: int
    margin: float | None = None
    looked_at: float
    recall: float
    low: float
    high: float
    us_per_query: float | None
    us_per_query_batched: float | None
    bytes_per_vector: int
    split: Literal["validation", "test"] | None = None


class DepthRow(Record):
    """What the plan needs for more results than it was tuned for.

    Attributes:
        k: Results per query.
        keeps: Candidates of each stage but the last.
        probes: Partitions searched; 0 is all.
        reach: As in the plan, for this k.
        doubt: As in the plan, for this k.
        recall: Recall at this k on test queries.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
        queries: Number of these queries.
    """

    k: int = Field(ge=1)
    keeps: tuple[Annotated[int, Field(ge=1, le=MOST_ROWS)], ...] = Field(min_length=1)
    probes: int = Field(ge=0, le=MOST_ROWS)
    reach: Reach | None = None
    doubt: float | None = Field(None, ge=0)
    recall: float
    low: float
    high: float
    queries: int


class RecallCard(Record):
    """Recall and cost of plans against the exact search, of one version of a table.

    The rows of the chosen plan are measured on the test queries, which confirm it. The rows of other plans are measured
    on the validation queries, which chose it.

    Attributes:
        k: Number of results per query.
        queries: Number of test queries.
        rows_in_table: Number of vectors searched.
        version: Version of the table that was measured.
        exact_us_per_query: Microseconds of an exact float32 search at full width, one query at a time.
        exact_us_per_query_batched: The same, many queries in one call.
        chosen: Index in `rows` of the table's plan.
        rows: All settings measured, cheapest first.
        validation_queries: Number of validation queries; 0: the first release did not write it.
        depths: What the plan needs for larger k, ascending; k beyond the last is answered exactly.

    Example:
        >>> funnel.card.best.recall, funnel.card.best.low
    """

    k: int
    queries: int
    rows_in_table: int
    version: int
    exact_us_per_query: float
    exact_us_per_query_batched: float
    chosen: int
    rows: tuple[CardRow, ...]
    validation_queries: int = 0
    depths: tuple[DepthRow, ...] = ()

    def __iter__(self) -> Iterator[CardRow]:  # type: ignore[override]
        """Iterate over the rows."""
        return iter(self.rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @property
    def best(self) -> CardRow:
        """The row of the table's plan."""
        return self.rows[self.chosen]

    def __repr__(self) -> str:
        """Return the plan's recall in a line; `print` shows all rows."""
        best, plan = self.best, f"{self.best.dims} dims {self.best.precision}, keep {self.best.keep:,}"
        return (
            f"<RecallCard recall@{self.k} {best.recall:.4f} ({best.low:.4f} to {best.high:.4f}) by {plan}; "
            f"{len(self)} settings over {self.rows_in_table:,} vectors, version {self.version}>"
        )

    def __str__(self) -> str:
        """Return the card as a text table; the plan's row has a star."""
        return _card_text(self)

    def _repr_html_(self) -> str:
        return _card_html(self)


class TunedFunnel(Stored, ShownAsHtml):
    """What a table stores of a funnel: the plan, and the card that confirms its recall."""

    stored_as: ClassVar[Format] = Format("the funnel", ("0.1", "0.2"), remedy="tune it again: mlake funnel TABLE")

    plan: Plan
    card: RecallCard

    @property
    def slower(self) -> str:
        """Say that the funnel saves no time, and what to do; empty if it does, or if it is there to save RAM."""
        us, exact_us = self.card.best.us_per_query, self.card.exact_us_per_query
        if self.plan.home == "codes" or us is None or us <= exact_us:
            return ""
        return (
            f"the funnel in {self.plan.home} saves no time among {self.card.rows_in_table:,} rows: it takes {us:,.0f} "
            f"µs a query, and comparing every row {exact_us:,.0f} µs. Search without it, which is exact; tune one when "
            "the table has many more rows"
        )

    @model_validator(mode="after")
    def _plan_is_on_the_card(self) -> TunedFunnel:
        if not 0 <= self.card.chosen < len(self.card.rows):
            raise ValueError(f"card.chosen is {self.card.chosen}, and the card has {len(self.card.rows)} rows")
        if any(len(depth.keeps) != len(self.plan.stages) - 1 for depth in self.card.depths):
            raise ValueError("card.depths does not name the candidates of each of the plan's stages but the last")
        if self.card.k != self.plan.k:
            raise ValueError(f"the plan is for k={self.plan.k}, and its card for k={self.card.k}")
        ks = [self.card.k, *(depth.k for depth in self.card.depths)]
        if any(deeper <= k for k, deeper in pairwise(ks)):
            raise ValueError(f"card.depths must ascend from k={self.card.k}, not {ks[1:]}")
        if any(
            depth.keeps[-1] < depth.k or list(depth.keeps) != sorted(depth.keeps, reverse=True)
            for depth in self.card.depths
        ):
            raise ValueError("card.depths keeps fewer candidates than results, or more in a later stage")
        return self

    @model_validator(mode="after")
    def _can_be_searched(self) -> TunedFunnel:
        plan = self.plan
        if (last := plan.stages[-1]).precision != "float16":
            raise ValueError(f"the last stage ranks the table's float16 vectors, not {last.precision}")
        if plan.home == "lake" and (plan.lists or any(stage.precision != "float16" for stage in plan.stages)):
            raise ValueError("a plan in the lake reads float16 columns, and has no lists of its own")
        if plan.home != "lake" and (plan.probes > plan.lists or (plan.lists and not plan.probes)):
            raise ValueError(f"{plan.probes} probes of {plan.lists} lists")
        if plan.candidates < min(plan.k, self.card.rows_in_table):
            raise ValueError(f"{plan.candidates} candidates are too few for k={plan.k}")
        return self


def _card_text(card: RecallCard) -> str:
    """Return a card as a text table; the plan's row has a star."""
    head = f"  {'dims':>5} {'precision':>9} {'keep':>6} {'ranked':>7} {'probes':>6}"
    head += f" {'recall':>7} {'95 % interval':>15} {'µs':>8} {'µs batch':>8} {'B/vec':>6}  queries"
    star = {card.chosen: "*"}
    lines = [
        f"{star.get(i, ' ')} {r.dims:>5} {r.precision:>9} {r.keep:>6} {r.looked_at:>7,.0f}"
        f" {r.probes or 'all':>6} {r.recall:>7.4f}  {r.low:>.4f}-{r.high:.4f}"
        f" {_us(r.us_per_query):>8} {_us(r.us_per_query_batched):>8} {r.bytes_per_vector:>6}"
        f"  {_SPLITS[r.split]}".rstrip()
        for i, r in enumerate(card.rows)
    ]
    return "\n".join([_measured(card), head, *lines, *(f"  {said}" for said in _deeper(card))])


def _card_html(card: RecallCard) -> str:
    """Return a card as HTML tables; the plan's row has a star and is bold."""
    heads = ["", "dims", "precision", "keep", "ranked", "probes", "recall", "95 % interval"]
    heads += ["µs a query", "µs in batches", "bytes a vector", "queries"]
    rows = [
        [
            "*" if i == card.chosen else "",
            *(r.dims, r.precision, r.keep, round(r.looked_at), r.probes or "all", f"{r.recall:.4f}"),
            f"{r.low:.4f} to {r.high:.4f}",
            *("" if us is None else round(us) for us in (r.us_per_query, r.us_per_query_batched)),
            *(r.bytes_per_vector, _SPLITS[r.split]),
        ]
        for i, r in enumerate(card.rows)
    ]
    return grid(_measured(card), heads, rows, bold=card.chosen) + grid(
        "for more results", [""], [[s] for s in _deeper(card)]
    )


def _measured(card: RecallCard) -> str:
    said = f"recall@{card.k} over {card.rows_in_table:,} vectors, version {card.version} of the table; "
    if card.validation_queries:
        said += f"{card.validation_queries:,} queries chose the plan (*), {card.queries:,} others confirm it; "
    else:
        said += f"{card.queries:,} queries confirm the plan (*); "
    return said + f"exact: {card.exact_us_per_query:,.0f} µs a query, {card.exact_us_per_query_batched:,.0f} in batches"


def _deeper(card: RecallCard) -> Iterator[str]:
    """Say what the plan needs for more results than it was tuned for."""
    for d in card.depths:
        yield (
            f"k = {d.k:,}: keep {d.keeps[-1]:,}, recall@{d.k} {d.recall:.4f} ({d.low:.4f}-{d.high:.4f}), "
            f"{d.queries:,} test queries"
        )
    deepest = card.depths[-1].k if card.depths else card.k
    yield f"k > {deepest:,}: every row is compared"


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
