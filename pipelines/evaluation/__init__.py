"""Evaluation: how good vectors are at each dim, against labels, relevance judgements or their own full width.

    datasets, prepare, alignment   test sets on disk, tables of all systems, the samples they share
    systems                        nested and fixed systems, baselines
    metrics, knn, probe            ground truth and scores per query, exact neighbours, linear probes
    by_dim, cascade, retrieval     scores by dim; adaptive classification; adaptive and funnel retrieval
    corruptions                    corrupted images
    evaluate, results              all of it in order, and its record

Measurements are exact and in memory. Shared intervals come from `pipelines.shortlist.bootstrap`.
"""

from __future__ import annotations

from pipelines.evaluation.knn import hits_by_dim, label_accuracy_by_dim, neighbours, recall_by_dim

__all__ = ["hits_by_dim", "label_accuracy_by_dim", "neighbours", "recall_by_dim"]
