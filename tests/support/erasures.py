"""What tests of erasure share: the row that is erased, where its bytes are, and shortlists that name it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.__main__ import main
from pipelines.shortlist.lists import commit_lists, search_task
from pipelines.shortlist.planning import plan_lists
from pipelines.storage.addresses import sibling
from pipelines.tables.opening import open_dataset
from pipelines.tables.table import VectorTable
from pipelines.vectors.matryoshka import cut
from schemas.config import PrefixIndexConfig, ShortlistConfig, StorageConfig
from schemas.records import Shard
from tests.support.small_tables import a_shard, ids_of, vectors_of

LOCAL = StorageConfig()
A, B = a_shard("a"), a_shard("b")
GONE = ids_of(A, 5)[3]
WHERE = f"id = '{GONE}'"
INDEX = PrefixIndexConfig(type="IVF_FLAT", partitions=1)


def search(table: VectorTable) -> dict[str, list[str]]:
    """Bring the lists of the nearest rows up to date, and return them."""
    config = ShortlistConfig.model_validate({"table": table.uri, "lists": {"k": 3, "dims": [8, 32]}})
    if (plan := plan_lists(config)) is not None:
        for task in plan.todo():
            search_task(plan.spec, plan.uri, plan.config, task)
        commit_lists(plan)
    return lists_of(table)


def lists_of(table: VectorTable) -> dict[str, list[str]]:
    rows = open_dataset(sibling(table.uri, "shortlist"), LOCAL).to_table().sort_by([("dim", "ascending")]).to_pylist()
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["query_id"], []).append(row["id"])
    return found


def places(folder: Path, shard: Shard = A, positions: Sequence[int] = (3,)) -> set[str]:
    """Name the files below a folder that hold one of the rows: its vector, its prefix, or its id."""
    vectors_BD = vectors_of(shard, 5)[list(positions)]
    prefixes_BD = cut(vectors_BD.astype(np.float32), 8).astype(np.float16)
    marks = [row.tobytes() for row in (*vectors_BD, *prefixes_BD)]
    marks += [ids_of(shard, 5)[position].encode() for position in positions]
    return {str(path) for path in folder.rglob("*") if path.is_file() and any(m in path.read_bytes() for m in marks)}


def delete(table: VectorTable, capsys: pytest.CaptureFixture[str], *words: str, where: str = WHERE) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["delete", table.uri, "--where", where, "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found
