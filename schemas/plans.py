"""Funnels as a table stores them: the plan's stages, and the recall card that says what they find and cost.

Owns the records and their checks. Owns no vectors, no index and no table. A plan and its card are JSON in the table's
config, so they are versioned with the rows that they were measured on. Format 2 adds the depths, and says which queries
each row was measured on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from schemas.config.bounds import MAX_DIM
from schemas.html import ShownAsHtml
from schemas.stored import Format, Stored

Precision = Literal["bit1", "pq4", "int8", "float16", "float32"]
Home = Literal["memory", "codes", "lake"]

FUNNEL_KEY = "lake:funnel:"
"""Key of a funnel in a table's config; the home follows."""
# RaBitQ keeps two float32 numbers beside each vector's bits.
_BIT1_FACTORS = 8
_MOST_ROWS = (1 << 31) - 1
_MOST_LISTS = 1 << 20
_Reach = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]
_SPLITS = {"validation": "chose", "test": "confirm", None: ""}


class _Record(ShownAsHtml):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FunnelStage(_Record):
    """One stage: the first `dims` dims at a precision, and the `keep` best candidates.

    Attributes:
        dims: Width of the prefix that is compared.
        precision: `bit1` is one bit per dim (RaBitQ), `pq4` 4-bit product quantisation, `int8` one byte per dim,
            `float16` and `float32` are floats.
        keep: Candidates for the next stage; of the last stage, the results.
        codes: 4-bit codes per vector, for `pq4`.

    Example:
        >>> [FunnelStage(dims=64, precision="int8", keep=500), FunnelStage(dims=256, precision="float32", keep=10)]
    """

    dims: int = Field(ge=1, le=MAX_DIM)
    precision: Precision
    keep: int = Field(ge=1, le=_MOST_ROWS)
    codes: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _codes_fit(self) -> FunnelStage:
        if (self.precision == "pq4") != (self.codes > 0) or (self.codes and self.dims % self.codes):
            raise ValueError(
                f"pq4 needs `codes` that divide the {self.dims} dims, and only pq4 has them; got {self.codes}"
            )
        return self

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one vector at this stage."""
        if self.precision == "pq4":
            return (self.codes + 1) // 2
        if self.precision == "bit1":
            return (self.dims + 7) // 8 + _BIT1_FACTORS
        return {"int8": 1, "float16": 2, "float32": 4}[self.precision] * self.dims


class Plan(_Record):
    """Stages from coarse to full width, and how the first stage finds its candidates.

    Attributes:
        stages: At least two. From stage to stage dims never fall and `keep` never rises.
        home: `memory`: codes and vectors are in RAM. `codes`: all stages but the last are in RAM; the last reads its
            candidates' vectors from the table. `lake`: the table's own columns and indexes are read.
        lists: Partitions of the first stage's index; 0 compares every code.
        probes: Partitions that a query searches.
        margin: Candidates whose cosine at the first stage is more than this below the k-th best are dropped, so that
            easy queries read less; None drops none. Only in the lake, where each candidate is a read.
        reach: Distances, in cosine, from the k-th candidate to that at three quarters of the others: what
            nearly all test queries have, and their median. Candidates that lie closer together than the first do not
            tell near rows from far ones: the question fell into a gap that deletes or a filter left, or lies far from
            all rows. It is searched more widely, until they lie as far apart as the median. None: no such check, as in
            the lake.
        doubt: Share of the k best rows that twice the candidates would add, as the scores of the first two stages let
            expect: nearly all test queries have less. A question with more is searched more widely. Only in the lake,
            where a search sees these scores. None: no such check.
        k: Results that the recall was measured for.
        recall: Target recall of the tuning.
        codebook: Name of the table's companion that holds the trained codebook; empty without one.

    Example:
        >>> funnel.plan.stages[0].dims
    """

    stages: tuple[FunnelStage, ...] = Field(min_length=2)
    home: Home = "memory"
    lists: int = Field(0, ge=0, le=_MOST_LISTS)
    probes: int = Field(0, ge=0, le=_MOST_ROWS)
    margin: float | None = Field(None, ge=0)
    reach: _Reach | None = None
    doubt: float | None = Field(None, ge=0)
    k: int = Field(10, ge=1, le=1_000_000)
    recall: float = Field(0.95, gt=0, le=1)
    codebook: str = Field("", pattern=r"^(codebook-[0-9a-f]{16})?$")

    @model_validator(mode="after")
    def _narrows(self) -> Plan:
        for wide, narrow in zip(self.stages, self.stages[1:], strict=False):
            if narrow.dims < wide.dims or narrow.keep > wide.keep:
                raise ValueError(
                    f"stages must grow in dims and shrink in candidates; {narrow.dims} dims keeping {narrow.keep} "
                    f"cannot follow {wide.dims} dims keeping {wide.keep}"
                )
        if coded := [stage.precision for stage in self.stages[1:] if stage.precision in ("bit1", "pq4")]:
            raise ValueError(
                f"{coded[0]} finds candidates in the first stage; later ones take int8, float16 or float32"
            )
        if self.margin is not None and self.home != "lake":
            raise ValueError("only a plan in the lake has a margin: in memory a candidate costs too little to ask")
        return self

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one vector in RAM; for a plan in the lake, bytes over all columns that it reads."""
        stages = self.stages[:-1] if self.home == "codes" else self.stages
        return sum(stage.bytes_per_vector for stage in stages)

    @property
    def candidates(self) -> int:
        """Number of vectors that the last stage ranks."""
        return self.stages[-2].keep

    @property
    def is_exact(self) -> bool:
        """Whether the first stage compares the full vectors."""
        first = self.stages[0]
        is_whole = first.dims == self.stages[-1].dims and first.precision in ("float16", "float32")
        return is_whole and len(self.stages) == 2 and not self.probes

    def wider(self, scale: float, most: int) -> Plan:
        """Return the plan with `scale` times the candidates of every stage, at most `most`, and as many more probes."""
        keeps = [min(max(most, 1), math.ceil(stage.keep * scale)) for stage in self.stages[:-1]]
        if scale == 1 and keeps == [stage.keep for stage in self.stages[:-1]]:
            return self
        probes = min(self.lists, math.ceil(self.probes * scale)) if self.lists else self.probes
        return self.with_keeps(keeps).model_copy(update={"probes": probes})

    def ranking_all(self) -> Plan:
        """Return the plan whose last stage but one keeps all that it ranks."""
        keeps = [stage.keep for stage in self.stages[:-1]]
        return self.with_keeps([*keeps[:-1], *keeps[-2:-1]]) if len(keeps) > 1 else self

    def keeping(self, candidates: int) -> Plan:
        """Return the plan with another number of candidates; earlier stages keep at least as many."""
        if candidates == self.candidates:
            return self
        *before, _, last = self.stages
        return self.with_keeps([*(max(stage.keep, candidates) for stage in before), max(candidates, last.keep)])

    def with_keeps(self, keeps: Sequence[int]) -> Plan:
        """Return the plan with another `keep` for each stage but the last."""
        *coarse, last = self.stages
        kept = (stage.model_copy(update={"keep": keep}) for stage, keep in zip(coarse, keeps, strict=True))
        return self.model_copy(update={"stages": (*kept, last)})


