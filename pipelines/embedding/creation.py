"""Create the table that a plan lacks, and before it the rotation of its space.

Owns no fitting: the function that fits is passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.embedding.column_plan import apply_columns, source_of
from pipelines.embedding.plan import EmbedPlan, make_plan
from pipelines.encoders.checkpoints import read_split
from pipelines.encoders.model_files import local_path
from pipelines.storage.addresses import absolute
from pipelines.tables.create import create_table
from pipelines.tables.rotations import save_rotation
from pipelines.tables.splits import record_split
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import Rotation
from schemas.config import EmbedConfig
from schemas.errors import TableExists
from schemas.printable import counted
from schemas.records import Shard

_SAY_EVERY_S = 10.0
Tell = Callable[[int], None]
"""Takes the number of samples that are encoded so far."""


def create_table_for(
    config: EmbedConfig,
    plan: EmbedPlan,
    fit: Callable[[tuple[Shard, ...], Tell], Rotation],
    say: Callable[[str], object],
) -> VectorTable:
    """Create the table of a plan, and before it the rotation of its space.

    Where another run creates the table first, that one is opened.

    Args:
        config: The job.
        plan: Made by `make_plan`; its `table` is None.
        fit: Fits the rotation on samples of shards; called only where the config asks for a rotation.
        say: Told that a rotation is fitted.
    """
    space = plan.space
    if config.rotation.kind == "pca":
        say(f"fitting a rotation on up to {config.rotation.sample_rows:,} samples")
        rotation = fit(tuple(plan.shards), _say_now_and_then(say))
        save_rotation(rotation, absolute(config.table), config.storage)
        space = space.model_copy(update={"rotation": rotation.fingerprint, "ladder": rotation.ladder})
    try:
        created = create_table(config.table, space, plan.columns.kept, config.storage, source=source_of(config))
    except TableExists:
        again = make_plan(config)
        if again.table is None:
            raise
        return apply_columns(again.table, again.columns)
    is_head = space.encoder == "matryoshka-head" and config.encoder.path is not None
    return record_split(created, read_split(local_path(config.encoder.path or ""))) if is_head else created


def _say_now_and_then(say: Callable[[str], object]) -> Tell:
    """Return a function that says how many samples of a rotation are encoded, at most every ten seconds."""
    said_at = time.monotonic()

    def tell(rows: int) -> None:
        nonlocal said_at
        if time.monotonic() >= said_at + _SAY_EVERY_S:
            said_at = time.monotonic()
            say(f"fitting a rotation: encoded {counted(rows, 'sample')}")

    return tell
