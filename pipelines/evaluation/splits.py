"""Training sets that are smaller or more lopsided than the one at hand: few-shot and long-tail.

Owns which rows are taken; owns no vectors. Shapes: N rows, C classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def few_shot(labels_N: Rows, shots: int, seed: int = 0) -> Rows:
    """Draw `shots` rows of every class, or all of a class that has fewer; return their places, ascending."""
    rng = np.random.default_rng(seed)
    taken = [rng.permutation(np.flatnonzero(labels_N == one))[:shots] for one in np.unique(labels_N)]
    return np.sort(np.concatenate(taken))


def long_tail(labels_N: Rows, imbalance: float, seed: int = 0) -> tuple[Rows, Rows]:
    """Thin the classes out until their sizes fall exponentially, the first `imbalance` times as large as the last.

    Which class is common and which is rare is drawn as well. The first keeps the rows of the smallest class at hand, so
    that every class has enough to be thinned from; each keeps at least one.

    Returns:
        Places of the rows kept, ascending; and the classes, commonest first.

    Source: Cui et al. 2019 (arXiv 1901.05555), section 5.1.
    """
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels_N, return_counts=True)
    order_C = rng.permutation(classes)
    share_C = imbalance ** -(np.arange(len(order_C)) / max(1, len(order_C) - 1))
    kept_C = np.maximum(1, np.round(counts.min() * share_C)).astype(int)
    taken = [rng.permutation(np.flatnonzero(labels_N == one))[:kept] for one, kept in zip(order_C, kept_C, strict=True)]
    return np.sort(np.concatenate(taken)), order_C


def head_and_tail(order_C: Rows) -> tuple[Rows, Rows]:
    """Return the commonest and the rarest third of the classes, at least one each."""
    third = max(1, len(order_C) // 3)
    return order_C[:third], order_C[-third:]
