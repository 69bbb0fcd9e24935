"""What else people search vectors with, each behind the same two calls: build it, then search it at a setting.

Owns how each library is used at its best for recall@k of cosine; owns no measurement. Every `search` takes float32 unit
rows (B, D) and returns int64 positions (B, k), -1 where it has none; every library is told how many threads it may use.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import cut

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]
Search = Callable[[Floats, int, Any], Positions]


@dataclass(frozen=True)
class Built:
    """A system ready to search.

    Attributes:
        search: Queries, k, setting -> positions.
        settings: What to try, cheapest first.
        disk_bytes: What it wrote to disk, over all vectors.
    """

    search: Search
    settings: tuple[Any, ...]
    disk_bytes: int = 0


def torch_f32(x_ND: Floats, threads: int) -> Built:
    """Exact: one float32 product and a top-k."""
    return _exact(torch.from_numpy(x_ND))


def torch_bf16(x_ND: Floats, threads: int) -> Built:
    """Exact in bfloat16: half the bytes, and the matrix units where the CPU has them."""
    return _exact(torch.from_numpy(x_ND).bfloat16())


def _exact(x_ND: torch.Tensor) -> Built:
    def search(query_BD: Floats, k: int, setting: object) -> Positions:
        found = []
        for part in torch.from_numpy(query_BD).to(x_ND.dtype).split(128):  # bounds the scores held at once
            scores = (x_ND @ part[0])[None] if len(part) == 1 else part @ x_ND.T
            found.append(scores.topk(k).indices)
        return torch.cat(found).numpy()

    return Built(search, ("exact",))


def faiss_flat(x_ND: Floats, threads: int) -> Built:
    """Exact: FAISS IndexFlatIP."""
    return _faiss(x_ND, "Flat", ("exact",), lambda setting: None)


def faiss_hnsw(x_ND: Floats, threads: int) -> Built:
    """FAISS HNSW32."""
    import faiss

    return _faiss(x_ND, "HNSW32", (64, 128, 256, 512, 1024), lambda ef: faiss.SearchParametersHNSW(efSearch=ef))


def faiss_ivfpq(x_ND: Floats, threads: int) -> Built:
    """FAISS IVF with 4-bit PQ fast-scan, refined by the float32 vectors."""
    import faiss

    lists = 1 << round(np.log2(2 * len(x_ND) ** 0.5))
    settings = tuple((lists // share, keep) for share in (16, 8, 4, 2, 1) for keep in (100, 300, 1000))

    def parameters(setting: tuple[int, int]) -> Any:
        probes, keep = setting
        inner = faiss.SearchParametersIVF(nprobe=probes)
        return faiss.IndexRefineSearchParameters(k_factor=keep / 10, base_index_params=inner)

    return _faiss(x_ND, f"IVF{lists},PQ{x_ND.shape[1] // 4}x4fs,RFlat", settings, parameters)


def _faiss(x_ND: Floats, spec: str, settings: tuple[Any, ...], parameters: Callable[[Any], Any]) -> Built:
    import faiss

    index = faiss.index_factory(x_ND.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efConstruction = 200
    index.train(x_ND[:: max(1, len(x_ND) // 100_000)])
    index.add(x_ND)

    def search(query_BD: Floats, k: int, setting: Any) -> Positions:
        positions: Positions = index.search(query_BD, k, params=parameters(setting))[1]
        return positions

    return Built(search, settings)


def hnsw_lib(x_ND: Floats, threads: int) -> Built:
    """Build hnswlib, M=32, efConstruction=200."""
    index = _hnswlib(x_ND, threads)

    def search(query_BD: Floats, k: int, ef: int) -> Positions:
        index.set_ef(ef)
        return index.knn_query(query_BD, k=k, num_threads=threads)[0].astype(np.int64)

    return Built(search, (64, 128, 256, 512, 1024))


def two_stage(x_ND: Floats, threads: int) -> Built:
    """As done by hand on a vector database: HNSW over a half-width prefix, then the client ranks by full vectors."""
    dims = x_ND.shape[1] // 2
    index = _hnswlib(cut(x_ND, dims), threads)

    def search(query_BD: Floats, k: int, setting: tuple[int, int]) -> Positions:
        ef, keep = setting
        index.set_ef(max(ef, keep))
        near_BK = index.knn_query(cut(query_BD, dims), k=keep, num_threads=threads)[0].astype(np.int64)
        scores_BK = np.stack([x_ND[near] @ query for near, query in zip(near_BK, query_BD, strict=True)])
        return np.take_along_axis(near_BK, np.argsort(-scores_BK, axis=1)[:, :k], 1)

    return Built(search, ((100, 100), (200, 100), (300, 300), (600, 300), (1000, 1000)))


def _hnswlib(x_NM: Floats, threads: int) -> Any:
    import hnswlib

    index = hnswlib.Index("ip", x_NM.shape[1])
    index.init_index(len(x_NM), M=32, ef_construction=200)
    index.add_items(x_NM, num_threads=threads)
    return index


def usearch_i8(x_ND: Floats, threads: int) -> Built:
    """Build usearch over int8 vectors, connectivity 32."""
    return _usearch(x_ND, threads, "i8")


def usearch_f16(x_ND: Floats, threads: int) -> Built:
    """Build usearch over half-precision vectors, connectivity 32."""
    return _usearch(x_ND, threads, "f16")


def _usearch(x_ND: Floats, threads: int, dtype: str) -> Built:
    from usearch.index import Index

    index = Index(ndim=x_ND.shape[1], metric="cos", dtype=dtype, connectivity=32, expansion_add=200)
    index.add(np.arange(len(x_ND)), x_ND, threads=threads)

    def search(query_BD: Floats, k: int, expansion: int) -> Positions:
        index.expansion_search = expansion
        keys = index.search(query_BD, k, threads=threads).keys
        return np.asarray(keys).astype(np.int64).reshape(len(query_BD), -1)

    return Built(search, (64, 128, 256, 512, 1024))


def lancedb_ivf_pq(x_ND: Floats, threads: int) -> Built:
    """LanceDB IVF_PQ with refine, on disk."""
    settings = tuple((probes, refine) for probes in (16, 64, 256) for refine in (10, 50))
    return _lancedb(x_ND, settings, lambda lists, d: ("IVF_PQ", {"num_sub_vectors": d // 8, "num_partitions": lists}))


def lancedb_hnsw_sq(x_ND: Floats, threads: int) -> Built:
    """LanceDB IVF_HNSW_SQ with refine, on disk."""
    settings = tuple((probes, refine) for probes in (1, 4, 16) for refine in (2, 10))
    return _lancedb(x_ND, settings, lambda lists, d: ("IVF_HNSW_SQ", {"num_partitions": max(1, lists // 64)}))


def _lancedb(x_ND: Floats, settings: tuple[Any, ...], index: Callable[[int, int], tuple[str, dict[str, int]]]) -> Built:
    import lancedb

    folder = tempfile.mkdtemp(prefix="bench-lancedb-")
    rows = pa.table({"id": np.arange(len(x_ND)), "vector": to_arrow(x_ND)})
    table = lancedb.connect(folder).create_table("t", rows)
    kind, options = index(1 << round(np.log2(2 * len(x_ND) ** 0.5)), x_ND.shape[1])
    table.create_index(metric="cosine", vector_column_name="vector", index_type=kind, **options)

    def search(query_BD: Floats, k: int, setting: tuple[int, int]) -> Positions:
        probes, refine = setting
        out_BK = np.full((len(query_BD), k), -1, np.int64)
        for row, query in enumerate(query_BD):
            asked = table.search(query).distance_type("cosine").nprobes(probes).refine_factor(refine)
            found = asked.limit(k).select(["id"]).to_arrow()["id"].to_numpy()
            out_BK[row, : len(found)] = found
        return out_BK

    return Built(search, settings, disk_bytes=folder_bytes(folder))


def folder_bytes(folder: str | Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def remove_leftovers() -> None:
    """Delete what the on-disk peers of this process wrote."""
    for path in Path(tempfile.gettempdir()).glob("bench-lancedb-*"):
        if path.stat().st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)


PEERS: dict[str, Callable[[Floats, int], Built]] = {
    "torch-f32": torch_f32,
    "torch-bf16": torch_bf16,
    "faiss-flat": faiss_flat,
    "faiss-ivfpq-refine": faiss_ivfpq,
    "hnswlib": hnsw_lib,
    "two-stage-client": two_stage,
    "faiss-hnsw": faiss_hnsw,
    "usearch-i8": usearch_i8,
    "usearch-f16": usearch_f16,
    "lancedb-ivf-pq": lancedb_ivf_pq,
    "lancedb-hnsw-sq": lancedb_hnsw_sq,
}
EXACT = ("torch-f32", "torch-bf16", "faiss-flat")
SLOW_TO_BUILD = ("hnswlib", "two-stage-client", "faiss-hnsw", "usearch-i8", "usearch-f16", "lancedb-hnsw-sq")
