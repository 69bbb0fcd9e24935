"""Make what a funnel consists of: a tuned plan, with its codebook, and the stages at one version of the table.

Owns no search. Shapes: N rows of the table, B rows of a block, D full width, Q queries.
"""

from __future__ import annotations

import numpy as np

from pipelines.funnel.codebooks import load_codebook, save_codebook
from pipelines.funnel.goal import Goal
from pipelines.funnel.lake import LakeIndex
from pipelines.funnel.memory import MemoryIndex
from pipelines.funnel.slices import FaissSlices, empty_stores
from pipelines.funnel.stage_index import Fill
from pipelines.funnel.torch_stages import TorchStages
from pipelines.funnel.trials import TableVectors
from pipelines.funnel.tuner import tune_in_lake, tune_in_memory
from pipelines.storage.device import pick_device
from pipelines.tables.commits import remove_config, update_config
from pipelines.tables.fingerprinted import check_fingerprinted
from pipelines.tables.rows import ROW_ID, row_ids, scan_vectors
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats
from schemas.cards import TunedFunnel
from schemas.errors import RunExpired
from schemas.plans import FUNNEL_KEY, Home, Plan

FunnelIndex = MemoryIndex | LakeIndex


def tune(table: VectorTable, goal: Goal, query_QD: Floats | None, plan: Plan | None, home: Home) -> TunedFunnel:
    """Tune for a home. In memory, vectors are read once, and the codebook is written beside the table."""
    if home == "lake":
        return tune_in_lake(table.dataset, goal, query_QD, plan)
    ids, blocks = [np.empty(0, np.int64)], [np.empty((0, table.space.ladder.width), np.float16)]
    for batch, block_BD in scan_vectors(table.dataset, [ROW_ID]):
        ids.append(row_ids(batch))
        blocks.append(block_BD)
    vectors = TableVectors(table.dataset, np.concatenate(ids), np.concatenate(blocks), table.space.ladder.dims, home)
    tuned, empty = tune_in_memory(vectors, goal, query_QD, plan)
    name = save_codebook(empty, table.uri, table.storage)
    return tuned.model_copy(update={"plan": tuned.plan.model_copy(update={"codebook": name})})


def store_funnel(table: VectorTable, tuned: TunedFunnel) -> None:
    """Store a plan and its card with the table, in place of those of its home.

    Raises:
        RunExpired: `mlake clean` has given up the codebook meanwhile; then nothing is stored for that home.
    """
    key = FUNNEL_KEY + tuned.plan.home
    update_config(table.uri, {key: tuned.to_json()}, table.storage)
    if tuned.plan.codebook:
        try:
            check_fingerprinted(tuned.plan.codebook, table.refresh().dataset, table)
        except RunExpired:
            remove_config(table.uri, (key,), table.storage)
            raise


def open_index(table: VectorTable, plan: Plan, device: str | None) -> FunnelIndex:
    """Open the stages of a plan at the table's version: in the lake, or filled in RAM or on a device."""
    if plan.home == "lake":
        return LakeIndex(table.dataset, plan)
    return MemoryIndex(table.dataset, plan, filler(table, plan, device))


def follow_table(index: FunnelIndex, table: VectorTable) -> None:
    """Bring an index to the newest version of its table.

    Raises:
        SpaceMismatch: The vectors are of another space by now; a funnel is to be opened, or built, for them.
    """
    if table.dataset.latest_version != index.dataset.version:
        newest = table.refresh()
        newest.check_space(table.space)
        index.refresh(newest.dataset)


def filler(table: VectorTable, plan: Plan, device: str | None = None) -> Fill:
    """Return the function that fills a plan's stages: with torch on a device, or with FAISS on the CPU."""
    if device is not None:
        chosen = pick_device(device)
        return lambda blocks, rows: TorchStages(plan, blocks, rows, chosen)
    codebook, width = load_codebook(plan, table), plan.stages[-1].dims
    return lambda blocks, rows: FaissSlices.build(
        codebook, blocks, rows, empty_stores(rows, width) if plan.home == "memory" else None
    )
