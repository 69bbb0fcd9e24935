"""Search in stages: a coarse prefix finds candidates, the full vector ranks them, and a card says how well that works.

`Funnel` is what users hold. `Plan`, `FunnelStage` and `RecallCard` are what a table stores.
"""

from __future__ import annotations

from pipelines.funnel.goal import Goal
from pipelines.funnel.plan import adaptive_retrieval, funnel_retrieval
from pipelines.funnel.search import Funnel
from schemas.cards import CardRow, RecallCard
from schemas.plans import FunnelStage, Home, Plan

__all__ = [
    "CardRow",
    "Funnel",
    "FunnelStage",
    "Goal",
    "Home",
    "Plan",
    "RecallCard",
    "adaptive_retrieval",
    "funnel_retrieval",
]
