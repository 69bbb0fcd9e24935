"""Make and search a plan's stages as FAISS indexes: codes of a prefix, refined stage by stage to the full vectors.

Owns how a plan becomes a FAISS index, and how it is searched; its trained part is stored by `codebooks`. Owns no table
and no row ids: it deals in positions, in the order in which vectors were added.

Each stage but the last is `IndexPreTransform(cut, normalise, store)`. `IndexRefine` connects a stage with the next. The
cut is a linear map made by `matryoshka.cut`, so every stage takes full vectors.

Shapes: B queries, N vectors, D full width, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeAlias

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from pipelines.vectors.arrays import Floats, Halves
from pipelines.vectors.matryoshka import cut
from schemas.plans import FunnelStage, Plan

Positions = npt.NDArray[np.int64]

# FAISS's stubs leave out keyword arguments and members.
faiss: Any = _faiss
Index: TypeAlias = Any

# FAISS trains 16 centroids on at most 4,096 rows, and wants 39 rows for each partition.
_TRAIN_ROWS, _TRAIN_ROWS_PER_LIST = 4_096, 40
_SPECS = {"bit1": "RaBitQfs", "int8": "SQ8", "float16": "SQfp16", "float32": "Flat"}


def train_stages(plan: Plan, sample_SD: Floats) -> list[Index]:
    """Return one trained, empty index per stage, without the last.

    Args:
        plan: The plan; its last stage is the full width.
        sample_SD: float32 unit rows at full width to train on; `training_rows(plan)` rows are enough.
    """
    stages = make_stages(plan, sample_SD.shape[1])
    with one_thread():
        for index in stages:
            index.train(sample_SD)
    return stages


def make_stages(plan: Plan, width: int) -> list[Index]:
    """Return one untrained, empty index per stage, without the last, that takes full vectors of `width` dims."""
    first, *between, _ = plan.stages
    spec = f"PQ{first.codes}x4fs" if first.precision == "pq4" else _SPECS[first.precision]
    stages = [_on_prefix(first, width, f"IVF{plan.lists},{spec}" if plan.lists else spec)]
    return stages + [_on_prefix(stage, width, _SPECS[stage.precision]) for stage in between]


def training_rows(plan: Plan) -> int:
    """Return the number of rows that training uses."""
    return max(_TRAIN_ROWS, _TRAIN_ROWS_PER_LIST * plan.lists)


def chain_stages(stages: Sequence[Index]) -> list[Index]:
    """Chain stages that are all empty, or all hold the same vectors; level n searches the first n + 1 of them."""
    chained = [stages[0]]
    for store in stages[1:]:
        chained.append(faiss.IndexRefine(chained[-1], store))
    return chained


def copy_index(index: Index) -> Index:
    """Copy an index; FAISS's own clone loses the normalisation."""
    return faiss.deserialize_index(faiss.serialize_index(index))


def full_vector_store(width: int) -> Index:
    """Make an empty last stage: full vectors in half precision, as in the table."""
    return faiss.index_factory(width, _SPECS["float16"], faiss.METRIC_INNER_PRODUCT)


def search_stages(index: Index, plan: Plan, query_BD: Floats, keeps: Sequence[int]) -> tuple[Floats, Positions]:
    """Search one level; return the scores of its last stage and the positions, (B, K) each, best first.

    Position -1 stands where there are fewer than K. Safe to call from several threads while no vectors are added.

    Args:
        index: A level of `chain_stages`.
        plan: The plan of these stages.
        query_BD: float32 unit rows at full width.
        keeps: The number of candidates that each stage of the level keeps; the last is K.
    """
    params = _first_parameters(plan)
    for given, kept in pairwise(keeps):
        factor = (max(given, kept) + 0.5) / kept  # FAISS rounds the product down
        params = faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=params)
    scores, positions = index.search(query_BD, keeps[-1], params=params)
    return scores, positions


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep FAISS on the calling thread.

    FAISS's own threads wait for each other in a busy loop at every small step. On a busy machine, training takes more
    than 20 times as long with them.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _first_parameters(plan: Plan) -> Any:
    if not plan.lists:
        return None
    return faiss.SearchParametersPreTransform(index_params=faiss.SearchParametersIVF(nprobe=plan.probes))


def code_bytes(stage: Index) -> int:
    """Return the bytes that a stage holds per vector."""
    if isinstance(stage, faiss.IndexPreTransform):
        stage = faiss.downcast_index(stage.index)
    own_ids = 8 if isinstance(stage, faiss.IndexIVF) else 0
    return int(stage.code_size) + own_ids


def full_vectors(store: Index) -> Halves:
    """View the vectors (N, D) of a `full_vector_store` without copying; valid while the store exists."""
    raw: npt.NDArray[np.uint8] = faiss.rev_swig_ptr(store.codes.data(), store.codes.size())
    return raw.view(np.float16).reshape(store.ntotal, store.d)


def _on_prefix(stage: FunnelStage, width: int, spec: str) -> Index:
    """Make an index that cuts full vectors to the stage's dims, normalises them, and stores them as `spec` says."""
    store = faiss.index_factory(stage.dims, spec, faiss.METRIC_INNER_PRODUCT)
    if stage.dims == width:
        return faiss.IndexPreTransform(faiss.NormalizationTransform(width, 2.0), store)
    slicer = faiss.LinearTransform(width, stage.dims, False)
    faiss.copy_array_to_vector(
        np.ascontiguousarray(cut(np.eye(width, dtype=np.float32), stage.dims).T).ravel(), slicer.A
    )
    slicer.is_trained = True
    index = faiss.IndexPreTransform(faiss.NormalizationTransform(stage.dims, 2.0), store)
    index.prepend_transform(slicer)
    return index
