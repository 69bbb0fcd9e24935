"""Keep the results of a shortlist run until they are merged: the folder `<lists>.parts.lance`.

Each task writes one piece under its own name, whole or not at all. So the names are the ledger, and a task that runs
twice changes nothing. The run's plan is in the same folder, so that a killed run can be resumed.

Shapes: Q queries, K ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from lance.file import LanceFileSession

from pipelines.shortlist.exact import Best
from pipelines.storage.addresses import sibling
from pipelines.storage.s3 import lance_access
from schemas.config import StorageConfig
from schemas.shortlists import PIECE, PIECES_PLAN, ShortlistSpec, check_pieces

_PLAN = "begun.lance"


class Pieces:
    """Reads and writes the folder.

    Columns of a piece: `query` (position of the query in its table), `dim`, `id`, `score`.
    """

    def __init__(self, lists_uri: str, storage: StorageConfig) -> None:
        """Open the folder of a shortlist table; the first write creates it."""
        self._uri = sibling(lists_uri, "parts")
        self._folder = LanceFileSession(self._uri, **lance_access(self._uri, storage))

    def finished(self) -> set[str]:
        """Return the names of all finished pieces."""
        return set(self._folder.list()) - {_PLAN}

    def write(self, name: str, queries: Sequence[int], best: Mapping[int, Best]) -> None:
        """Write a piece, or replace it with an equal one.

        Args:
            name: Name of the task's file.
            queries: Position of each query in its table, Q.
            best: Best rows of these queries, by dim.
        """
        self._write(name, [_to_rows(queries, dim, found) for dim, found in best.items()], PIECE)

    def read(self, name: str) -> pa.Table:
        """Read a piece."""
        return self._folder.open_reader(name).read_all(batch_size=1 << 16).to_table()

    def save_plan(self, spec: ShortlistSpec, memory_bytes: int) -> None:
        """Write a run's plan: what the lists will hold, and the memory budget, which decides the size of blocks."""
        row = {"spec": spec.to_json(), "memory_bytes": memory_bytes}
        self._write(_PLAN, [pa.RecordBatch.from_pylist([row], PIECES_PLAN)], PIECES_PLAN)

    def load_plan(self) -> tuple[ShortlistSpec, int] | None:
        """Return the plan of an unfinished run; None if there is none."""
        if not self._folder.contains(_PLAN):
            return None
        plan = self.read(_PLAN)
        check_pieces(plan, self._uri)
        (row,) = plan.to_pylist()
        return ShortlistSpec.from_json(row["spec"], self._uri), row["memory_bytes"]

    def clear(self) -> None:
        """Delete everything, the plan last, because pieces mean nothing without it."""
        for name in sorted(self._folder.list(), key=lambda name: name == _PLAN):
            self._folder.delete_file(name)

    def _write(self, name: str, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
        with self._folder.open_writer(name, schema=schema) as writer:
            for batch in batches:
                writer.write_batch(batch)


def _to_rows(queries: Sequence[int], dim: int, best: Best) -> pa.RecordBatch:
    query, rank = np.nonzero(np.isfinite(best.scores_QK))
    k = best.scores_QK.shape[1]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.asarray(queries, np.int64)[query]),
            pa.array(np.full(len(query), dim, np.int32)),
            best.ids.cast(pa.string()).take(pa.array(query * k + rank)),
            pa.array(best.scores_QK[query, rank]),
        ],
        schema=PIECE,
    )
