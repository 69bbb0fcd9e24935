"""What a search costs in arithmetic: one multiply-add per dim of every vector compared.

Source: Kusupati et al. 2022 (arXiv 2205.13147), section 4.3.1 and appendix E: an exact search of N vectors at d dims is
N * d operations, a rerank of K candidates at d dims K * d; for 1.28 million vectors at 16 dims that is 20.5 MFLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence


def mflops(rows: int, dims: Sequence[int], keeps: Sequence[int]) -> float:
    """Return millions of multiply-adds that one query costs.

    Args:
        rows: Vectors in the database; the first stage compares all of them.
        dims: Dims of each stage.
        keeps: Candidates that each stage hands on; what the last one keeps costs nothing.

    Example:
        >>> round(mflops(1_281_167, [16, 2048], [200, 10]), 2)
        20.91
    """
    compared = [rows, *(min(rows, keep) for keep in keeps[:-1])]
    return sum(count * dim for count, dim in zip(compared, dims, strict=True)) / 1e6