class CardRow(_Record):
    """Recall and cost of one setting.

    Attributes:
        dims: Prefix width of the first stage.
        precision: Its precision.
        keep: Candidates of the last stage.
        probes: Partitions searched; 0 is all.
        margin: Candidates with a cosine more than this below the k-th best are dropped; None drops none.
        looked_at: Mean number of candidates that the last stage compares.
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


class DepthRow(_Record):
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
    keeps: tuple[Annotated[int, Field(ge=1, le=_MOST_ROWS)], ...] = Field(min_length=1)
    probes: int = Field(ge=0, le=_MOST_ROWS)
    reach: _Reach | None = None
    doubt: float | None = Field(None, ge=0)
    recall: float
    low: float
    high: float
    queries: int


class RecallCard(_Record):
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

    def __str__(self) -> str:
        """Return the card as a text table; the plan's row has a star."""
        said = f"recall@{self.k} over {self.rows_in_table:,} vectors, version {self.version} of the table; "
        if self.validation_queries:
            said += f"{self.validation_queries:,} queries chose the plan (*), {self.queries:,} others confirm it; "
        else:
            said += f"{self.queries:,} queries confirm the plan (*); "
        said += f"exact: {self.exact_us_per_query:,.0f} µs a query, {self.exact_us_per_query_batched:,.0f} in batches"
        head = f"  {'dims':>5} {'precision':>9} {'keep':>6} {'of them':>7} {'probes':>6}"
        head += f" {'recall':>7} {'95 % interval':>15} {'µs':>8} {'µs batch':>8} {'B/vec':>6}  queries"
        star = {self.chosen: "*"}
        lines = [
            f"{star.get(i, ' ')} {r.dims:>5} {r.precision:>9} {r.keep:>6} {r.looked_at:>7,.0f}"
            f" {r.probes or 'all':>6} {r.recall:>7.4f}  {r.low:>.4f}-{r.high:.4f}"
            f" {_us(r.us_per_query):>8} {_us(r.us_per_query_batched):>8} {r.bytes_per_vector:>6}"
            f"  {_SPLITS[r.split]}".rstrip()
            for i, r in enumerate(self.rows)
        ]
        deeper = [
            f"  k = {d.k:,}: keep {d.keeps[-1]:,}, recall@{d.k} {d.recall:.4f} ({d.low:.4f}-{d.high:.4f}), "
            f"{d.queries:,} test queries"
            for d in self.depths
        ]
        deepest = self.depths[-1].k if self.depths else self.k
        return "\n".join([said, head, *lines, *deeper, f"  k > {deepest:,}: every row is compared"])


class TunedFunnel(Stored, ShownAsHtml):
    """What a table stores of a funnel: the plan, and the card that confirms its recall."""

    stored_as: ClassVar[Format] = Format("the funnel", ("0.1", "0.2"), remedy="tune it again: mlake funnel TABLE")

    plan: Plan
    card: RecallCard

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


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
