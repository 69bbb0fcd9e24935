from __future__ import annotations

import shutil
import warnings

import faiss
import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.funnel import Funnel
from pipelines.funnel.codebooks import load_codebook, save_codebook
from pipelines.funnel.faiss_stages import search_stages, train_stages
from pipelines.storage.addresses import sibling
from pipelines.tables.table import VectorTable
from pipelines.vectors.matryoshka import unit
from schemas.columns import CODEBOOK, FIRST_CODEBOOK
from schemas.errors import FunnelWarning, LakeError, TableError
from schemas.plans import FunnelStage, Plan
from tests.support.funnel_tables import GOAL, ROWS, WIDTH, ids, recall_at_10, vectors

LAST = FunnelStage(dims=WIDTH, precision="float16", keep=10)
FIRSTS = [
    FunnelStage(dims=32, precision="pq4", codes=16, keep=20),
    FunnelStage(dims=WIDTH, precision="bit1", keep=20),
    FunnelStage(dims=32, precision="int8", keep=20),
    FunnelStage(dims=32, precision="float16", keep=20),
    FunnelStage(dims=32, precision="float32", keep=20),
]


def rewrite(uri: str, parts: list[str], numbers: list[object]) -> None:
    """Put other rows in the place of a codebook's."""
    lance.write_dataset(pa.table({"part": parts, "numbers": numbers}, schema=CODEBOOK), uri, mode="overwrite")


@pytest.mark.parametrize("lists", [0, 16])
@pytest.mark.parametrize("first", FIRSTS, ids=lambda stage: stage.precision)
def test_a_codebook_is_read_back_as_it_was_written(table: VectorTable, first: FunnelStage, lists: int) -> None:
    x_ND, query_BD = vectors(ROWS).astype(np.float32), unit(vectors(5, seed=5).astype(np.float32))
    middle = FunnelStage(dims=WIDTH, precision="int8", keep=20)
    plan = Plan(stages=(first, middle, LAST), lists=lists, probes=lists // 2)
    empty = train_stages(plan, x_ND)
    name = save_codebook(empty, table.uri, table.storage)
    assert save_codebook(empty, table.uri, table.storage) == name
    again = load_codebook(plan.model_copy(update={"codebook": name}), table)
    for one, other in zip(empty, again, strict=True):
        found = []
        for stage in (one, other):
            stage.add(x_ND)
            own = plan if stage.index.ntotal and one is empty[0] else plan.model_copy(update={"lists": 0})
            found.append(search_stages(stage, own, query_BD, [20]))
        assert (found[0][0] == found[1][0]).all()
        assert (found[0][1] == found[1][1]).all()


def test_a_codebook_of_another_plan_is_refused(table: VectorTable) -> None:
    plan = Funnel.stored(table, "memory").plan
    wider = plan.stages[0].model_copy(update={"codes": plan.stages[0].codes // 2})
    with pytest.raises(TableError, match="of another plan; tune the funnel again"):
        load_codebook(plan.model_copy(update={"stages": (wider, *plan.stages[1:])}), table)
    with pytest.raises(TableError, match="names no codebook; tune the funnel again"):
        load_codebook(plan.model_copy(update={"codebook": ""}), table)
    shutil.rmtree(sibling(table.uri, plan.codebook))
    with pytest.raises(TableError, match=rf"the codebook of the funnel of {table.uri} is not beside it"):
        Funnel.open(table)


def test_a_mutated_codebook_is_refused_and_never_crashes(table: VectorTable) -> None:
    plan = Funnel.stored(table, "memory").plan
    uri, rng = sibling(table.uri, plan.codebook), np.random.default_rng(3)
    sound = lance.dataset(uri).to_table()
    parts, numbers = sound["part"].to_pylist(), sound["numbers"].to_pylist()
    for _ in range(60):
        names, values = list(parts), [list(x) for x in numbers]
        place = int(rng.integers(len(values)))
        match int(rng.integers(7)):
            case 0:
                values[place] = values[place][: int(rng.integers(len(values[place])))]
            case 1:
                values[place] *= 2
            case 2:
                values[place][int(rng.integers(len(values[place])))] = rng.choice([np.nan, np.inf, 3e38, 1e-45, 0.125])
            case 3:
                names[place] = str(rng.choice(["", "9.centroids", "0.lists", "../x", "0"]))
            case 4:
                names, values = names * 2, values * 2
            case 5:
                values[place] = None  # type: ignore[call-overload]
            case 6:
                names, values = [], []
        rewrite(uri, names, values)  # type: ignore[arg-type]
        with pytest.raises(LakeError):
            load_codebook(plan, table)
    rewrite(uri, parts, numbers)
    assert load_codebook(plan, table)


@pytest.mark.parametrize("content", [b"", b"no index", b"IxF2" + bytes(80), None])
def test_bytes_of_the_first_release_are_not_read_but_trained_anew(table: VectorTable, content: bytes | None) -> None:
    plan, query_BD = Funnel.stored(table, "memory").plan, unit(vectors(200, seed=5).astype(np.float32))
    exact = np.argsort(-(query_BD @ unit(vectors(ROWS).astype(np.float32)).T))[:, :10]
    uri = sibling(table.uri, plan.codebook)
    if content is None:
        content = faiss.serialize_index(load_codebook(plan, table)[0]).tobytes()
    shutil.rmtree(uri)
    lance.write_dataset(pa.table({"stage": [content]}, schema=FIRST_CODEBOOK), uri)
    with pytest.warns(FunnelWarning, match=r"is of the first release, and is trained anew .* run: mlake funnel"):
        funnel = Funnel.open(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ids(funnel.search(query_BD, k=10))
    rows_BK = np.array([int(name[1:]) for name in found]).reshape(len(query_BD), 10)
    assert recall_at_10(rows_BK, exact) >= GOAL.recall - 0.05
