"""`mlake rotate TABLE`: rotate the vectors of a table so that their prefixes can be searched.

The rotation is fitted by one exact pass over all vectors and applied to them in place; nothing is encoded again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter

from cluster.actors import ActorPool
from cluster.placement import plan_pool
from cluster.session import connect
from jobs.options import DryRun, Flag, Storage, TableAddress
from pipelines.evaluation.rotated_recall import Rotated, rotated_recall
from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line
from pipelines.reports.plans import print_rotate_plan
from pipelines.reports.terminal import print_rotated
from pipelines.tables.rotate import RotatePart, Rotator, check_rotatable, commit_rotation, rotate_parts
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import ClusterConfig, StorageConfig
from schemas.printable import counted

_SAY_EVERY_S = 10.0


def main(
    address: TableAddress,
    /,
    *,
    even_if_trained: Flag = False,
    dry_run: DryRun = False,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    storage: Storage = StorageConfig(),
) -> int:
    """Rotate a table's vectors so that their prefixes can be searched; nothing is encoded again.

    For encoders that are not Matryoshka-trained. Prints the recall of each dim before and after. Prefix columns,
    funnels, and indexes over vectors are dropped, since they were made from the vectors before.

    Args:
        even_if_trained: Rotate although the encoder is Matryoshka-trained. A rotation then helps some tasks and harms
            others: compare first, by `mlake evaluate` with the baseline `pca`.
        as_json: Print the recall of each dim before and after as one JSON object.
    """
    if dry_run:
        table = VectorTable.open(address, storage=storage)
        check_rotatable(table, even_if_trained=even_if_trained)
        print_rotate_plan(table, open_console())
        return 0
    rotated = run(address, storage, even_if_trained=even_if_trained)
    if as_json:
        measured = {"dims": rotated.dims, "recall_before": rotated.before, "recall_after": rotated.after}
        print(json_line({"table": rotated.table.uri, "version": rotated.table.dataset.version} | measured))
    else:
        print_rotated(rotated, open_console())
    return 0


def run(uri: str, storage: StorageConfig = StorageConfig(), *, even_if_trained: bool = False) -> Rotated:
    """Rotate a table.

    Args:
        uri: Address of the table.
        storage: Where S3 is.
        even_if_trained: Rotate although the encoder is Matryoshka-trained.

    Raises:
        TableError: The table must not be rotated, or it changed meanwhile.
        RunError: Some fragments could not be rotated; the table is unchanged.

    Example:
        >>> rotate("lake/photos.lance")  # doctest: +SKIP
    """
    table = VectorTable.open(uri, storage=storage)
    check_rotatable(table, even_if_trained=even_if_trained)
    with connect(), RunRecord(table, "rotate", storage) as record:
        size = plan_pool(ClusterConfig(gpus_per_actor=0.0))
        make_rotator = partial(Rotator, table.uri, table.dataset.version, storage)
        with ActorPool[RotatePart, Any](make_rotator, size) as pool:
            rotation, fragments = rotate_parts(table, pool, _teller(len(table)))
        before, after = rotated_recall(table, rotation)
        rotated = commit_rotation(table, rotation, fragments)
        record.summary |= {"fragments": len(fragments), "rotation": rotation.fingerprint}
    return Rotated(rotated, rotated.space.ladder.dims, before, after)


def _teller(rows: int) -> Callable[[str, int], None]:
    """Return a function that says how many rows are done, at most every ten seconds."""
    console, said_at = open_console(is_error=True), time.monotonic()

    def tell(step: str, done: int) -> None:
        nonlocal said_at
        if time.monotonic() >= said_at + _SAY_EVERY_S:
            said_at = time.monotonic()
            console.print(f"{step}: {min(done, rows):,} of {counted(rows, 'row')}")

    return tell
