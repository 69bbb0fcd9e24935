"""How good vectors are at each dim: neighbours and linear probes against labels or judgements, cascades, funnels.

    systems, baselines   what is measured side by side
    metrics, nearest     what is right, and one score per query
    probe, splits        linear classifiers; few-shot and long-tail training sets
    table, intervals     all of it by dim, with paired bootstrap intervals
    cascade, retrieval   adaptive classification; adaptive and funnel retrieval; costs says what they cost
    corruptions          pictures made worse

Everything is exact and in memory; nothing here reads or writes a table.
"""

from __future__ import annotations

from pipelines.evaluation.nearest import hits_by_dim, label_accuracy_by_dim, neighbours, recall_by_dim

__all__ = ["hits_by_dim", "label_accuracy_by_dim", "neighbours", "recall_by_dim"]
