"""Make plans: the paper's, those of a user's own stages, and the one that a search follows.

Owns the constructors, and the one rule of how many candidates a search for k rows needs; the records are in
`schemas.plans`, and the tuner has its own plans to try.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence

import numpy as np
from pydantic import ValidationError

from pipelines.tables.table import VectorTable
from schemas.cards import TunedFunnel
from schemas.errors import ConfigError, DimError
from schemas.plans import FunnelStage, Home, Plan

_STAGE = re.compile(r"(\d+)(?::(bit1|pq4(?=x)|int8|float16|float32)(?:x(\d+))?)?:(\d+)")


def adaptive_retrieval(coarse: int, width: int, keep: int = 200, k: int = 10) -> Plan:
    """Return the paper's two-stage plan: shortlist at `coarse` dims, rerank at full width.

    Source: Kusupati et al. 2022, section 4.3.1 (K=200, D_s=16, D_r=2048).
    """
    return funnel_retrieval([coarse, width], [keep, k])


def funnel_retrieval(dims: Sequence[int], keeps: Sequence[int]) -> Plan:
    """Return the paper's funnel: each stage doubles the dims and halves the candidates.

    Args:
        dims: Dims of each stage, ascending; the last is the full width.
        keeps: Candidates that each stage keeps; the last is k.

    Source: Kusupati et al. 2022, section 4.3.1: 16→32→64→128→256→2048 keeping 200→100→50→25→10.

    Example:
        >>> plan = funnel_retrieval([16, 32, 64, 128, 256, 2048], [200, 100, 50, 25, 10, 10])
        >>> [stage.keep for stage in plan.stages]
        [200, 100, 50, 25, 10, 10]
    """
    stages = tuple(FunnelStage(dims=d, precision="float16", keep=n) for d, n in zip(dims, keeps, strict=True))
    return Plan(stages=stages, k=keeps[-1])


def parse_stages(text: str) -> list[FunnelStage]:
    """Read stages as the command line writes them.

    Raises:
        ConfigError: The text is not a list of stages.

    Example:
        >>> [(s.dims, s.precision, s.codes, s.keep) for s in parse_stages("128:pq4x32:500,256:10")]
        [(128, 'pq4', 32, 500), (256, 'float16', 0, 10)]
    """
    stages = []
    for written in text.split(","):
        parts = _STAGE.fullmatch(written.strip())
        if parts is None:
            raise ConfigError(
                f"--stages: {written!r} is not a stage; write dims:keep or dims:precision:keep, where precision is "
                "bit1, pq4x<codes>, int8, float16 or float32: 256:pq4x64:200,256:10"
            )
        dims, precision, codes, keep = parts.groups()
        try:
            stage = {"dims": dims, "precision": precision or "float16", "codes": codes or 0, "keep": keep}
            stages.append(FunnelStage.model_validate(stage))
        except ValidationError as error:
            raise ConfigError(f"--stages: {written!r}: {error.errors()[0]['msg']}") from None
    return stages


def plan_of_stages(stages: Sequence[FunnelStage], home: Home, table: VectorTable) -> Plan:
    """Make a plan for a table of a user's own stages.

    Raises:
        ConfigError: The stages do not narrow, or the last is not the table's full vectors.
        DimError: A stage's dim is not in the table's ladder.
    """
    if not isinstance(stages, Sequence) or not stages or not all(isinstance(each, FunnelStage) for each in stages):
        raise ConfigError(f"stages={reprlib.repr(stages)}: pass a list of FunnelStage, from coarse to full width")
    plan = Plan(stages=tuple(stages), home=home, k=stages[-1].keep)
    width, last = table.space.ladder.width, plan.stages[-1]
    if (last.dims, last.precision) != (width, "float16"):
        raise ConfigError(
            f"stages: the last one ranks the table's full vectors, {width} dims float16; "
            f"got {last.dims} dims {last.precision}"
        )
    for stage in plan.stages:
        table.space.ladder.check(stage.dims, table.uri)
        if home == "lake" and stage.precision != "float16":
            raise ConfigError(f"stages: {table.uri} holds float16 columns; {stage.precision} needs a funnel in memory")
    return plan


def read_tuned(written: str, home: Home, table: VectorTable) -> TunedFunnel:
    """Read the plan and card that a table stores for a home.

    Raises:
        TableError: They are malformed, or do not fit the table.
    """
    tuned = TunedFunnel.from_json(written, table.uri)
    width, last = table.space.ladder.width, tuned.plan.stages[-1].dims
    if tuned.plan.home != home or last != width:
        raise tuned.stored_as.malformed(
            table.uri, f"is for the home {tuned.plan.home!r} and {last} dims, not for {home!r} and {width} dims"
        )
    try:
        for stage in tuned.plan.stages:
            table.space.ladder.check(stage.dims, table.uri)
    except DimError as error:
        raise tuned.stored_as.malformed(table.uri, f"does not fit the space: {error}") from None
    return tuned


def plan_for(tuned: TunedFunnel, k: int, recall: float | None, uri: str) -> Plan | None:
    """Return the plan of a search for k rows, as the card confirms it; None: only comparing every row is sure.

    Up to the k of the tuning, a search takes the candidates of that k. For more it takes those that the card's depths
    name for the next larger k. Beyond the last depth nothing was measured.

    Args:
        tuned: The table's plan and card.
        k: Rows per query.
        recall: Recall to reach instead of the plan's.
        uri: Address of the table, for the message.

    Raises:
        ConfigError: `recall` is no number between 0 and 1, or the card confirms no number of candidates that reaches it
            at the k of the tuning.
    """
    if recall is not None and not (isinstance(recall, (float, np.floating)) and 0 < recall < 1):
        raise ConfigError(f"recall={recall!r}: pass a number between 0 and 1, not at either end, such as recall=0.95")
    plan, card = tuned.plan, tuned.card
    if k <= card.k:
        return plan if recall is None else _plan_that_reaches(tuned, recall, uri)
    for depth in card.depths:
        if k <= depth.k and (recall is None or depth.low >= recall):
            changes = {"probes": depth.probes, "reach": depth.reach, "doubt": depth.doubt, "k": depth.k, "margin": None}
            return plan.with_keeps(depth.keeps).model_copy(update=changes)
    return None


def _plan_that_reaches(tuned: TunedFunnel, recall: float, uri: str) -> Plan:
    """Return the plan with the fewest candidates whose recall the test queries confirm."""
    best = tuned.card.best
    same = [
        row
        for row in tuned.card.rows
        if (row.dims, row.precision, row.probes, row.bytes_per_vector)
        == (best.dims, best.precision, best.probes, best.bytes_per_vector)
        and row.split != "validation"
    ]
    reaching = [row for row in same if row.low >= recall]
    if not reaching:
        raise ConfigError(
            f"recall={recall}: the card of {uri} confirms a recall of {max(row.low for row in same):.4f} at most; "
            f"run: mlake funnel {uri} --recall {recall}"
        )
    fewest = min(reaching, key=lambda row: row.looked_at)
    if fewest is best:
        return tuned.plan
    return tuned.plan.keeping(fewest.keep).model_copy(update={"margin": None, "reach": None, "doubt": None})
