"""`metrics.json` of `mlake evaluate`, as it is stored: every number of an evaluation, with its interval.

Owns the layout of the file; owns no measurement. A number that is not finite, such as a threshold that is never
reached, is null.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from schemas.config.evaluation import EvaluateConfig
from schemas.errors import InputError
from schemas.stored import Format, Stored

Number = float | None


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IntervalRecord(_Block):
    """A mean and its confidence interval."""

    mean: Number
    low: Number
    high: Number


class MetricRecord(_Block):
    """One metric of one system at one dim.

    Attributes:
        system: Name of the system.
        dim: Prefix width.
        metric: Name of the metric.
        value: Its mean over the queries.
        is_made_for: Whether the system was trained for that dim.
        above: The system minus the first one, on the same queries; None where the first has no such number.
    """

    system: str
    dim: int
    metric: str
    value: IntervalRecord
    is_made_for: bool
    above: IntervalRecord | None = None


class CascadePointRecord(_Block):
    """One setting of a cascade: its thresholds, and what it reaches at how many dims."""

    thresholds: tuple[Number, ...]
    accuracy: IntervalRecord
    above_full: IntervalRecord
    dims: IntervalRecord
    cumulative: IntervalRecord


class CascadeRecord(_Block):
    """Adaptive classification.

    Attributes:
        dims: Dims of its stages.
        alone: Accuracy of each stage alone.
        points: Settings, from the most accurate to the cheapest.
        chosen: Index of the cheapest setting that is as good as the full width on the held-out queries.
        held_out: Queries that the thresholds were learnt on.
        queries: Queries that the settings were measured on.
    """

    dims: tuple[int, ...]
    alone: tuple[IntervalRecord, ...]
    points: tuple[CascadePointRecord, ...]
    chosen: int
    held_out: int
    queries: int


class SettingRecord(_Block):
    """One way to search: its kind, and the dims and candidates of its stages."""

    kind: str
    dims: tuple[int, ...]
    keeps: tuple[int, ...]


class SearchRecord(_Block):
    """What one way to search finds and costs.

    Attributes:
        setting: Its stages.
        values: By metric.
        above_full: By metric, the value minus that of a single shot at full width.
        mflops: Millions of multiply-adds a query.
        milliseconds: Wall-clock a query, on one thread.
    """

    setting: SettingRecord
    values: dict[str, IntervalRecord]
    above_full: dict[str, IntervalRecord]
    mflops: float
    milliseconds: float


class MetricsFile(Stored):
    """The content of `metrics.json`.

    Attributes:
        config: The evaluation's config.
        rows_searched: Rows that were searched and learnt from.
        queries: Queries that were measured.
        rows: By system, dim and metric.
        corrupted: The same on corrupted pictures.
        adaptive: Adaptive classification, where the config asks for it.
        searches: Adaptive and funnel retrieval, where the config asks for it.
        notes: What a reader should know.
    """

    stored_as: ClassVar[Format] = Format(
        "metrics.json of an evaluation", error=InputError, remedy="run `mlake evaluate` again"
    )

    config: EvaluateConfig
    rows_searched: int
    queries: int
    rows: tuple[MetricRecord, ...]
    corrupted: tuple[MetricRecord, ...]
    adaptive: CascadeRecord | None
    searches: tuple[SearchRecord, ...]
    notes: tuple[str, ...]
