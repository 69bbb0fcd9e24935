"""`python -m jobs rotate TABLE`: give a table of an encoder that is not Matryoshka-trained an honest ladder.

The rotation is fitted by one exact pass over all vectors, and applied to them where they lie; nothing is encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.actors import ActorPool
from cluster.session import connect, plan_pool
from jobs.options import Storage, TableAddress
from pipelines.evaluation import recall_by_dim
from pipelines.tables.rotate import check_rotatable, land_rotation, moments_of, rotate_fragments
from pipelines.tables.rotations import save_rotation
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.rotation import Moments, Rotation
from schemas.columns import VECTOR
from schemas.config import ClusterConfig, StorageConfig
from schemas.errors import RunError

_PARTS_PER_ACTOR = 4
_MOST_TRIES = 3
_JUDGED_ROWS, _JUDGED_QUERIES = 20_000, 500


@dataclass(frozen=True)
class Part:
    """Fragments that one actor does in one go: their moments, or, once the rotation is known, their rotation."""

    fragment_ids: tuple[int, ...]
    rotation: str | None = None
    tries: int = 1


@dataclass(frozen=True)
class Rotated:
    """What the job did.

    Attributes:
        table: As it is now.
        dims: The ladder it has now.
        before: Recall@10 of the raw prefixes, by dim: what the full vectors find is the truth.
        after: The same for the rotated ones.
    """

    table: VectorTable
    dims: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


class Rotator:
    """Works through parts, in an actor."""

    def __init__(self, uri: str, version: int, storage: StorageConfig) -> None:
        """Open the table at the version that is being rotated."""
        self._table = VectorTable.open(uri, version, storage)
        self._fragments = 0

    def run(self, part: Part) -> Moments | tuple[str, ...]:
        """Return the moments of a part, or its rotated fragments."""
        if part.rotation is None:
            return moments_of(self._table, part.fragment_ids)
        written = rotate_fragments(self._table, part.fragment_ids, part.rotation)
        self._fragments += len(written)
        return written

    def progress(self) -> dict[str, int]:
        """Return the fragments written."""
        return {"fragments": self._fragments}


def main(address: TableAddress, /, *, storage: Storage = StorageConfig()) -> int:
    """Rotate a table's vectors so that their prefixes can be searched; nothing is encoded again.

    For encoders that are not Matryoshka-trained. Prints the recall of each dim before and after.
    """
    done = run(address, storage)
    grid = Table("dims", "recall@10 before", "after", title=f"{done.table.uri}, version {done.table.dataset.version}")
    for dim, before, after in zip(done.dims, done.before, done.after, strict=True):
        grid.add_row(str(dim), f"{before:.3f}", f"{after:.3f}")
    console = Console()
    console.print(grid)
    console.print(f"the ladder is now {done.table.space.ladder}; later `jobs embed` runs need --set rotation.kind=pca")
    return 0


def run(uri: str, storage: StorageConfig = StorageConfig()) -> Rotated:
    """Rotate a table.

    Raises:
        TableError: It must not be rotated, or it changed meanwhile.
        RunError: A part failed again and again.
    """
    table = VectorTable.open(uri, storage=storage)
    check_rotatable(table)
    with connect():
        pool = plan_pool(ClusterConfig(gpus_per_actor=0.0))
        ids = [fragment.fragment_id for fragment in table.dataset.get_fragments()]
        size = -(-len(ids) // (_PARTS_PER_ACTOR * pool.actors))
        parts = [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]
        make = partial(Rotator, table.uri, table.dataset.version, storage)
        with ActorPool(make, pool) as actors:
            first, *others = _results(actors, [Part(part) for part in parts])
            rotation = sum(others, first).rotation()
            save_rotation(rotation, table.uri, storage)
            written = _results(actors, [Part(part, rotation.fingerprint) for part in parts])
            fragments = [text for texts in written for text in texts]
    before, after = _recall(table, rotation)
    landed = land_rotation(table, rotation, fragments)
    return Rotated(landed, landed.space.ladder.dims, before, after)


def _results(actors: ActorPool[Part, Any], parts: Sequence[Part]) -> Iterator[Any]:
    """Yield every part's result; a part whose actor died is done again, alone."""
    for outcome in actors.run(parts):
        if outcome is None:
            continue
        if outcome.error is None:
            yield outcome.result
        elif outcome.died and outcome.item.tries < _MOST_TRIES:
            again = Part(outcome.item.fragment_ids, outcome.item.rotation, outcome.item.tries + 1)
            actors.push(again, alone=True)
        else:
            raise RunError(
                f"fragments {outcome.item.fragment_ids} could not be rotated: {outcome.error}; the table is as it was"
            ) from outcome.error


def _recall(table: VectorTable, rotation: Rotation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure the raw and the rotated prefixes on a sample of the table."""
    rows = table.dataset.sample(min(_JUDGED_ROWS, table.dataset.count_rows()), columns=[VECTOR])
    raw_ND = to_numpy(rows[VECTOR]).astype(np.float32)
    turned_ND, dims = rotation.apply(raw_ND), rotation.ladder.dims
    some = slice(None, _JUDGED_QUERIES)
    before, after = (recall_by_dim(x_ND, x_ND[some], dims, skip_self=True) for x_ND in (raw_ND, turned_ND))
    return tuple(before), tuple(after)
