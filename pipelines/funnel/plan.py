"""The paper's plans, and the confidence interval of a recall.

Owns arithmetic only; the records are in `schemas.plans`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.plans import FunnelStage, Plan


def adaptive_retrieval(coarse: int, width: int, keep: int = 200, k: int = 10) -> Plan:
    """Return the paper's two-stage plan: shortlist at `coarse` dims, rerank at full width.

    Source: Kusupati et al. 2022, section 4.3.1 (K=200, D_s=16, D_r=2048).
    """
    return funnel_retrieval([coarse, width], [keep, k])


def funnel_retrieval(dims: Sequence[int], keeps: Sequence[int]) -> Plan:
    """Return the paper's funnel: each stage doubles the dims and halves the candidates.

    Args:
        dims: Dims of each stage, ascending; the last is the full width.
        keeps: Candidates each stage hands on; the last is k.

    Source: Kusupati et al. 2022, section 4.3.1: 16→32→64→128→256→2048 keeping 200→100→50→25→10.

    Example:
        >>> plan = funnel_retrieval([16, 32, 64, 128, 256, 2048], [200, 100, 50, 25, 10, 10])
        >>> [stage.keep for stage in plan.stages]
        [200, 100, 50, 25, 10, 10]
    """
    stages = tuple(FunnelStage(dims=d, precision="float16", keep=n) for d, n in zip(dims, keeps, strict=True))
    return Plan(stages=stages, k=keeps[-1])


def recall_interval(recall_Q: npt.NDArray[np.floating], z: float = 1.96) -> tuple[float, float, float]:
    """Return the mean recall of Q queries with its confidence interval.

    The k results of one query are found or missed together, so Wilson's interval is taken at the effective number of
    trials that the spread between queries implies; where they show no spread, at the number of queries.

    Args:
        recall_Q: Recall of each query, 0 to 1.
        z: Standard normal quantile; 1.96 gives a two-sided 95 % interval.

    Returns:
        Mean, lower end, upper end.

    Source: Wilson 1927; effective sample size after Korn and Graubard 1998.
    """
    queries, mean = len(recall_Q), float(np.mean(recall_Q))
    spread = float(np.var(recall_Q, ddof=1)) if queries > 1 else 0.0
    trials = max(queries, mean * (1 - mean) / spread * queries) if spread else queries
    centre = (mean + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(mean * (1 - mean) / trials + z * z / (4 * trials * trials))
    return mean, max(0.0, centre - half), min(1.0, centre + half)
