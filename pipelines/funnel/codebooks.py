"""Codebooks: the trained part of a plan's stages, stored beside the table as named arrays of numbers.

The plan says what an index is made of; a codebook only fills in centroids and ranges, after their sizes are checked. So
no bytes of a table, which may come from a stranger, reach FAISS's reader, which is not safe against them. The first
release stored FAISS's own bytes: those are not read, and the codes of such a funnel are trained anew when it opens.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.funnel.faiss_stages import Index, faiss, make_stages, train_stages, training_rows
from pipelines.storage.addresses import sibling
from pipelines.tables.fingerprinted import save_fingerprinted
from pipelines.tables.opening import open_dataset
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats, to_numpy
from schemas.columns import CODEBOOK, FIRST_CODEBOOK, VECTOR, check_companion
from schemas.config import StorageConfig
from schemas.errors import FunnelWarning, TableError, TableNotFound
from schemas.plans import Plan

_LARGEST = 1e30  # no trained number is near it, and sums of squares stay finite


def save_codebook(empty: Sequence[Index], table_uri: str, storage: StorageConfig) -> str:
    """Write the trained part of empty stages beside their table, under its fingerprint.

    Returns:
        The name of the codebook, for `Plan.codebook`.
    """
    arrays = {part: read for number, stage in enumerate(empty) for part, read in _trained(number, stage)}
    rows = pa.table({"part": list(arrays), "numbers": [*arrays.values()]}, schema=CODEBOOK)
    name = _name(arrays)
    save_fingerprinted(name, rows, table_uri, storage)
    return name


def load_codebook(plan: Plan, table: VectorTable) -> list[Index]:
    """Return the trained, empty stages of a plan, without the last.

    Raises:
        TableNotFound: The codebook is not beside its table.
        TableError: It is of a newer format, of another plan, or damaged.
    """
    remedy = f"tune the funnel again: mlake funnel {table.uri}"
    if not plan.codebook:
        raise TableError(f"the funnel of {table.uri} names no codebook; {remedy}")
    uri, width = sibling(table.uri, plan.codebook), plan.stages[-1].dims
    try:
        dataset = open_dataset(uri, table.storage)
    except TableNotFound:
        raise TableNotFound(
            f"the codebook of the funnel of {table.uri} is not beside it, at {uri}; copy it from where the table was "
            f"copied, or {remedy}"
        ) from None
    if dataset.schema.names == FIRST_CODEBOOK.names:
        return _train_anew(plan, table)
    check_companion(dataset.schema, CODEBOOK, uri)
    stages = make_stages(plan, width)
    sizes = {part: size for number, stage in enumerate(stages) for part, size in _sizes(number, stage).items()}
    if dataset.count_rows() != len(sizes):
        raise TableError(f"{uri} is the codebook of another plan; {remedy}")
    rows = dataset.to_table(columns=CODEBOOK.names)
    lengths = dict(zip(rows["part"].to_pylist(), pc.list_value_length(rows["numbers"]).to_pylist(), strict=True))
    if lengths != sizes:
        raise TableError(f"{uri} is the codebook of another plan; {remedy}")
    arrays = dict(zip(rows["part"].to_pylist(), map(_to_floats, rows["numbers"]), strict=True))
    if any(not (np.abs(x) < _LARGEST).all() for x in arrays.values()) or _name(arrays) != plan.codebook:
        raise TableError(f"{uri} is damaged; {remedy}")
    for number, stage in enumerate(stages):
        _fill(stage, {part.split(".")[1]: x for part, x in arrays.items() if part.startswith(f"{number}.")})
    return stages


def _train_anew(plan: Plan, table: VectorTable) -> list[Index]:
    """Train a plan's stages on rows of the table, in place of a codebook of the first release."""
    warnings.warn(
        f"the codebook {plan.codebook} of {table.uri} is of the first release, and is trained anew whenever the funnel "
        f"opens; to store it, run: mlake funnel {table.uri} --home {plan.home}",
        FunnelWarning,
        stacklevel=4,
    )
    rows = table.dataset.count_rows()
    if not rows:
        raise TableError(f"{table.uri} has no rows to train the codes of its funnel on; add rows, and tune it again")
    drawn = np.sort(np.random.default_rng(0).permutation(rows)[: training_rows(plan)])
    return train_stages(plan, to_numpy(table.dataset.take(drawn, columns=[VECTOR])[VECTOR]).astype(np.float32))


def _store_of(stage: Index) -> Index:
    """Return the index of codes behind the cut and the normalisation."""
    return faiss.downcast_index(stage.index)


def _sizes(number: int, stage: Index) -> dict[str, int]:
    """Return the trained parts of a stage, such as `0.centroids.16x16x2`, and how many numbers each has."""
    store = _store_of(stage)
    shapes: dict[str, tuple[int, ...]] = {}
    is_partitioned = isinstance(store, faiss.IndexIVF)
    if is_partitioned:
        shapes["lists"] = (store.nlist, store.d)
    if hasattr(store, "pq"):
        shapes["centroids"] = (store.pq.M, store.pq.ksub, store.pq.dsub)
    if hasattr(store, "sq") and store.sq.qtype == faiss.ScalarQuantizer.QT_8bit:
        shapes["ranges"] = (2, store.d)
    if hasattr(store, "center") and not is_partitioned:
        shapes["center"] = (store.d,)
    return {f"{number}.{kind}.{'x'.join(map(str, shape))}": math.prod(shape) for kind, shape in shapes.items()}


def _trained(number: int, stage: Index) -> Iterator[tuple[str, Floats]]:
    """Yield the trained parts of a stage."""
    store = _store_of(stage)
    for part in _sizes(number, stage):
        kind = part.split(".")[1]
        if kind == "lists":
            yield part, faiss.downcast_index(store.quantizer).reconstruct_n(0, store.nlist).ravel()
        else:
            yield part, faiss.vector_to_array(_vector(store, kind)).copy()


def _fill(stage: Index, arrays: dict[str, Floats]) -> None:
    """Give an untrained stage its trained parts, whose sizes are right."""
    store = _store_of(stage)
    for kind, numbers in arrays.items():
        if kind == "lists":
            faiss.downcast_index(store.quantizer).add(numbers.reshape(store.nlist, store.d))
        else:
            faiss.copy_array_to_vector(np.ascontiguousarray(numbers), _vector(store, kind))
    store.is_trained = stage.is_trained = True


def _vector(store: Index, kind: str) -> Index:
    """Return FAISS's vector behind a trained part."""
    if kind == "centroids":
        return store.pq.centroids
    return store.sq.trained if kind == "ranges" else store.center


def _to_floats(numbers: pa.ListScalar) -> Floats:
    floats: Floats = numbers.values.to_numpy(zero_copy_only=False)
    return floats


def _name(arrays: dict[str, Floats]) -> str:
    content = hashlib.sha256()
    for part, numbers in sorted(arrays.items()):
        content.update(f"{part}:{len(numbers)}\n".encode() + np.ascontiguousarray(numbers, np.float32).tobytes())
    return f"codebook-{content.hexdigest()[:16]}"
