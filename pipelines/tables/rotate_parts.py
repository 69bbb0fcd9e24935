"""Rotate a table with a pool of workers, each a few fragments at a time.

Owns how a table is cut into parts, and the order of the two passes: the moments of all vectors, then the rotation of
each. What happens to one fragment, and the commit, are in `rotations.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.tables.rotations import moments_of, rotate_fragments, save_rotation
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import Moments, Rotation
from schemas.config import StorageConfig
from schemas.errors import RunError
from schemas.work import RetryPolicy, WorkPool

_PARTS_PER_ACTOR = 4


@dataclass(frozen=True)
class RotatePart:
    """Some fragments of a table.

    Attributes:
        fragment_ids: The fragments.
        rotation: Fingerprint of the rotation to apply; None asks for the moments that it is fitted on.
    """

    fragment_ids: tuple[int, ...]
    rotation: str | None = None


class Rotator:
    """Works on the parts of one table. Lives in an actor."""

    def __init__(self, uri: str, version: int, storage: StorageConfig) -> None:
        """Open the table at the version that is rotated."""
        self._table = VectorTable.open(uri, version, storage)
        self._fragments = 0

    def run(self, part: RotatePart) -> Moments | tuple[str, ...]:
        """Return the moments of a part, or the JSON of its rotated fragments."""
        if part.rotation is None:
            return moments_of(self._table, part.fragment_ids)
        written = rotate_fragments(self._table, part.fragment_ids, part.rotation)
        self._fragments += len(written)
        return written

    def progress(self) -> dict[str, int]:
        """Return the fragments written."""
        return {"fragments": self._fragments}


def rotate_parts(table: VectorTable, pool: WorkPool[RotatePart, Any]) -> tuple[Rotation, list[str]]:
    """Fit a rotation on all vectors of a table, store it beside the table, and write the vectors rotated.

    Args:
        table: It has rows.
        pool: Actors that each hold a `Rotator` of this table and version.

    Returns:
        The rotation, and the JSON of the rotated fragments, which are not yet visible.

    Raises:
        RunError: A part failed; the table is unchanged.
    """
    ids = [fragment.fragment_id for fragment in table.dataset.get_fragments()]
    size = -(-len(ids) // (_PARTS_PER_ACTOR * pool.actors))
    parts = [RotatePart(tuple(ids[start : start + size])) for start in range(0, len(ids), size)]
    first, *others = _results(pool, parts)
    rotation = sum(others, first).rotation()
    save_rotation(rotation, table.uri, table.storage)
    written = _results(pool, [replace(part, rotation=rotation.fingerprint) for part in parts])
    return rotation, [fragment for fragments in written for fragment in fragments]


def _results(pool: WorkPool[RotatePart, Any], parts: Sequence[RotatePart]) -> Iterator[Any]:
    """Yield the result of every part; only the death of an actor is worth another try."""
    for outcome in pool.run(parts, RetryPolicy[RotatePart](is_final=lambda error: True)):
        if outcome is None:
            continue
        if outcome.error is not None:
            raise RunError(
                f"fragments {outcome.item.fragment_ids} could not be rotated: {outcome.error}; the table is unchanged"
            ) from outcome.error
        yield outcome.result
