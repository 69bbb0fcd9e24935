"""The plan of a funnel: its stages.

Owns the records and their checks. Owns no vectors, no index and no table, and no measurement (`schemas.cards`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from schemas.config.bounds import MAX_DIM
from schemas.html import ShownAsHtml
from schemas.refusals import SaysWhatIsWrong

Precision = Literal["bit1", "pq4", "int8", "float16", "float32"]
Home = Literal["memory", "codes", "lake"]

FUNNEL_KEY = "lake:funnel:"
"""Key of a funnel in a table's config; the home follows."""
# RaBitQ keeps two float32 numbers beside each vector's bits.
_BIT1_FACTORS = 8
MOST_ROWS = (1 << 31) - 1
_MOST_LISTS = 1 << 20
Reach = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]


class Record(ShownAsHtml, metaclass=SaysWhatIsWrong):
    """A record of a funnel: frozen, with no other settings and no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FunnelStage(Record):
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
    keep: int = Field(ge=1, le=MOST_ROWS)
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


class Plan(Record):
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
    probes: int = Field(0, ge=0, le=MOST_ROWS)
    margin: float | None = Field(None, ge=0)
    reach: Reach | None = None
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

    def with_one_more(self) -> Plan:
        """Return the plan for a query that is a row of the table: one more of everything, since it finds itself."""
        keeps = [stage.keep + 1 for stage in self.stages[:-1]]
        return self.with_keeps(keeps).model_copy(update={"k": self.k + 1})

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
