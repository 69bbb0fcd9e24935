"""Columns of vectors between Arrow and numpy. Shapes: B rows, D width."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch


def to_numpy(vectors: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float16]:
    """View a column of B vectors as (B, D) without copying a contiguous one."""
    array = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
    flat: npt.NDArray[np.float16] = array.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(array), array.type.list_size)


def to_arrow(x_BD: npt.NDArray[np.floating]) -> pa.FixedSizeListArray:
    """Turn (B, D) floats into a column of half-precision vectors."""
    half = torch.from_numpy(np.ascontiguousarray(x_BD)).half().numpy()  # many times faster than numpy
    return pa.FixedSizeListArray.from_arrays(pa.array(half.ravel()), half.shape[1])
